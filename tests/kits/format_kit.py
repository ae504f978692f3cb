"""Tiny networks, saved in every form of input and output."""

from __future__ import annotations

import copy

import torch
from export_kit import CLASSES, TINY, build, model_cfg

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.convert import convert_and_save
from mmpretrain_mobileone_ext.export.network import feature_preprocessing, prepare, prepare_features
from mmpretrain_mobileone_ext.export.options import ExportOptions

SIZE, OTHER = (32, 32), (48, 40)


def network(**backbone):
    """A classifier of three classes with two feature maps."""
    return build(model_cfg(dict(TINY, out_indices=(0, 1), **backbone)))


def convert(model, out, size=SIZE, order='BGR', **options):
    """Convert; returns the path."""
    options.setdefault('precision', 'fp32')
    asked = ExportOptions(out=out, image_size=size, **options)
    channels = next(model.parameters()).shape[1]
    pre = feature_preprocessing(model, channels, size, order)
    made = prepare_features if asked.outputs == 'features' else prepare
    convert_and_save(made(model, pre), pre, CLASSES, asked, asked.out)
    return asked.out


def load(model, out, **options):
    """Convert and read back from disk."""
    return load_program(convert(model, out, **options))


def pixels(count, size=SIZE, seed=0, channels=3):
    """Random pixels (N, C, H, W), uint8, in data order (BGR)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, channels, *size), generator=generator, dtype=torch.uint8)


@torch.no_grad()
def oracle(model, batch, features=False):
    """Outputs by name, fp64, of pixels in data order.

    Written out, without the preprocessing of model or package.
    """
    double = copy.deepcopy(model).double().eval()
    pre = model.data_preprocessor
    shift, scale = (v.double().view(1, -1, 1, 1) for v in (pre.mean, pre.std))
    x = (batch.flip(1).double() - shift) / scale
    maps = double.backbone(x)
    if features:
        return {f'feature_{i}': value for i, value in enumerate(maps)}
    scores = double.head.fc(maps[-1].mean((2, 3)))
    return {'classLabel_probs': torch.softmax(scores, 1)}


def error(found, wanted):
    """Largest relative error of any output."""
    assert set(wanted) <= set(found)
    return max(float((found[k].double() - v).norm() / v.norm()) for k, v in wanted.items())


@torch.no_grad()
def perturbed(model):
    """A copy with one weight of the first stage moved."""
    other = copy.deepcopy(model)
    conv = other.backbone.stage1[0].branch_conv_list[0].conv.weight
    conv.view(-1)[4] += 0.3
    return other
