"""The backbone: equal to mmpretrain's, and every argument of its own."""

import copy
import pickle

import pytest
import torch
from helpers import assert_close, assert_same_state, generator, randomize_norms, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from mmpretrain.models.backbones import MobileOne
from mmpretrain.registry import MODELS
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from mmpretrain_mobileone_ext import ConfigurableMobileOne, switch_to_deploy
from mmpretrain_mobileone_ext.models import MobileOneBlock

ARCHS = ('s0', 's1', 's2', 's3', 's4')
TINY = dict(num_blocks=(1, 2), width_factor=1.0)


def images(size=32, channels=3, batch=2):
    return torch.randn(batch, channels, size, size, generator=generator(), dtype=torch.float64)


def backbone(seed=0, **cfg):
    """A small randomized backbone in eval mode and float64."""
    net = ConfigurableMobileOne(**{**dict(arch=TINY, base_channels=8, num_conv_branches=2), **cfg})
    return randomize_norms(net, seed).double().eval()


def blocks(net):
    return [m for m in net.modules() if isinstance(m, MobileOneBlock)]


# --- mmpretrain's MobileOne is the oracle ------------------------------------
@pytest.fixture(scope='module', params=ARCHS)
def pair(request):
    """Ours and theirs with the same random weights, all stages returned."""
    theirs = MobileOne(request.param, out_indices=(0, 1, 2, 3)).double()
    randomize_norms(theirs).train(False)
    ours = ConfigurableMobileOne(request.param, out_indices=(0, 1, 2, 3))
    ours.double().eval().load_state_dict(theirs.state_dict())
    return ours, theirs


@torch.no_grad()
def test_branch_form_equals_mmpretrain(pair):
    ours, theirs = pair
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for a, b in zip(theirs(images(64)), ours(images(64))):
        assert_close(a, b, 1e-12)


@torch.no_grad()
def test_folded_form_equals_mmpretrain(pair):
    branches, theirs = pair
    ours = switch_to_deploy(branches, inplace=False)
    theirs = copy.deepcopy(theirs)
    theirs.switch_to_deploy()
    wanted = branches(images(64))
    assert list(ours.state_dict()) == list(theirs.state_dict())
    for key, value in theirs.state_dict().items():
        assert_close(value, ours.state_dict()[key], 1e-12)
    for a, b, c in zip(wanted, theirs(images(64)), ours(images(64))):
        assert_close(a, b, 1e-10)
        assert_close(a, c, 1e-10)


@torch.no_grad()
def test_deploy_weights_of_mmpretrain_load(pair):
    branches, theirs = pair
    theirs = copy.deepcopy(theirs)
    theirs.switch_to_deploy()
    ours = ConfigurableMobileOne(branches.arch, deploy=True, out_indices=(0, 1, 2, 3))
    ours.double().eval().load_state_dict(theirs.state_dict())
    for a, b in zip(theirs(images(64)), ours(images(64))):
        assert_close(a, b, 1e-12)


def test_training_equals_mmpretrain():
    arch = dict(
        num_blocks=[1, 2, 1, 2],
        width_factor=[0.25, 0.5, 0.25, 0.25],
        num_conv_branches=[1, 2, 3, 1],
        num_se_blocks=[0, 0, 1, 1],
    )
    theirs = randomize_norms(MobileOne(arch).double())
    ours = ConfigurableMobileOne(arch).double()
    ours.load_state_dict(theirs.state_dict())
    for net in (theirs, ours):
        net.train()
        net(images(64))[0].square().mean().backward()
    wanted = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        assert_close(wanted[name].grad, parameter.grad, 1e-8)
    for key, value in theirs.state_dict().items():
        assert_close(value, ours.state_dict()[key], 1e-12)


@torch.no_grad()
def test_one_lost_bias_is_seen():
    net = backbone(act_cfg=None)
    folded = switch_to_deploy(net, inplace=False)
    folded.stage2[0].branch_reparam.bias[3] *= 1 + 1e-6
    assert relative_error(net(images()), folded(images())) > 1e-10


# --- random architectures ----------------------------------------------------
@st.composite
def networks(draw):
    n = draw(st.integers(1, 6))

    def spread(values):
        return draw(st.one_of(values, st.tuples(*[values] * n)))

    return dict(
        arch=dict(
            num_blocks=draw(st.tuples(*[st.integers(1, 2)] * n)),
            width_factor=spread(st.sampled_from((0.5, 1.0, 1.5))),
        ),
        num_conv_branches=spread(st.integers(1, 3)),
        stem_num_conv_branches=draw(st.integers(0, 2)),
        base_channels=spread(st.sampled_from((4, 6, 8))),
        strides=spread(st.integers(1, 2)),
        dilations=spread(st.integers(1, 2)),
        stem_stride=draw(st.integers(1, 2)),
        in_channels=draw(st.sampled_from((1, 3, 4))),
        se_cfg=draw(st.sampled_from((None, 'arch', dict(placement=1), dict(units='pointwise')))),
        act_cfg=spread(st.sampled_from((None, dict(type='ReLU6')))),
        branches=draw(st.sampled_from((('conv', 'scale', 'skip'), ('conv',), ('conv', 'scale')))),
        norm_cfg=dict(type='BN', eps=draw(st.sampled_from((1e-7, 1e-2)))),
        out_indices=tuple(draw(st.sets(st.integers(0, n - 1), min_size=1))),
    )


