"""Oracles and toy data for the tests; nothing here uses the code under test.

The package is only imported by name, through mmengine's registries.
"""

import numpy as np
import torch
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import DATASETS, METRICS
from mmpretrain.structures import DataSample
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import Dataset

PAD_MODES = dict(zeros='constant', reflect='reflect', replicate='edge', circular='wrap')

TINY_BACKBONE = dict(
    type='ConfigurableMobileOne',
    arch=dict(num_blocks=(1, 2), width_factor=1.0),
    num_conv_branches=2,
    base_channels=(8, 16),
    stem_stride=1,
)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomize_norms(module, seed=0):
    """Random affine parameters and statistics; fresh norms hide bugs."""
    rng = generator(seed)

    def uniform(like, low, high):
        noise = torch.rand(like.shape, generator=rng, dtype=torch.float64)
        like.data.copy_(low + (high - low) * noise)

    for norm in module.modules():
        if isinstance(norm, _BatchNorm):
            uniform(norm.running_mean, -1, 1)
            uniform(norm.running_var, 0.3, 3)
            if norm.affine:
                uniform(norm.weight, 0.5, 1.5)
                uniform(norm.bias, -1, 1)
    return module


def flat(outputs):
    outputs = [outputs] if isinstance(outputs, torch.Tensor) else outputs
    return torch.cat([o.detach().double().reshape(-1) for o in outputs])


def relative_error(reference, candidate):
    a, b = flat(reference), flat(candidate)
    assert a.shape == b.shape
    scale = a.norm().item()
    return ((a - b).norm() / (scale if scale > 0 else 1)).item()


def assert_close(reference, candidate, tolerance):
    error = relative_error(reference, candidate)
    assert error <= tolerance, f'relative error {error:.3g}'


def id_of(value):
    """The same in every process: a function's text holds its address."""
    return getattr(value, '__name__', None) or str(value)


def next_value(values, towards):
    """The neighbour of each value; not all versions of torch have it."""
    if values.dtype == torch.float16:
        found = np.nextafter(values.detach().numpy(), np.float16(towards))
        return torch.from_numpy(found)
    return torch.nextafter(values, torch.full_like(values, towards))


def assert_same_state(reference, candidate):
    """Same keys, dtypes and bits."""
    assert reference.keys() == candidate.keys()
    for key, value in reference.items():
        other = candidate[key]
        assert value.dtype == other.dtype, key
        assert torch.equal(value, other), key


def numpy_conv(x, weight, stride, padding, dilation, groups, mode='zeros'):
    """Convolution of (N, C, H, W) by (O, C / groups, k, k), tap by tap."""
    pad = [(0, 0), (0, 0), (padding, padding), (padding, padding)]
    x = np.pad(x, pad, mode=PAD_MODES[mode])
    n, c, height, width = x.shape
    k = weight.shape[-1]
    rows = (height - dilation * (k - 1) - 1) // stride + 1
    cols = (width - dilation * (k - 1) - 1) // stride + 1
    x = x.reshape(n, groups, c // groups, height, width)
    weight = weight.reshape(groups, -1, *weight.shape[1:])
    out = 0
    for i in range(k):
        for j in range(k):
            top, left = i * dilation, j * dilation
            tap = x[
                ...,
                top : top + stride * (rows - 1) + 1 : stride,
                left : left + stride * (cols - 1) + 1 : stride,
            ]
            out = out + np.einsum('ngchw,goc->ngohw', tap, weight[..., i, j])
    return out.reshape(n, -1, rows, cols)


def numpy_norm(y, state, prefix, eps):
    """Batch norm in eval mode, from the formula in its paper."""

    def column(name, default):
        value = state.get(f'{prefix}.{name}')
        value = np.full(y.shape[1], default) if value is None else value
        return np.asarray(value).reshape(1, -1, 1, 1)

    scaled = (y - column('running_mean', 0)) / np.sqrt(column('running_var', 1) + eps)
    return scaled * column('weight', 1.0) + column('bias', 0.0)


def numpy_branches(state, x, spec, eps, mode='zeros'):
    """Sum of a unit's branches, from its state dict, in float64."""
    state = {k: v.double().numpy() for k, v in state.items()}
    pad = spec.dilation * (spec.kernel_size // 2)
    convs = {k.rsplit('.conv.', 1)[0] for k in state if '.conv.' in k}
    total = 0
    for branch in sorted(c for c in convs if not c.startswith('se')):
        size, hole = (pad, spec.dilation) if 'list' in branch else (0, 1)
        y = numpy_conv(
            x, state[f'{branch}.conv.weight'], spec.stride, size, hole, spec.groups, mode
        )
        total = total + numpy_norm(y, state, f'{branch}.norm', eps)
    if 'branch_norm.running_mean' in state:
        total = total + numpy_norm(x, state, 'branch_norm', eps)
    return torch.from_numpy(total)


@DATASETS.register_module(force=True)
class ToyImages(Dataset):
    """Noise of three brightnesses, the classes; uint8 (3, 16, 16).

    With ``mirrored`` an item has two views, for test-time augmentation.
    """

    METAINFO = dict(classes=('dark', 'grey', 'light'))
    metainfo = METAINFO

    def __init__(self, size=12, seed=0, mirrored=False):
        self.mirrored = mirrored
        rng = generator(seed)
        self.labels = [i % 3 for i in range(size)]
        self.images = [
            torch.randint(60 * y, 60 * y + 120, (3, 16, 16), generator=rng).to(torch.uint8)
            for y in self.labels
        ]

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, index):
        image = self.images[index]
        sample = DataSample(metainfo=dict(sample_idx=index))
        sample.set_gt_label(self.labels[index])
        if not self.mirrored:
            return dict(inputs=image, data_samples=sample)
        return dict(inputs=[image, image.flip(-1)], data_samples=[sample, sample.clone()])


@METRICS.register_module(force=True)
class MeanTopScore(BaseMetric):
    """A figure that moves with every weight, unlike accuracy."""

    def process(self, data_batch, data_samples):
        self.results += [s['pred_score'].max().item() for s in data_samples]

    def compute_metrics(self, results):
        return dict(score=float(np.mean(results)))


def classifier_cfg(type='DeployableClassifier', num_classes=3, **backbone):
    return dict(
        type=type,
        data_preprocessor=dict(type='ClsDataPreprocessor', mean=[100.0] * 3, std=[50.0] * 3),
        backbone={**TINY_BACKBONE, **backbone},
        neck=dict(type='GlobalAveragePooling'),
        head=dict(
            type='LinearClsHead',
            num_classes=num_classes,
            in_channels=16,
            loss=dict(type='CrossEntropyLoss'),
        ),
    )
