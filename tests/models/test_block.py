"""One unit in both forms, against a convolution written in NumPy."""

import copy
import pickle

import pytest
import torch
from helpers import (
    assert_close,
    assert_same_state,
    generator,
    next_value,
    numpy_branches,
    randomize_norms,
    relative_error,
)
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmpretrain.models.backbones import mobileone as peer

from mmpretrain_mobileone_ext.errors import CheckpointError, FoldError, SpecError
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.spec import UnitSpec

KINDS = ('conv', 'scale', 'skip')
ACTS = [None] + [dict(type=t) for t in ('ReLU', 'ReLU6', 'GELU', 'Swish', 'PReLU', 'HSwish')]


@st.composite
def units(draw):
    """A valid unit spec, a norm config and a padding mode."""
    groups = draw(st.sampled_from((1, 2, 3, 4)))
    widths = [groups * draw(st.integers(1, 3)) for _ in range(2)]
    if draw(st.booleans()):
        widths[1] = widths[0]
    spec = dict(
        kernel_size=draw(st.sampled_from((1, 3, 5, 7))),
        stride=draw(st.integers(1, 3)),
        dilation=draw(st.integers(1, 2)),
        groups=groups,
        num_conv_branches=draw(st.integers(0, 5)),
        branches=tuple(draw(st.sets(st.sampled_from(KINDS), min_size=1))),
        se_cfg=draw(st.sampled_from((None, dict(ratio=2)))),
        act_cfg=draw(st.sampled_from(ACTS)),
    )
    try:
        spec = UnitSpec('unit', *widths, **spec)
    except SpecError as error:
        assume('no branch is left' not in str(error))
        raise
    norm = dict(
        type=draw(st.sampled_from(('BN', 'SyncBN'))),
        eps=draw(st.sampled_from((1e-12, 1e-5, 1e-3, 10.0))),
        affine=draw(st.booleans()),
    )
    return spec, norm, draw(st.sampled_from(('zeros', 'reflect', 'replicate', 'circular')))


def unit(norm=None, mode='zeros', seed=0, **spec):
    """A randomized unit in eval mode and float64, and its input."""
    spec = spec.get('spec') or UnitSpec(
        'unit',
        **{**dict(in_channels=4, out_channels=4, kernel_size=3, num_conv_branches=2), **spec},
    )
    conv = None if mode == 'zeros' else dict(type='Conv2d', padding_mode=mode)
    block = MobileOneBlock(spec, conv_cfg=conv, norm_cfg=norm)
    x = torch.randn(2, spec.in_channels, 9, 8, generator=generator(seed), dtype=torch.float64)
    return randomize_norms(block, seed).double().eval(), x


def folded(block):
    block = copy.deepcopy(block)
    block.switch_to_deploy()
    return block


def oracle(block, x, norm, mode):
    total = numpy_branches(block.state_dict(), x.numpy(), block.spec, norm['eps'], mode)
    return block.act(block.se(total))


@settings(max_examples=350)
@given(units(), st.integers(0, 2**16))
@torch.no_grad()
def test_both_forms_equal_the_formula(drawn, seed):
    spec, norm, mode = drawn
    block, x = unit(norm, mode, seed, spec=spec)
    wanted = oracle(block, x, norm, mode)
    assert_close(wanted, block(x), 1e-10)
    assert_close(wanted, folded(block)(x), 1e-10)
    single = block.float()
    assert_close(single(x.float()), folded(single)(x.float()), 1e-5)


@settings(max_examples=100)
@given(units(), st.data())
@torch.no_grad()
def test_one_wrong_weight_is_seen(drawn, data):
    spec, norm, mode = drawn
    block, x = unit(norm, mode, spec=spec)
    small = folded(block)
    weight = data.draw(st.sampled_from(sorted(small.branch_reparam.state_dict())))
    values = small.branch_reparam.get_parameter(weight)
    centre = spec.kernel_size // 2
    # The centre: the only tap that no input size leaves on the padding.
    where = (data.draw(st.integers(0, spec.out_channels - 1)), 0, centre, centre)[: values.dim()]
    values[where] += 1e-6 * values.abs().max()
    linear = small.branch_reparam(x)
    wanted = numpy_branches(block.state_dict(), x.numpy(), spec, norm['eps'], mode)
    assert relative_error(wanted, linear) > 1e-10


@pytest.mark.parametrize('deploy', [False, True])
def test_state_dict_keys_are_those_of_mmpretrain(deploy):
    ours = MobileOneBlock(
        UnitSpec('unit', 4, 4, 3, num_conv_branches=2, se_cfg=dict(ratio=4)), deploy=deploy
    )
    theirs = peer.MobileOneBlock(4, 4, 3, 2, se_cfg=dict(ratio=4), deploy=deploy)
    assert list(ours.state_dict()) == list(theirs.state_dict())


