"""Folding whole module trees: others' blocks, failures, verification."""

import copy

import pytest
import torch
from helpers import assert_close, assert_same_state, classifier_cfg, generator, randomize_norms
from mmpretrain.models.backbones import MobileOne, RepVGG
from mmpretrain.registry import MODELS
from torch import nn

import mmpretrain_mobileone_ext.models.deploy as switch
from mmpretrain_mobileone_ext import (
    ConfigurableMobileOne,
    switch_to_deploy,
    verified_switch_to_deploy,
)
from mmpretrain_mobileone_ext.errors import FoldError, ParityError
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.spec import UnitSpec

SMALL = dict(
    num_blocks=[1, 1, 1, 1],
    width_factor=[0.125] * 4,
    num_conv_branches=[2] * 4,
    num_se_blocks=[0] * 4,
)


class Detector(nn.Module):
    """A backbone two levels deep, a lone unit as the head, a stranger."""

    def __init__(self, **cfg):
        super().__init__()
        cfg = dict(arch=dict(SMALL), out_indices=(2, 3), **cfg)
        self.body = nn.ModuleDict(dict(net=ConfigurableMobileOne(**cfg)))
        self.head = MobileOneBlock(UnitSpec('head', 64, 8, 3))
        self.scale = nn.Conv2d(8, 4, 1)

    def forward(self, x):
        small, last = self.body['net'](x)
        return {'small': small, 'scores': self.scale(self.head(last))}


def detector(**cfg):
    return randomize_norms(Detector(**cfg)).double().eval()


def images(dtype=torch.float64):
    return torch.randn(2, 3, 64, 64, generator=generator(), dtype=dtype)


def forms(model):
    return {m.deploy for m in model.modules() if isinstance(m, MobileOneBlock)}


@torch.no_grad()
def test_every_block_of_a_tree_is_folded():
    model = detector()
    wanted = model(images())
    assert switch_to_deploy(model) is model
    assert forms(model) == {True}
    got = model(images())
    for name in wanted:
        assert_close(wanted[name], got[name], 1e-10)
    assert all(p.requires_grad for p in model.parameters())


def test_a_copy_leaves_the_original_bit_identical():
    model = detector()
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    folded = switch_to_deploy(model, inplace=False)
    assert forms(folded) == {True}
    assert forms(model) == {False}
    assert_same_state(before, model.state_dict())
    assert all(a is b for a, b in zip(modules, model.modules()))
    shared = {p.data_ptr() for p in model.parameters()}
    assert not shared & {p.data_ptr() for p in folded.parameters()}


def test_a_second_fold_changes_nothing():
    model = switch_to_deploy(detector())
    before, modules = copy.deepcopy(model.state_dict()), list(model.modules())
    switch_to_deploy(model)
    assert_same_state(before, model.state_dict())
    assert all(a is b for a, b in zip(modules, model.modules()))


@pytest.mark.parametrize('inplace', [True, False])
def test_no_random_number_is_drawn(inplace):
    model = nn.ModuleList([detector(), MobileOne(SMALL)])
    before = torch.get_rng_state()
    switch_to_deploy(model, inplace)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ('norm', 'reason'),
    [
        (dict(type='GN', num_groups=1), 'GroupNorm'),
        (dict(type='BN', track_running_stats=False), 'running statistics'),
    ],
)
def test_a_failing_fold_changes_nothing(norm, reason):
    model = nn.ModuleList([detector(), MobileOneBlock(UnitSpec('last', 4, 4, 3), norm_cfg=norm)])
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(FoldError, match=f'(?s)last.*{reason}|{reason}'):
        switch_to_deploy(model)
    assert_same_state(before, model.state_dict())
    assert forms(model) == {False}


def test_sync_norms_fold_in_a_single_process():
    model = detector(norm_cfg=dict(type='SyncBN'))
    folded = switch_to_deploy(model, inplace=False)
    with torch.no_grad():
        for a, b in zip(model(images()).values(), folded(images()).values()):
            assert_close(a, b, 1e-10)


@pytest.mark.parametrize(
    'stranger', [lambda: MobileOne(SMALL), lambda: RepVGG('A0', out_indices=(3,))]
)
@torch.no_grad()
def test_blocks_of_mmpretrain_are_folded_too(stranger):
    other = randomize_norms(stranger()).double()
    other.train(False)
    model = nn.ModuleList([detector(), other])
    wanted = other(images())
    for _ in range(3):
        switch_to_deploy(model)
        assert_close(wanted, other(images()), 1e-10)
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize(
    'backbone', [dict(type='ResNet', depth=18), dict(type='MobileOne', arch=SMALL)]
)
def test_a_classifier_without_our_blocks_can_be_switched(backbone):
    cfg = classifier_cfg()
    cfg['backbone'] = backbone
    model = MODELS.build(cfg)
    for _ in range(4):
        assert model.switch_to_deploy() is model


# --- verification ------------------------------------------------------------
@pytest.mark.parametrize(
    ('dtype', 'bound'), [(torch.float64, 1e-10), (torch.float32, 1e-5), (torch.bfloat16, 0.2)]
)
def test_a_verified_fold_reports_the_difference(dtype, bound):
    model = detector().to(dtype)
    folded, parity = verified_switch_to_deploy(model, images(dtype))
    assert folded is model
    assert forms(model) == {True}
    assert 0 < parity.relative < bound
    assert parity.num_samples == 2


@pytest.mark.parametrize('inplace', [True, False])
def test_a_verified_fold_needs_no_inputs(inplace):
    model = detector()
    before = torch.get_rng_state()
    folded, parity = verified_switch_to_deploy(model, inplace=inplace)
    assert (folded is model) == inplace
    assert forms(model) == {inplace}
    assert parity.relative < 1e-10
    assert torch.equal(torch.get_rng_state(), before)


def test_grey_and_infrared_images_are_made_up_as_well():
    for channels in (1, 4):
        net = ConfigurableMobileOne('s0', in_channels=channels, num_blocks=1)
        assert verified_switch_to_deploy(net)[1].relative < 1e-4


def corrupt(model, inplace=True):
    folded = switch_to_deploy(model, inplace)
    with torch.no_grad():
        folded.head.branch_reparam.bias += 1e-3
    return folded


@pytest.mark.parametrize('tolerance', [None, 1e-6])
def test_a_wrong_fold_is_refused_and_changes_nothing(monkeypatch, tolerance):
    model = detector().train()
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(switch, 'switch_to_deploy', corrupt)
    with pytest.raises(ParityError, match='folded form against branches'):
        verified_switch_to_deploy(model, images(), tolerance=tolerance)
    assert_same_state(before, model.state_dict())
    assert forms(model) == {False}
    assert {m.training for m in model.modules()} == {True}
    verified_switch_to_deploy(model, images(), tolerance=0.5)


def test_modes_are_put_back_module_by_module():
    model = detector().train()
    model.body['net'].stage1.eval()
    modes = [m.training for m in model.modules()]
    verified_switch_to_deploy(model, images(), inplace=False)
    assert [m.training for m in model.modules()] == modes
    folded, _ = verified_switch_to_deploy(model, images())
    assert not folded.body['net'].stage1[0].branch_reparam.training
    assert folded.body['net'].stage2[0].branch_reparam.training
