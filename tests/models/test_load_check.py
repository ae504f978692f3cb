"""Checkpoints that fit, and those that would leave random weights."""

import copy

import pytest
import torch
from helpers import assert_same_state, classifier_cfg, generator, randomize_norms
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.models.backbones import MobileOne
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext import ConfigurableMobileOne, switch_to_deploy
from mmpretrain_mobileone_ext.errors import CheckpointError

CFG = {k: v for k, v in classifier_cfg()['backbone'].items() if k != 'type'}


def backbone(**cfg):
    return randomize_norms(ConfigurableMobileOne(**{**CFG, **cfg})).eval()


def plain_classifier(**cfg):
    """mmpretrain's own classifier, which checks nothing itself."""
    return MODELS.build(classifier_cfg('ImageClassifier', **cfg)).eval()


def torch_load(model, state, tmp_path):
    model.load_state_dict(state)


def mmengine_load(model, state, tmp_path):
    load_state_dict(model, state, strict=False)


def file_load(model, state, tmp_path):
    torch.save(dict(state_dict=state), tmp_path / 'weights.pth')
    load_checkpoint(model, str(tmp_path / 'weights.pth'))


LOADERS = [torch_load, mmengine_load, file_load]


@pytest.mark.parametrize('load', LOADERS)
def test_branches_fold_into_a_deploy_model(load, tmp_path):
    net, small = backbone(), ConfigurableMobileOne(**CFG, deploy=True)
    state = net.state_dict()
    load(small, state, tmp_path)
    assert_same_state(switch_to_deploy(net).state_dict(), small.state_dict())
    # The caller's dict still holds the branches.
    assert state.keys() == backbone().state_dict().keys()


@pytest.mark.parametrize('load', LOADERS)
def test_branches_fold_inside_a_plain_classifier(load, tmp_path):
    model, small = plain_classifier(), plain_classifier(deploy=True)
    randomize_norms(model)
    load(small, model.state_dict(), tmp_path)
    assert_same_state(switch_to_deploy(model).state_dict(), small.state_dict())


@pytest.mark.parametrize('load', LOADERS)
def test_a_deploy_file_does_not_enter_a_branch_model(load, tmp_path):
    small, model = backbone(deploy=True), backbone()
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as error:
        load(model, small.state_dict(), tmp_path)
    message = str(error.value)
    assert 'deploy checkpoint' in message
    assert '--cfg-options model.backbone.deploy=True' in message
    assert '\n' not in message
    assert_same_state(before, model.state_dict())


def damage(state, how):
    key = 'stage2.1.branch_conv_list.0.conv.weight'
    if how == 'missing':
        return {k: v for k, v in state.items() if k != key}
    if how == 'extra':
        return {**state, 'stage9.weight': torch.zeros(1)}
    if how == 'reshaped':
        return {**state, key: torch.zeros(16, 9, 1, 1)}
    return {f'other.{k}': v for k, v in state.items()}


NAMED = dict(missing='stage2.1', extra='stage9', reshaped='16, 9, 1, 1', renamed='')


@pytest.mark.parametrize('load', LOADERS)
@pytest.mark.parametrize('how', NAMED)
@pytest.mark.parametrize('deploy', [False, True])
def test_what_does_not_fit_is_an_error(load, how, deploy, tmp_path):
    model = backbone(deploy=deploy)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError) as error:
        load(model, damage(backbone().state_dict(), how), tmp_path)
    assert NAMED[how] in str(error.value)
    assert '\n' not in str(error.value)
    assert_same_state(before, model.state_dict())


@pytest.mark.parametrize('load', LOADERS)
def test_what_does_not_fit_is_an_error_in_a_plain_classifier(load, tmp_path):
    state = plain_classifier().state_dict()
    state = {k: v for k, v in state.items() if 'stage1.0' not in k}
    with pytest.raises(CheckpointError, match='stage1'):
        load(plain_classifier(), state, tmp_path)


def test_counters_of_old_checkpoints_may_be_missing():
    net = backbone()
    state = {k: v for k, v in net.state_dict().items() if not k.endswith('num_batches_tracked')}
    assert len(state) < len(net.state_dict())
    for deploy in (False, True):
        model = ConfigurableMobileOne(**CFG, deploy=deploy)
        load_state_dict(model, dict(state), strict=False)
        assert_same_state(
            switch_to_deploy(net, inplace=False).state_dict(), switch_to_deploy(model).state_dict()
        )


def test_a_classifier_checkpoint_needs_the_prefix():
    state = plain_classifier().state_dict()
    with pytest.raises(CheckpointError, match=r"prefix='backbone\.'"):
        ConfigurableMobileOne(**CFG).load_state_dict(state)


@pytest.mark.parametrize('deploy', [False, True])
@pytest.mark.parametrize('prefix', ['backbone.', None])
def test_pretrained_init_loads_and_checks(deploy, prefix, tmp_path):
    model = randomize_norms(plain_classifier())
    state = model.state_dict() if prefix else model.backbone.state_dict()
    torch.save(dict(state_dict=state), tmp_path / 'weights.pth')
    init = dict(type='Pretrained', checkpoint=str(tmp_path / 'weights.pth'))
    init.update(dict(prefix=prefix) if prefix else {})
    net = ConfigurableMobileOne(**CFG, deploy=deploy, init_cfg=init)
    net.init_weights()
    wanted = switch_to_deploy(model.backbone) if deploy else model.backbone
    assert_same_state(wanted.state_dict(), net.state_dict())


def test_published_keys_of_mmpretrain_load_into_the_deploy_form():
    theirs = randomize_norms(MobileOne('s0')).double()
    theirs.train(False)
    ours = ConfigurableMobileOne('s0', deploy=True).double().eval()
    load_state_dict(ours, theirs.state_dict(), strict=True)
    x = torch.randn(1, 3, 32, 32, generator=generator(), dtype=torch.float64)
    with torch.no_grad():
        torch.testing.assert_close(theirs(x), ours(x), rtol=0, atol=1e-10)
