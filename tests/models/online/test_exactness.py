"""Online methods against running the branches, in float64 training mode."""

import copy
import itertools

import pytest
import torch
from helpers import generator, randomize_norms
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from mmpretrain.models.backbones.mobileone import MobileOne
from torch import nn

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online.by_recompute import is_one_conv
from mmpretrain_mobileone_ext.models.online.convs import PatchConv
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.spec import UnitSpec


def worst(found, wanted):
    """Largest relative error over pairs of tensors.

    A gradient that is zero but for rounding (scale invariance of a batch norm's input) is measured
    against the largest of all.
    """
    top = max(w.abs().max().item() for w in wanted)
    return max(
        ((f - w).abs().max() / max(w.abs().max(), 1e-3 * top)).item() for f, w in zip(found, wanted)
    )


def compared(wanted_block, block, run, x, seed=0):
    """Worst errors: output and gradients; running statistics."""
    own, other = (x.clone().requires_grad_() for _ in range(2))
    wanted, found = wanted_block(own), run(other)
    weight = torch.randn(wanted.shape, generator=generator(seed), dtype=wanted.dtype)
    (wanted.sin() * weight).sum().backward()
    (found.sin() * weight).sum().backward()
    grads = [[other.grad, found.detach()], [own.grad, wanted.detach()]]
    for p, q in zip(block.parameters(), wanted_block.parameters()):
        grads[0].append(p.grad)
        grads[1].append(q.grad)
    stats = [[b.double() for b in m.buffers()] for m in (block, wanted_block)]
    return worst(*grads), worst(*stats)


@st.composite
def units(draw):
    groups = draw(st.sampled_from((1, 1, 2, 3)))
    depthwise = draw(st.booleans())
    widths = [groups * draw(st.integers(1, 5)) for _ in range(2)]
    if depthwise:
        groups = widths[0] = widths[1] = draw(st.sampled_from((3, 16, 21)))
    elif draw(st.booleans()):
        widths[1] = widths[0]
    try:
        return UnitSpec(
            'unit',
            *widths,
            draw(st.sampled_from((1, 3, 3, 5))),
            stride=draw(st.integers(1, 3)),
            dilation=draw(st.integers(1, 2)),
            groups=groups,
            num_conv_branches=draw(st.integers(0, 4)),
            branches=tuple(draw(st.sets(st.sampled_from(('conv', 'scale', 'skip')), min_size=1))),
            act_cfg=draw(st.sampled_from((None, dict(type='ReLU')))),
        )
    except SpecError:
        assume(False)


@pytest.mark.parametrize('method', ['moments', 'recompute'])
@settings(max_examples=110, deadline=None, derandomize=True)
@given(
    units(),
    st.sampled_from((0.1, 0.3, None)),
    st.booleans(),
    st.integers(1, 9),
    st.integers(4, 9),
    st.integers(0, 99),
)
def test_random_units(method, spec, momentum, affine, height, width, seed):
    torch.manual_seed(seed)
    block = MobileOneBlock(
        spec, norm_cfg=dict(type='BN', momentum=momentum, affine=affine), online_reparam=False
    ).double()
    randomize_norms(block, seed)
    wanted = copy.deepcopy(block)
    relu = spec.act_cfg is not None
    x = torch.randn(3, spec.in_channels, height, width, dtype=torch.float64) + 0.3
    # Of one value a channel there is no variance: draw another one.
    assume(PatchConv(spec).count(x) > 1)
    error, stats = compared(wanted, block, lambda im: sum_by(method, block.unit(relu), im), x, seed)
    assert error < 1e-9
    assert stats < 1e-10


@pytest.mark.parametrize('method', ['fused', 'recompute'])
@pytest.mark.parametrize('affine', [True, False])
@pytest.mark.parametrize(
    ('widths', 'branches'),
    [
        ((21, 21), ('conv', 'skip')),
        ((16, 16), ('conv',)),
        ((16, 21), ('conv', 'skip')),
        ((21, 5), ('conv', 'skip')),
    ],
)
@pytest.mark.parametrize('act', [None, dict(type='ReLU')])
def test_one_conv_branch(method, affine, widths, branches, act):
    spec = UnitSpec('unit', *widths, 1, num_conv_branches=1, branches=branches, act_cfg=act)
    block = MobileOneBlock(
        spec, online_reparam=False, norm_cfg=dict(type='BN', momentum=None, affine=affine)
    ).double()
    randomize_norms(block)
    wanted = copy.deepcopy(block)
    # More pixels than the kernels take at a time, and a last chunk not full.
    x = 3 + torch.randn(3, widths[0], 29, 31, generator=generator(), dtype=torch.float64)
    unit = block.unit(act is not None)
    if not is_one_conv(unit.config(), x):
        pytest.skip('no C++ compiler')
    error, stats = compared(wanted, block, lambda im: sum_by(method, unit, im), x)
    assert error < 1e-9
    assert stats < 1e-10


@pytest.mark.parametrize('method', ['moments', 'recompute', 'fused'])
@pytest.mark.parametrize('images', [1, 2])
def test_gradients_come_in_any_layout(method, images):
    spec = UnitSpec('unit', 24, 24, 1, num_conv_branches=1)
    block = MobileOneBlock(spec, online_reparam=False).double()
    x = torch.randn(images, 24, 7, 9, generator=generator(), dtype=torch.float64)
    if not is_one_conv(block.unit().config(), x):
        pytest.skip('no C++ compiler')
    grad = torch.randn(x.shape, generator=generator(1), dtype=x.dtype)
    found = []
    for layout in (torch.contiguous_format, torch.channels_last):
        own = x.to(memory_format=torch.channels_last).requires_grad_()
        sum_by(method, block.unit(), own).backward(grad.to(memory_format=layout))
        found.append(own.grad)
    assert worst(found[:1], found[1:]) < 1e-12


class LastStage(nn.Module):
    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return self.net(x)[-1]


def test_a_perturbed_weight_is_found():
    spec = UnitSpec('unit', 8, 8, 3, groups=8, num_conv_branches=2)
    block = MobileOneBlock(spec, online_reparam=False).double()
    wanted = copy.deepcopy(block)
    with torch.no_grad():
        block.branch_conv_list[0].conv.weight[0, 0, 0, 0] += 1e-4
    x = torch.randn(2, 8, 6, 6, dtype=torch.float64)
    error, _ = compared(wanted, block, lambda im: sum_by('moments', block.unit(), im), x)
    assert error > 1e-7


@pytest.mark.parametrize(
    ('arch', 'preference'),
    [
        ('s0', 'auto'),
        ('s0', 'memory'),
        ('s0', True),
        ('s1', 'auto'),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in [
                ('s1', 'memory'),
                ('s1', True),
                *itertools.product(('s2', 's3', 's4'), ('auto', 'memory', True)),
            ]
        ),
    ],
)
def test_networks_equal_mmpretrain(arch, preference):
    peer = MobileOne(arch).double()
    randomize_norms(peer)
    net = ConfigurableMobileOne(arch, online_reparam=preference).double()
    net.load_state_dict(peer.state_dict())
    peer.train()
    net.train()
    x = torch.randn(4, 3, 128, 128, generator=generator(), dtype=torch.float64)
    wanted, own = LastStage(peer), LastStage(net)
    error, stats = compared(wanted, own, own, x)
    assert error < 1e-9
    assert stats < 1e-10