@settings(max_examples=40)
@given(networks(), st.integers(0, 9))
@torch.no_grad()
def test_random_networks_fold_in_place_and_on_load(cfg, seed):
    if 'scale' not in cfg['branches']:
        cfg['stem_num_conv_branches'] = 1
    net, x = backbone(seed, **cfg), images(16, cfg['in_channels'])
    wanted = net(x)
    assert [o.shape[1] for o in wanted] == list(net.out_channels)
    loaded = ConfigurableMobileOne(**cfg, deploy=True).double().eval()
    loaded.load_state_dict(net.state_dict())
    net.switch_to_deploy()
    assert_same_state(net.state_dict(), loaded.state_dict())
    for a, b in zip(wanted, net(x)):
        assert_close(a, b, 1e-10)


# --- arguments ---------------------------------------------------------------
def test_the_documented_example_is_built_by_the_registry():
    net = MODELS.build(
        dict(
            type='ConfigurableMobileOne',
            arch='s1',
            num_conv_branches=2,
            se_cfg=None,
            act_cfg=dict(type='ReLU6'),
        )
    )
    assert [len(b.branch_conv_list) for b in blocks(net)[1:]] == [2] * 42
    assert all(isinstance(b.act, nn.ReLU6) for b in blocks(net))
    assert net.eval()(torch.zeros(1, 3, 32, 32))[0].shape == (1, 1280, 1, 1)


def test_s4_without_se_has_no_se_weights():
    assert any('.se.' in k for k in ConfigurableMobileOne('s4').state_dict())
    net = ConfigurableMobileOne('s4', se_cfg=None)
    assert not any('.se.' in k for k in net.state_dict())


@pytest.mark.parametrize('ratio', [2, 4])
def test_the_se_ratio_is_that_of_the_layer(ratio):
    net = backbone(base_channels=64, se_cfg=dict(ratio=ratio))
    assert net.stage1[1].se.conv1.conv.out_channels == 64 // ratio


@pytest.mark.parametrize('act_cfg', [None, [dict(type='GELU'), None]])
def test_the_stem_has_the_activation_of_stage_1(act_cfg):
    net = backbone(act_cfg=act_cfg)
    first = nn.Identity if act_cfg is None else nn.GELU
    assert type(net.stage0.act) is type(net.stage1[0].act) is first
    assert type(net.stage2[0].act) is nn.Identity


@torch.no_grad()
def test_without_conv_branches_the_others_remain():
    net = backbone(
        arch=dict(num_blocks=(2,), width_factor=1.0),
        stem_channels=8,
        strides=1,
        num_conv_branches=0,
        stem_num_conv_branches=0,
    )
    assert not any('branch_conv_list' in k for k in net.state_dict())
    folded = switch_to_deploy(net, inplace=False)
    assert_close(net(images()), folded(images()), 1e-10)


@torch.no_grad()
def test_strides_and_stem_stride_set_the_sizes():
    net = backbone(
        arch=dict(num_blocks=(1, 1, 1), width_factor=1.0),
        stem_stride=1,
        strides=(1, 2, 3),
        out_indices=(0, 1, 2),
    )
    assert [o.shape[-1] for o in net(images(30))] == [30, 15, 5]


@pytest.mark.parametrize('indices', [1, -1, (0,), (-2,), (0, -1), (1, 0)])
@torch.no_grad()
def test_out_indices_pick_stages_in_order(indices):
    wanted = backbone(out_indices=(0, 1))(images())
    listed = indices if isinstance(indices, tuple) else (indices,)
    picked = [wanted[i] for i in sorted(i % 2 for i in listed)]
    net = backbone(out_indices=indices)
    net.load_state_dict(backbone(out_indices=(0, 1)).state_dict())
    got = net(images())
    assert [g.shape for g in got] == [p.shape for p in picked]
    assert net.out_channels == tuple(p.shape[1] for p in picked)


# --- freezing and modes ------------------------------------------------------
def assert_frozen(net, stages):
    for name in ('stage0', *net.stages):
        frozen = name in stages
        stage = net.get_submodule(name)
        assert {p.requires_grad for p in stage.parameters()} == {not frozen}
        assert {m.training for m in stage.modules()} == {not frozen}


