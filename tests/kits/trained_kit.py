"""Small networks that were trained with integers, and the integers of files."""

from dataclasses import replace

import numpy as np
import torch
from export_kit import MEAN, STD, TINY, build, model_cfg
from mmengine.model import BaseModule
from mmpretrain.registry import MODELS
from torch import nn

from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.graph import Feature
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.runtime.load import ReferenceProgram
from mmpretrain_mobileone_ext.models import MobileOneBlock, switch_to_deploy
from mmpretrain_mobileone_ext.models import quantization as q
from mmpretrain_mobileone_ext.models.spec import UnitSpec

#: Bits of weights and of activations, and the size of a block.
FORMS = {'w8': (8, None), 'w4': (4, None, 8), 'w8a8': (8, 8), 'w4a8': (4, 8)}
TARGETS = {'w8': 'iOS16', 'w4': 'iOS18', 'w8a8': 'iOS17', 'w4a8': 'iOS18'}
SIZE = 32


@MODELS.register_module()
class UnitsOfAllKinds(BaseModule):
    """A stem, and units with SE, GELU, groups, stride, dilation and no activation."""

    def __init__(self):
        super().__init__()
        relu = dict(type='ReLU')
        self.units = nn.ModuleList(
            MobileOneBlock(spec)
            for spec in (
                UnitSpec('stem', 3, 8, 3, stride=2, num_conv_branches=1, act_cfg=relu),
                UnitSpec('depthwise', 8, 8, 3, groups=8, num_conv_branches=3, act_cfg=relu),
                UnitSpec('se', 8, 16, 1, num_conv_branches=2, act_cfg=relu, se_cfg=dict(ratio=4)),
                UnitSpec('grouped', 16, 24, 3, groups=2, num_conv_branches=2, act_cfg=None),
                UnitSpec('gelu', 24, 24, 1, num_conv_branches=2, act_cfg=dict(type='GELU')),
                UnitSpec('dilated', 24, 32, 3, dilation=2, num_conv_branches=2, act_cfg=relu),
            )
        )

    def forward(self, x):
        for unit in self.units:
            x = unit(x)
        return (x,)


ALL_KINDS = dict(type='UnitsOfAllKinds')


@torch.no_grad()
def quantized(form='w8', backbone=TINY, seed=0, **options):
    """A classifier, in eval mode, whose ranges and means have followed batches."""
    model = build(model_cfg(backbone, **options), seed)
    weights, activations, *block = FORMS.get(form, form)
    asked = dict(weights=weights, activations=activations, block_size=next(iter(block), None))
    _, left = q.add_quantizers(model, sensitive=4, **asked)
    assert not left
    for own in q.quantizers(model):
        own.phase = own.ON
    model.train()
    generator = torch.Generator().manual_seed(seed)
    for _ in range(3):
        model(torch.randn(8, 3, SIZE, SIZE, generator=generator))
    return model.eval()


def pixels(count=32, seed=5):
    """Blocks of color and noise, (N, 3, 32, 32), whole numbers 0 to 255 in network order."""
    rng = np.random.default_rng(seed)
    blocks = rng.integers(0, 256, (count, 3, 4, 4)).repeat(8, 2).repeat(8, 3)
    noise = rng.integers(-20, 21, blocks.shape)
    return torch.from_numpy(np.clip(blocks + noise, 0, 255)).float()


@torch.no_grad()
def logits(model, images):
    """Class scores by the network as it was trained; its preprocessing is written out."""
    shift, scale = (torch.tensor(v).view(1, -1, 1, 1) for v in (MEAN, STD))
    return model((images - shift) / scale, mode='tensor')


def trained_integers(model):
    """Integers and scales of all layers, in the order in which they run."""
    folded = switch_to_deploy(model, inplace=False)
    found = []
    for module in folded.modules():
        if isinstance(module, MobileOneBlock):
            found.append((module.branch_reparam.weight, module.quantizer.weight_grid))
        elif isinstance(module, q.QuantizedLinear):
            found.append((module.weight, module.quantizer.weight_grid))
    return [[t.numpy() for t in grid.integers(weight)] for weight, grid in found]


def stored_integers(path, symmetric=True):
    """The same of a package, as coremltools reads it, and their type in words."""
    quiet.coremltools()
    models = quiet.module('coremltools.models')
    load = quiet.module('coremltools.converters.mil.frontend.milproto.load').load
    model = models.MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    found = []
    for op in program.functions['main'].operations:
        if op.op_type == 'constexpr_affine_dequantize':
            assert not np.any(op.zero_point.val)
            found.append((op.quantized_data.val, op.scale.val, 'int8'))
        elif op.op_type == 'constexpr_blockwise_shift_scale':
            assert op.offset is None or not symmetric
            kind = quiet.module('coremltools.converters.mil.mil').types.builtin_to_string
            found.append((op.data.val, op.scale.val, kind(op.data.dtype)))
    return found


def layer_values(path, images, arithmetic):
    """What each convolution and linear layer of a file reads and gives, in execution order.

    With what is rounded to be its input, or None.
    """
    program = read_program(path)
    by_output = {op.outputs[0]: op for op in program.operations}
    names = []
    for op in program.operations:
        if op.type in ('conv', 'linear'):
            read = op.inputs['x'].name
            before = by_output.get(read)
            rounded = before is not None and before.type == 'dequantize'
            source = by_output[before.inputs['input'].name].inputs['input'] if rounded else None
            names.append((read, op.outputs[0], source and source.name))
    asked = dict.fromkeys(name for three in names for name in three if name)
    shown = replace(program, outputs=tuple(Feature(name, 'tensor') for name in asked))
    runtime = ReferenceProgram(shown, arithmetic, False, torch.device('cpu'))
    values = runtime.predict_batch({'image': images})
    return [tuple(values.get(name) for name in three) for three in names]


def layers_of(model):
    """Folded convolutions, SE's and linear layers, with their quantizers, as they run."""
    folded = switch_to_deploy(model, inplace=False)
    found = []
    for module in folded.modules():
        if isinstance(module, MobileOneBlock):
            inner = [m for m in module.se.modules() if isinstance(m, nn.Conv2d)]
            found += [(module.branch_reparam, module.quantizer), *((m, None) for m in inner)]
        elif isinstance(module, nn.Linear):
            found.append((plain(module), module.quantizer))
    return found


@torch.no_grad()
def plain(linear):
    """The linear layer that is left of a quantized one."""
    made = nn.Linear(linear.in_features, linear.out_features)
    made.weight.copy_(linear.quantizer.weight_grid.round(linear.weight))
    made.bias.copy_(linear.bias)
    return made