def test_folding_draws_no_random_number():
    block, _ = unit()
    before = torch.get_rng_state()
    block.switch_to_deploy()
    assert torch.equal(torch.get_rng_state(), before)


def test_folding_twice_changes_nothing():
    block, _ = unit()
    block.switch_to_deploy()
    once = copy.deepcopy(block.state_dict())
    conv = block.branch_reparam
    block.switch_to_deploy()
    assert block.branch_reparam is conv
    assert_same_state(once, block.state_dict())


def test_a_folded_unit_can_be_trained_on():
    block, x = unit()
    block.switch_to_deploy()
    block.train()(x).square().sum().backward()
    for name, parameter in block.named_parameters():
        assert parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('frozen', ['all', 'norms'])
def test_the_fold_is_frozen_only_where_every_branch_was(frozen):
    block, _ = unit()
    for name, parameter in block.named_parameters():
        parameter.requires_grad_(frozen == 'norms' and 'conv.' in name)
    block.switch_to_deploy()
    assert {p.requires_grad for p in block.parameters()} == {frozen != 'all'}


@pytest.mark.parametrize('training', [False, True])
def test_folding_keeps_the_mode(training):
    block, _ = unit()
    block.train(training).switch_to_deploy()
    assert {m.training for m in block.modules()} == {training}


@pytest.mark.parametrize('dtype', [torch.float32, torch.float16, torch.bfloat16])
def test_weights_are_folded_in_float64_and_rounded_once(dtype):
    block, _ = unit(in_channels=32, out_channels=32)
    block.to(dtype)
    kernel, bias = folded(copy.deepcopy(block).double()).parameters()
    got = folded(block).branch_reparam
    assert got.weight.dtype == got.bias.dtype == dtype
    for wanted, rounded in ((kernel, got.weight), (bias, got.bias)):
        error = (rounded.double() - wanted).abs()
        for side in (torch.inf, -torch.inf):
            other = next_value(rounded, side)
            assert (error <= (other.double() - wanted).abs()).all()


def test_a_lone_norm_without_affine_keeps_its_dtype():
    block, x = unit(dict(type='BN', affine=False), branches=('skip',))
    block.float()
    small = folded(block)
    assert small.branch_reparam.weight.dtype == torch.float32
    assert_close(block(x.float()), small(x.float()), 1e-5)


@pytest.mark.parametrize(
    ('norm', 'reason'),
    [
        (dict(type='GN', num_groups=2), 'GroupNorm'),
        (dict(type='IN'), 'InstanceNorm'),
        (dict(type='BN', track_running_stats=False), 'running statistics'),
    ],
)
def test_what_has_no_exact_fold_is_refused_and_left_alone(norm, reason):
    block = MobileOneBlock(UnitSpec('unit', 4, 4, 3), norm_cfg=norm)
    before = copy.deepcopy(block.state_dict())
    with pytest.raises(FoldError, match=reason):
        block.switch_to_deploy()
    assert_same_state(before, block.state_dict())
    assert not block.deploy


def test_only_plain_convolutions_are_folded():
    spec = UnitSpec('unit', 4, 4, 3)
    MobileOneBlock(spec, conv_cfg=dict(type='Conv')).switch_to_deploy()
    with pytest.raises(FoldError, match='ConvWS2d'):
        MobileOneBlock(spec, conv_cfg=dict(type='ConvWS')).switch_to_deploy()


@pytest.mark.parametrize(
    ('argument', 'value'),
    [
        ('conv_cfg', dict(type='NoConv')),
        ('conv_cfg', dict(type='Conv2d', bias=True)),
        ('norm_cfg', dict(type='NoNorm')),
        ('norm_cfg', dict(type='BN', slope=3)),
        ('act_cfg', dict(type='NoAct')),
        ('act_cfg', dict(type='ReLU', slope=3)),
        ('se_cfg', dict(ratio=4, divisor=0)),
        ('se_cfg', dict(ratio=4, act_cfg=dict(type='NoAct'))),
    ],
)
def test_a_layer_that_cannot_be_built_is_named(argument, value):
    inside = argument in ('act_cfg', 'se_cfg')
    spec = UnitSpec('unit', 4, 4, 3, **({argument: value} if inside else {}))
    with pytest.raises(SpecError) as error:
        MobileOneBlock(spec, **({} if inside else {argument: value}))
    message = str(error.value)
    assert message.startswith(f'unit: {argument}={value!r}')
    assert '\n' not in message


