"""Rounding of a unit's methods in float32, against that of a textbook.

The oracle is a unit's branches in float64, the bound what the textbook's branches lose in float32
on any machine. Inputs are what a ReLU hands on: half of the values are zero, and some channels are
almost never active.
"""

import copy
import functools
import math

import pytest
import torch
from helpers import generator, randomize_norms
from textbook import textbook_branches

from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.online.kernels import compiled_kernels
from mmpretrain_mobileone_ext.models.spec import UnitSpec

METHODS = dict(
    branches=MobileOneBlock._branch_sum,
    moments=lambda block, x: sum_by('moments', block.unit(), x),
    fused=lambda block, x: sum_by('fused', block.unit(), x),
    recompute=lambda block, x: sum_by('recompute', block.unit(), x),
)
UNITS = dict(
    pointwise=UnitSpec('unit', 128, 128, 1, num_conv_branches=4),
    wide=UnitSpec('unit', 256, 256, 1, num_conv_branches=4),
    one_branch=UnitSpec('unit', 128, 128, 1, num_conv_branches=1),
    depthwise=UnitSpec('unit', 96, 96, 3, groups=96, num_conv_branches=4),
    strided=UnitSpec('unit', 96, 96, 3, stride=2, groups=96, num_conv_branches=1),
)


def rectified(channels):
    """Images of which every eighth channel is active in one pixel of 1000.

    In the first pixel all are: no value there is a typical one.
    """
    x = torch.randn(8, channels, 16, 16, generator=generator(0))
    rare = torch.rand(x[:, ::8].shape, generator=generator(1)) < 1e-3
    x[:, ::8] = (x[:, ::8].abs() + 3) * rare
    x[0, :, 0, 0] = 4
    return x.relu_()


def outcome(block, run, x):
    """Output, and gradients to the images and to all parameters."""
    block = copy.deepcopy(block)
    x = x.clone().requires_grad_()
    out = run(block, x)
    out.backward(torch.randn(out.shape, generator=generator(3)).to(x.dtype))
    grads = [p.grad.flatten() for p in block.parameters()]
    return [v.double() for v in (out.detach(), x.grad, torch.cat(grads))]


def errors(found, wanted):
    return torch.stack([(f - w).norm() / w.norm() for f, w in zip(found, wanted)])


class Case:
    """A unit, its exact outcome, and the errors that are allowed."""

    def __init__(self, unit):
        self.spec = UNITS[unit]
        self.block = randomize_norms(MobileOneBlock(self.spec, online_reparam=False))
        self.x = rectified(self.spec.in_channels)
        exact = copy.deepcopy(self.block).double()
        self.wanted = outcome(exact, MobileOneBlock._branch_sum, self.x.double())
        textbook = outcome(self.block, textbook_branches, self.x)
        # Normalization, the sum of branches and the activation are some eight steps, which a kernel
        # may take in another order. Roundings are independent: n of them add up to the square root
        # of n.
        terms = self.spec.kernel_size**2 * (self.spec.in_channels // self.spec.groups)
        self.bound = errors(textbook, self.wanted) * math.sqrt((terms + 8) / terms)

    def errors(self, method):
        # In the layout in which methods are called.
        x = self.x.to(memory_format=torch.channels_last)
        return errors(outcome(self.block, method, x), self.wanted)


case = functools.cache(Case)


@pytest.mark.parametrize(
    ('unit', 'method'),
    [
        ('pointwise', 'moments'),
        ('wide', 'moments'),
        ('one_branch', 'fused'),
        ('one_branch', 'recompute'),
        ('pointwise', 'recompute'),
        ('depthwise', 'moments'),
        ('strided', 'moments'),
        *((unit, 'branches') for unit in UNITS),
    ],
)
def test_rounding_is_at_most_that_of_a_textbook(unit, method):
    if method != 'branches' and compiled_kernels() is None:
        pytest.skip('no C++ compiler')
    found, bound = case(unit).errors(METHODS[method]), case(unit).bound
    assert (found < bound).all(), (found / bound).tolist()


def test_the_textbook_is_right():
    for unit in ('one_branch', 'depthwise', 'strided'):
        exact = copy.deepcopy(case(unit).block).double()
        found = outcome(exact, textbook_branches, case(unit).x.double())
        # A sum of 2048 terms: epsilon of float64 times their number.
        assert (errors(found, case(unit).wanted) < 2048 * 2.3e-16).all()


@pytest.mark.parametrize('unit', ['pointwise', 'depthwise'])
def test_a_few_epsilons_too_many_are_seen(unit):

    def careless(block, x):
        for branch in block.branch_conv_list:
            noise = torch.randn(branch.conv.weight.shape, generator=generator(5))
            branch.conv.weight.data.mul_(1 + 1e-6 * noise)
        return MobileOneBlock._branch_sum(block, x)

    assert (case(unit).errors(careless) > case(unit).bound).any()
