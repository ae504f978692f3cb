"""Operations of real files are called by the module that they come from."""

import copy

import numpy as np
import pytest
import torch
from export_kit import build
from mmpretrain import get_model

from mmpretrain_mobileone_ext.coreml import export_coreml
from mmpretrain_mobileone_ext.coreml.compress.weights import find_weights
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.report.names import layer_names, words_of


def exported(model, folder, **options):
    path = folder / 'a.mlpackage'
    names = [f'c{i}' for i in range(model.head.num_classes)]
    export_coreml(model, None, path, verify_data='none', classes=names, **options)
    return read_program(path)


def randomized(model):
    """Fresh norms fold to nothing, and fresh weights of one shape may be equal."""
    generator = torch.Generator().manual_seed(0)
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            for value in (module.weight.data, module.running_var):
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
            for value in (module.bias.data, module.running_mean):
                value.copy_(torch.randn(value.shape, generator=generator) * 0.1)
    return model.eval()


def weighted(program, names):
    """Names of the operations with a weight, in the order of the file."""
    return [names.get(w.name) for w in find_weights(program)]


@pytest.fixture(scope='module')
def mobileone(tmp_path_factory):
    model = build()
    return model, exported(model, tmp_path_factory.mktemp('names'), image_size=32)


def test_a_mobileone_is_called_by_stage_block_and_unit(mobileone):
    model, program = mobileone
    before = copy.deepcopy(model.state_dict())
    names = layer_names(program, model)
    found = weighted(program, names)
    assert found[0] == 'stem'
    assert found[1:3] == ['stage 1 · block 1 · depthwise', 'stage 1 · block 1 · pointwise']
    assert found[-1] == 'head'
    assert len(set(found)) == len(found) == 1 + _units(model)
    relu = next(op for op in program.operations if op.type == 'relu')
    assert names[relu.name] == 'stem · relu'
    assert set(names) >= {op.name for op in program.operations}
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def _units(model):
    return sum(isinstance(m, MobileOneBlock) for m in model.modules())


def test_depthwise_layers_are_what_the_names_say(mobileone):
    model, program = mobileone
    names = layer_names(program, model)
    for weight in find_weights(program)[1:-1]:
        assert names[weight.name].endswith('depthwise') is weight.depthwise


def test_a_resnet_whose_norms_are_folded_in(tmp_path):
    model = randomized(get_model('resnet18_8xb32_in1k', head=dict(num_classes=5, topk=(1,))))
    program = exported(model, tmp_path, image_size=64)
    found = weighted(program, layer_names(program, model))
    assert None not in found
    assert len(set(found)) == 21
    assert found[0] == 'conv1'
    assert {'layer 1 · block 1 · conv1', 'layer 2 · block 1 · downsample 1', 'head'} <= set(found)
    convs = {w: n for w, n in zip((w.name for w in find_weights(program)), found)}
    shapes = {n: w.values.shape for w in find_weights(program) for n in [convs[w.name]]}
    assert shapes['layer 2 · block 1 · downsample 1'] == (128, 64, 1, 1)


def test_another_networks_file_keeps_its_own_names(mobileone):
    _, program = mobileone
    assert layer_names(program, build(seed=7)) == {}


def test_a_changed_filter_is_another_layer(mobileone):
    model, program = mobileone
    other = copy.deepcopy(model)
    conv = next(m for m in other.modules() if isinstance(m, torch.nn.Linear))
    conv.weight.data = conv.weight.data.flip(0)
    matched = layer_names(program, other)
    assert matched[find_weights(program)[-1].name] == 'head'  # the only one of its shape
    assert np.allclose(find_weights(program)[-1].values, model.head.fc.weight.detach(), atol=1e-2)


@pytest.mark.parametrize(
    ('module', 'block', 'words'),
    [
        ('backbone.stage0.branch_reparam', 'backbone.stage0', 'stem'),
        ('backbone.stage3.5.branch_reparam', 'backbone.stage3.5', 'stage 3 · block 3 · pointwise'),
        (
            'backbone.stage4.0.se.conv1.conv',
            'backbone.stage4.0',
            'stage 4 · block 1 · depthwise · se · conv1',
        ),
        ('backbone.layer2.1.conv2', None, 'layer 2 · block 2 · conv2'),
        ('backbone.conv1', None, 'conv1'),
        ('head.fc', None, 'head'),
        ('head.layers.0.fc', None, 'head · layers 1 · fc'),
        ('conv', None, 'conv'),
        ('backbone.layer2.1.conv.0.conv', None, 'layer 2 · block 2 · conv 1'),
    ],
)
def test_words(module, block, words):
    assert words_of(module, block) == words
