"""Numbers that no trained network has do not enter one."""

import copy
import math

import pytest
import torch
from helpers import assert_same_state, classifier_cfg, randomize_norms
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.checkpoints.deploy_file import write_deploy_file
from mmpretrain_mobileone_ext.commands.checkpoints.convert import convert_checkpoint
from mmpretrain_mobileone_ext.errors import CheckpointError, ExportError
from mmpretrain_mobileone_ext.export.source import load_source

CFG = {k: v for k, v in classifier_cfg()['backbone'].items() if k != 'type'}
WEIGHT = 'stage1.0.branch_conv_list.1.conv.weight'
MEAN = 'stage1.1.branch_norm.running_mean'
KEYS = [
    WEIGHT,
    MEAN,
    'stage0.branch_scale.norm.bias',
    'stage1.1.branch_conv_list.0.norm.running_var',
]


def classifier(type='DeployableClassifier', **backbone):
    return randomize_norms(MODELS.build(classifier_cfg(type, **backbone)))


def spoiled(state, key, value):
    state = {k: v.clone() for k, v in state.items()}
    state[key].view(-1)[-1] = value
    return state


def refused(model, state, load=None):
    """One line, and nothing was copied."""
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as error:
        (load or (lambda m, s: m.load_state_dict(s)))(model, state)
    assert_same_state(before, model.state_dict())
    assert '\n' not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize('value', [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize('key', KEYS)
@pytest.mark.parametrize('deploy', [False, True])
def test_weights_that_are_not_finite(key, value, deploy):
    state = spoiled(classifier().state_dict(), f'backbone.{key}', value)
    said = refused(classifier(deploy=deploy), state)
    assert 'not finite' in said
    assert key in said
    said = refused(
        classifier('ImageClassifier', deploy=deploy),
        state,
        lambda m, s: load_state_dict(m, s, strict=False),
    )
    assert f'backbone.{key}' in said


def test_the_head_too():
    state = spoiled(classifier().state_dict(), 'head.fc.bias', math.nan)
    assert 'head.fc.bias' in refused(classifier(), state)
    # A head for other classes is replaced, whatever was in it.
    other = MODELS.build(classifier_cfg(num_classes=5))
    load_state_dict(other, state, strict=False)


def test_only_the_first_keys_are_named():
    state = {
        k: v * math.nan if v.is_floating_point() else v
        for k, v in ConfigurableMobileOne(**CFG).state_dict().items()
    }
    said = refused(ConfigurableMobileOne(**CFG), state)
    assert 'stage0' in said
    assert len(said) < 500


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize('deploy', [False, True])
def test_other_floating_point_numbers_go_in(dtype, deploy):
    state = ConfigurableMobileOne(**CFG).to(dtype).state_dict()
    net = ConfigurableMobileOne(**CFG, deploy=deploy)
    net.load_state_dict(state)
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    said = refused(net, spoiled(state, WEIGHT, math.nan))
    assert WEIGHT in said


@pytest.mark.parametrize('deploy', [False, True])
def test_what_is_infinite_in_the_models_dtype(deploy):
    state = spoiled(ConfigurableMobileOne(**CFG).double().state_dict(), WEIGHT, 1e300)
    net = ConfigurableMobileOne(**CFG, deploy=deploy)
    assert 'stage1.0' in refused(net, state)
    # A sum beyond the dtype is not a number beyond it.
    large = ConfigurableMobileOne(**CFG).state_dict()
    large[WEIGHT] = torch.full_like(large[WEIGHT], 3e38)
    ConfigurableMobileOne(**CFG).load_state_dict(large)


KINDS = [torch.int8, torch.uint8, torch.int64, torch.bool, torch.complex64]
KINDS += [getattr(torch, n) for n in ('float8_e4m3fn', 'float8_e5m2') if hasattr(torch, n)]


@pytest.mark.parametrize('dtype', KINDS)
@pytest.mark.parametrize('key', [WEIGHT, MEAN])
@pytest.mark.parametrize('deploy', [False, True])
def test_another_kind_of_number_is_not_cast(dtype, key, deploy):
    state = classifier().state_dict()
    state[f'backbone.{key}'] = state[f'backbone.{key}'].to(dtype)
    said = refused(classifier(deploy=deploy), state)
    assert f'backbone.{key} is {str(dtype)[6:]}' in said
    assert 'float32 in the model' in said


def test_a_folded_weight_too():
    state = classifier(deploy=True).state_dict()
    key = 'backbone.stage1.0.branch_reparam.weight'
    state[key] = state[key].char()
    assert f'{key} is int8' in refused(classifier(deploy=True), state)


def test_counters_are_integers_of_any_width():
    key = 'stage0.branch_scale.norm.num_batches_tracked'
    state = ConfigurableMobileOne(**CFG).state_dict()
    ConfigurableMobileOne(**CFG).load_state_dict({**state, key: torch.tensor(7, dtype=torch.int32)})
    said = refused(ConfigurableMobileOne(**CFG), {**state, key: torch.tensor(7.5)})
    assert f'{key} is float32' in said


def test_sparse_tensors_are_refused():
    state = ConfigurableMobileOne(**CFG).state_dict()
    state[WEIGHT] = state[WEIGHT].to_sparse()
    assert 'sparse' in refused(ConfigurableMobileOne(**CFG), state)


@pytest.mark.parametrize('deploy', [False, True])
def test_a_huge_view_of_one_number_costs_nothing(deploy):
    state = ConfigurableMobileOne(**CFG).state_dict()
    state[WEIGHT] = torch.full((1,), math.nan).expand(1 << 50)
    said = refused(ConfigurableMobileOne(**CFG, deploy=deploy), state)
    assert str(1 << 50) in said


@pytest.mark.parametrize('deploy', [False, True])
def test_a_state_dict_without_numbers_loads(deploy):
    with torch.device('meta'):
        net = ConfigurableMobileOne(**CFG, deploy=deploy)
    net.load_state_dict(net.state_dict())
    ConfigurableMobileOne(**CFG, deploy=deploy).load_state_dict(net.state_dict(), assign=True)


@pytest.fixture
def nan_file(tmp_path):
    state = spoiled(classifier().state_dict(), f'backbone.{WEIGHT}', math.nan)
    torch.save(dict(state_dict=state), tmp_path / 'nan.pth')
    return tmp_path / 'nan.pth'


def test_files_of_a_training_that_diverged(nan_file, tmp_path):
    with pytest.raises(CheckpointError, match=WEIGHT):
        load_checkpoint(classifier(), str(nan_file))
    with pytest.raises(CheckpointError, match=WEIGHT):
        write_deploy_file(classifier(), nan_file)
    assert list(tmp_path.iterdir()) == [nan_file]


def test_converting_such_a_file(tmp_path):
    state = MODELS.build(dict(type='ConfigurableMobileOne', arch='s0', deploy=True)).state_dict()
    for key, value in (
        ('stage0.branch_reparam.bias', math.nan),
        ('stage4.1.branch_reparam.weight', None),
    ):
        bad = spoiled(state, key, value) if value else {**state, key: state[key].char()}
        torch.save(bad, tmp_path / 'bad.pth')
        with pytest.raises(CheckpointError, match=key):
            convert_checkpoint(tmp_path / 'bad.pth', 'apple', tmp_path / 'out.pth')
    assert [p.name for p in tmp_path.iterdir()] == ['bad.pth']


def lenet(**buffers):
    """Of mmpretrain, which checks nothing."""
    model = MODELS.build(
        dict(
            type='ImageClassifier',
            backbone=dict(type='LeNet5'),
            neck=dict(type='GlobalAveragePooling'),
            head=dict(type='LinearClsHead', num_classes=3, in_channels=120),
        )
    )
    for name, value in buffers.items():
        model.register_buffer(name, value)
    return model


def test_exporting_a_network_of_others(tmp_path):
    model = lenet(mask=torch.tensor([-math.inf, 0.0]))
    assert load_source(model, None).model
    torch.save(spoiled(model.state_dict(), 'head.fc.weight', math.inf), tmp_path / 'inf.pth')
    with pytest.raises(ExportError, match=r'not finite.*head\.fc\.weight'):
        load_source(model, tmp_path / 'inf.pth')
    model.backbone.features[0].bias.data[0] = math.nan
    with pytest.raises(ExportError, match=r'not finite.*features\.0\.bias'):
        load_source(model, None)
    state = model.state_dict()
    state['head.fc.bias'] = state['head.fc.bias'].bool()
    torch.save(state, tmp_path / 'bool.pth')
    with pytest.raises(CheckpointError, match=r'head\.fc\.bias is bool'):
        load_source(model, tmp_path / 'bool.pth')