@pytest.mark.parametrize(
    ('frozen', 'stages'),
    [(-1, ()), (0, ('stage0',)), (1, ('stage0', 'stage1')), (2, ('stage0', 'stage1', 'stage2'))],
)
def test_frozen_stages_are_frozen_from_the_start(frozen, stages):
    net = ConfigurableMobileOne(TINY, frozen_stages=frozen)
    assert_frozen(net, stages)
    assert_frozen(net.eval().train(), stages)
    assert_frozen(net.switch_to_deploy(), stages)
    assert_frozen(net.train(), stages)


def test_frozen_stages_do_not_learn():
    net = backbone(frozen_stages=1).train()
    before = copy.deepcopy(net.state_dict())
    net(images())[0].square().sum().backward()
    torch.optim.SGD(net.parameters(), 0.1, weight_decay=0.1).step()
    changed = {
        k.split('.')[0] for k, v in net.state_dict().items() if not torch.equal(v, before[k])
    }
    assert changed == {'stage2'}


@pytest.mark.parametrize('norm_eval', [False, True])
def test_norm_eval_keeps_norms_in_eval(norm_eval):
    net = ConfigurableMobileOne(TINY, norm_eval=norm_eval).train()
    modes = {m.training for m in net.modules() if isinstance(m, _BatchNorm)}
    assert modes == {not norm_eval}
    assert net.stage1[0].training
    assert all(p.requires_grad for p in net.parameters())


def test_modes_can_be_chained():
    net = ConfigurableMobileOne(TINY)
    assert net.train() is net.eval() is net.switch_to_deploy() is net
    assert not net.training
    assert net.deploy


# --- memory and gradients ----------------------------------------------------
def trained(with_cp, x):
    net = backbone(with_cp=with_cp, se_cfg=dict(ratio=2)).train()
    net.load_state_dict(backbone(se_cfg=dict(ratio=2)).state_dict())
    out = net(x)[0]
    out.square().sum().backward()
    grads = {k: p.grad for k, p in net.named_parameters()}
    return out, grads, net.state_dict()


@pytest.mark.parametrize('image_grad', [False, True])
def test_with_cp_trains_the_same(image_grad):
    torch.manual_seed(0)
    plain = trained(False, images())
    torch.manual_seed(0)
    saving = trained(True, images().requires_grad_(image_grad))
    assert torch.equal(plain[0], saving[0])
    assert_same_state(plain[1], saving[1])
    assert_same_state(plain[2], saving[2])


@pytest.mark.parametrize('deploy', [False, True])
def test_gradients_reach_every_parameter(deploy):
    net = backbone(se_cfg=dict(ratio=2), act_cfg=dict(type='GELU'))
    if deploy:
        net.switch_to_deploy()
    x = images().requires_grad_()
    net.train()(x)[0].square().sum().backward()
    for name, parameter in [*net.named_parameters(), ('x', x)]:
        assert parameter.grad.abs().sum() > 0, name


# --- dilation ----------------------------------------------------------------
@pytest.mark.parametrize('size', [64, 65, 50, 33])
@pytest.mark.parametrize('stride', [2, 4, 8, 16, 32])
@torch.no_grad()
def test_output_stride_computes_the_strided_features_and_more(stride, size):
    arch = dict(num_blocks=(1, 2, 2, 2), width_factor=1.0)
    net = backbone(arch=arch, out_indices=(0, 1, 2, 3))
    atrous = backbone(arch=arch, out_indices=(0, 1, 2, 3), output_stride=stride)
    atrous.load_state_dict(net.state_dict())
    for i, (a, b) in enumerate(zip(net(images(size)), atrous(images(size)))):
        step = max(1, 2 ** (i + 2) // stride)
        assert_close(a, b[:, :, ::step, ::step], 1e-12)
    assert b.shape[-1] == -(-size // stride)


@torch.no_grad()
def test_a_dilated_network_folds():
    net = backbone(output_stride=2, dilations=None)
    folded = switch_to_deploy(net, inplace=False)
    assert_close(net(images()), folded(images()), 1e-10)


# --- copies ------------------------------------------------------------------
@pytest.mark.parametrize('deploy', [False, True])
@torch.no_grad()
def test_backbones_survive_pickle_and_deepcopy(deploy):
    net = backbone()
    if deploy:
        net.switch_to_deploy()
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert_same_state(net.state_dict(), twin.state_dict())
        twin.load_state_dict({k: v + 1 for k, v in twin.state_dict().items()})
        assert relative_error(net(images()), twin(images())) > 0
        assert twin.switch_to_deploy().deploy


def test_init_weights_follows_init_cfg():
    net = ConfigurableMobileOne(TINY)
    for module in net.modules():
        if isinstance(module, _BatchNorm):
            nn.init.constant_(module.weight, 7)
    before = net.stage1[1].branch_conv_list[0].conv.weight.clone()
    net.init_weights()
    norm = net.stage1[0].branch_scale.norm
    assert torch.equal(norm.weight, torch.ones_like(norm.weight))
    assert not torch.equal(net.stage1[1].branch_conv_list[0].conv.weight, before)
