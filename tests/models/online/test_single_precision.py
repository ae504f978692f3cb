"""Rounding of the online forms in float32, against that of the branches.

The oracle is a unit's branches in float64. Inputs are what a ReLU hands on:
half of the values are zero, and some channels are almost never active.
"""
import copy

import pytest
import torch
from helpers import generator, randomize_norms

from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online.moments_form import moments_form
from mmpretrain_mobileone_ext.models.online.native import compiled_kernels
from mmpretrain_mobileone_ext.models.online.recompute_form import (
    fused_form,
    recompute_form,
)
from mmpretrain_mobileone_ext.spec import UnitSpec

FORMS = dict(moments=moments_form, fused=fused_form, recompute=recompute_form)
UNITS = dict(
    pointwise=UnitSpec('unit', 128, 128, 1, num_conv_branches=4),
    wide=UnitSpec('unit', 256, 256, 1, num_conv_branches=4),
    one_branch=UnitSpec('unit', 128, 128, 1, num_conv_branches=1),
    depthwise=UnitSpec('unit', 96, 96, 3, groups=96, num_conv_branches=4),
    strided=UnitSpec('unit', 96, 96, 3, stride=2, groups=96,
                     num_conv_branches=1))


def rectified(channels, seed):
    """Images of which every eighth channel is active in one pixel of 1000.

    In the first pixel all are: no value there is a typical one.
    """
    x = torch.randn(16, channels, 16, 16, generator=generator(seed))
    rare = torch.rand(x[:, ::8].shape, generator=generator(seed + 1)) < 1e-3
    x[:, ::8] = (x[:, ::8].abs() + 3) * rare
    x[0, :, 0, 0] = 4
    return x.relu_()


def outcome(block, run, x):
    """Output, and gradients to the images and to all parameters."""
    x = x.clone().requires_grad_()
    out = run(block, x)
    out.backward(torch.randn(out.shape, generator=generator(3)).to(x.dtype))
    grads = [p.grad.flatten() for p in block.parameters()]
    return [v.double() for v in (out.detach(), x.grad, torch.cat(grads))]


def errors(found, wanted):
    return torch.stack([(f - w).norm() / w.norm()
                        for f, w in zip(found, wanted)])


def mean_ratios(spec, form):
    """A form's errors by the branches', averaged over three seeds."""
    found = []
    for seed in range(3):
        block = MobileOneBlock(spec, online_reparam=False)
        randomize_norms(block, seed)
        x = rectified(spec.in_channels, seed)
        wanted = outcome(copy.deepcopy(block).double(),
                         MobileOneBlock._branch_sum, x.double())
        branches = outcome(copy.deepcopy(block),
                           MobileOneBlock._branch_sum, x)
        # In the layout in which forms are called.
        x = x.to(memory_format=torch.channels_last)
        own = outcome(block, lambda b, x: form(b.unit(), x), x)
        found.append(errors(own, wanted) / errors(branches, wanted))
    return torch.stack(found).mean(0).tolist()


@pytest.mark.parametrize(('unit', 'form'), [
    ('pointwise', 'moments'), ('wide', 'moments'), ('one_branch', 'fused'),
    ('one_branch', 'recompute'), ('pointwise', 'recompute'),
    ('depthwise', 'moments'), ('strided', 'moments')])
def test_rounding_is_that_of_the_branches(unit, form):
    if compiled_kernels() is None:
        pytest.skip('no C++ compiler')
    output, images, parameters = mean_ratios(UNITS[unit], FORMS[form])
    assert output < 1.15
    # A product over 128 channels rounds more than a convolution's backward
    # in blocks of 64.
    assert images < 1.6
    assert parameters < 1.25


@pytest.mark.parametrize('unit', UNITS)
def test_branches_round_alike_in_every_layout(unit):
    spec = UNITS[unit]
    block = MobileOneBlock(spec, online_reparam=False)
    x = rectified(spec.in_channels, 0)
    wanted = outcome(block.double(), MobileOneBlock.__call__, x.double())
    block.float().zero_grad()
    found = outcome(block, MobileOneBlock.__call__, x.to(
        memory_format=torch.channels_last))
    assert (errors(found, wanted) < 5e-6).all()