def checkpointed(block, with_cp, x):
    twin = copy.deepcopy(block).train()
    twin.with_cp = with_cp
    x = x.clone().requires_grad_()
    out = twin(x)
    out.square().sum().backward()
    grads = [x.grad, *(p.grad for p in twin.parameters())]
    return out, grads, dict(twin.named_buffers())


@pytest.mark.parametrize('momentum', [0.1, None])
@pytest.mark.parametrize('branches', [KINDS, ('conv',)])
def test_with_cp_changes_nothing(momentum, branches):
    block, x = unit(
        dict(type='BN', momentum=momentum),
        branches=branches,
        se_cfg=dict(ratio=2),
        act_cfg=dict(type='ReLU'),
    )
    plain, saving = (checkpointed(block, cp, x) for cp in (False, True))
    assert torch.equal(plain[0], saving[0])
    for wanted, got in zip(plain[1], saving[1]):
        assert torch.equal(wanted, got)
    # Statistics are updated once, though the unit ran twice.
    assert_same_state(plain[2], saving[2])
    counts = [v for k, v in saving[2].items() if 'num_batches' in k]
    assert {c.item() for c in counts} == {1}


def test_with_cp_recomputes_in_backward():
    block, x = unit()
    calls = []
    block.with_cp = True
    conv = block.branch_conv_list[0].conv
    conv.register_forward_hook(lambda *_: calls.append(1))
    block.train()(x.requires_grad_()).sum().backward()
    assert len(calls) == 2


@pytest.mark.parametrize('deploy', [False, True])
def test_units_survive_pickle_and_deepcopy(deploy):
    block, x = unit()
    if deploy:
        block.switch_to_deploy()
    for twin in (copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert torch.equal(twin(x), block(x))
        # The load hook belongs to the copy, not to the original.
        twin.load_state_dict({k: v + 1 for k, v in twin.state_dict().items()})
        assert not torch.equal(twin(x), block(x))


def empty_fold(block):
    """A deploy unit of the same spec, with random weights."""
    return (
        MobileOneBlock(block.spec, conv_cfg=block.conv_cfg, norm_cfg=block.norm_cfg, deploy=True)
        .double()
        .eval()
    )


@settings(max_examples=50)
@given(units())
def test_loading_branches_into_a_folded_unit_folds_them(drawn):
    spec, norm, mode = drawn
    block, _ = unit(norm, mode, spec=spec)
    small, state = empty_fold(block), block.state_dict()
    small.load_state_dict(state)
    assert_same_state(folded(block).state_dict(), small.state_dict())
    assert_same_state(block.state_dict(), state)


def test_ten_branches_and_more_keep_their_numbers():
    block, _ = unit(num_conv_branches=12)
    state = block.state_dict()
    shuffled = dict(sorted(state.items()))  # '10' comes before '2'
    assert list(shuffled) != list(state)
    small = empty_fold(block)
    small.load_state_dict(shuffled)
    assert_same_state(folded(block).state_dict(), small.state_dict())
    assert len(block.branches()) == 14


def damaged(state, how):
    key = 'branch_conv_list.1.conv.weight'
    if how == 'reshaped':
        return {**state, key: state[key][:, :2]}
    if how == 'extra':
        return {**state, 'branch_conv_list.2.conv.weight': state[key]}
    if how == 'both forms':
        return {
            **state,
            'branch_reparam.weight': state[key],
            'branch_reparam.bias': state[key].sum((1, 2, 3)),
        }
    lost = dict(scale='branch_scale', affine='branch_norm.bias', conv=key)
    return {k: v for k, v in state.items() if not k.startswith(lost[how])}


@pytest.mark.parametrize('how', ['scale', 'affine', 'conv', 'reshaped', 'extra'])
def test_branches_that_do_not_fit_are_not_folded(how):
    block, _ = unit()
    small = empty_fold(block)
    before = copy.deepcopy(small.state_dict())
    with pytest.raises(CheckpointError) as error:
        small.load_state_dict(damaged(block.state_dict(), how))
    assert str(error.value).startswith('unit: ')
    assert '\n' not in str(error.value)
    assert_same_state(before, small.state_dict())


def test_a_checkpoint_with_both_forms_is_ambiguous():
    block, _ = unit()
    with pytest.raises(RuntimeError, match='Unexpected key'):
        empty_fold(block).load_state_dict(damaged(block.state_dict(), 'both forms'))


def test_branches_with_a_norm_that_does_not_fold_are_refused():
    norm = dict(type='GN', num_groups=2)
    block = MobileOneBlock(UnitSpec('unit', 4, 4, 3), norm_cfg=norm)
    with pytest.raises(FoldError, match='GroupNorm'):
        empty_fold(block).load_state_dict(block.state_dict())
