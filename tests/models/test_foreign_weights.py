"""Weights of timm and Apple give our network their outputs, and back."""

import copy

import pytest
import torch
from foreign_kit import CLASSES, image, ours, scores, theirs
from helpers import assert_close, relative_error
from mmengine.runner import load_checkpoint
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.models.loading import weights as translate_on_load
from mmpretrain_mobileone_ext.models.loading.state_dict import APPLE, TIMM, recognize_any, translate

SLOW = pytest.mark.slow
SOURCES = ['timm', 'apple']
ARCHS = [
    's0',
    pytest.param('s1', marks=SLOW),
    pytest.param('s2', marks=SLOW),
    pytest.param('s3', marks=SLOW),
    pytest.param('s4', marks=SLOW),
]
LAYOUTS = dict(timm=TIMM, apple=APPLE)
TOLERANCE = 1e-5


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('source', SOURCES)
def test_theirs_become_ours_and_ours_theirs(source, arch):
    net = theirs(source, arch)
    wanted = scores(net)
    assert relative_error(wanted[0], wanted[1]) > 0.005
    branches = ours(arch)
    branches.load_state_dict(net.state_dict())
    assert_close(wanted, scores(branches), TOLERANCE)
    assert_close(scores(net, torch.float64), scores(branches, torch.float64), 1e-12)
    into_folded = ours(arch, deploy=True)
    into_folded.load_state_dict(net.state_dict())
    assert_close(wanted, scores(into_folded), TOLERANCE)
    back = theirs(source, arch)
    wipe(back).load_state_dict(exported(branches, source))
    assert_close(wanted, scores(back), TOLERANCE)


@pytest.mark.parametrize('arch', ARCHS)
@pytest.mark.parametrize('source', SOURCES)
def test_folded_theirs_become_ours_and_ours_theirs(source, arch):
    wanted = scores(theirs(source, arch))
    net = theirs(source, arch, folded=True)
    assert_close(wanted, scores(net), TOLERANCE)
    mine = ours(arch, deploy=True)
    mine.load_state_dict(net.state_dict())
    assert_close(wanted, scores(mine), TOLERANCE)
    wipe(net).load_state_dict(exported(mine, source))
    assert_close(wanted, scores(net), TOLERANCE)


@pytest.mark.parametrize('source', SOURCES)
def test_the_comparison_notices_one_weight(source):
    net, mine = theirs(source, 's0'), ours('s0')
    mine.load_state_dict(net.state_dict())
    wanted = scores(net)
    norm = mine.backbone.stage3[4].branch_norm
    norm.bias.data[:20] *= 1.01
    assert relative_error(wanted, scores(mine)) > TOLERANCE


def exported(model, source):
    state = model.state_dict()
    return translate(state, recognize_any(state), LAYOUTS[source])


def wipe(net):
    """Other values everywhere, so that nothing old can pass."""
    with torch.no_grad():
        for value in net.state_dict().values():
            value.zero_()
    return net


@pytest.mark.parametrize('prefix', ['', 'module.', 'module.model.'])
@pytest.mark.parametrize('source', SOURCES)
def test_a_bare_backbone_takes_all_but_the_head(source, prefix):
    net = theirs(source, 's0')
    state = {prefix + k: v for k, v in net.state_dict().items()}
    backbone = ConfigurableMobileOne('s0').eval()
    backbone.load_state_dict(state)
    whole = ours('s0')
    whole.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert torch.equal(backbone(image())[0], whole.backbone(image())[0])
    assert len(state) == len(net.state_dict())


@pytest.mark.slow
@pytest.mark.parametrize('source', SOURCES)
def test_files_load_and_say_so_once(source, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(translate_on_load, 'print_log', lambda text, *_: said.append(text))
    net = theirs(source, 's0')
    path = tmp_path / f'{source}.pth.tar'
    torch.save(net.state_dict(), path)
    mine = ours('s0')
    load_checkpoint(mine, str(path))
    assert_close(scores(net), scores(mine), TOLERANCE)
    assert said == [
        f'DeployableClassifier loads weights of {source} MobileOne (branches, with head)'
    ]


@pytest.mark.parametrize('source', SOURCES)
def test_a_head_of_other_classes_has_to_be_trained(source):
    mine = ours('s0', classes=CLASSES + 1)
    load_state_dict(mine, theirs(source, 's0').state_dict())
    with pytest.raises(CheckpointError, match=r'head\.fc\.weight'):
        mine(image(), mode='predict')


@pytest.mark.parametrize('source', SOURCES)
def test_folded_weights_do_not_go_into_branches(source):
    state = theirs(source, 's0', folded=True).state_dict()
    with pytest.raises(CheckpointError, match='deploy=True'):
        ours('s0').load_state_dict(state)


@pytest.mark.slow
@pytest.mark.parametrize('source', SOURCES)
@pytest.mark.parametrize('deploy', [False, True])
def test_what_is_missing_or_unknown_is_an_error(source, deploy):
    state = theirs(source, 's0').state_dict()
    lost = dict(state)
    del lost[next(k for k in state if '.bn.running_var' in k)]
    strange = {**state, 'neck.weight': torch.zeros(1)}
    other = theirs(source, 's4').state_dict()
    for wrong in (lost, strange, other):
        model = ours('s0', deploy=deploy)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(CheckpointError):
            model.load_state_dict(wrong)
        assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_a_plain_classifier_says_what_to_do():
    cfg = dict(type='ImageClassifier', backbone=dict(type='ConfigurableMobileOne', arch='s0'))
    with pytest.raises(CheckpointError, match='DeployableClassifier'):
        MODELS.build(cfg).load_state_dict(theirs('timm', 's0').state_dict())
