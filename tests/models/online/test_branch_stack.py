"""Stacked parameters are the branches' own, and so are gradients."""

import torch
import torch.nn.functional as F
from helpers import generator
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.models.online import unit as branch_stack
from mmpretrain_mobileone_ext.models.online.unit import (
    as_weight,
    stack_channels,
    stack_kernels,
    unstack_channels,
    unstack_kernels,
)
from mmpretrain_mobileone_ext.models.spec import UnitSpec


def unit_of(groups, width, size):
    return UnitSpec('unit', groups * width, groups * width, size, groups=groups)


def kernels_of(spec, sizes):
    """A kernel for each size; None for a skip branch."""
    draw = generator()
    return [
        None
        if size is None
        else torch.randn(
            spec.out_channels,
            spec.group_width,
            size,
            size,
            generator=draw,
            dtype=torch.float64,
            requires_grad=True,
        )
        for size in sizes
    ]


@settings(deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from((1, 3, 5)),
    st.lists(st.sampled_from(('skip', 'scale', 'conv')), min_size=1, max_size=5),
)
def test_each_part_convolves_as_its_branch(groups, width, size, kinds):
    spec = unit_of(groups, width, size)
    sizes = [dict(skip=None, scale=1, conv=size)[kind] for kind in kinds]
    kernels = kernels_of(spec, sizes)
    like = torch.zeros((), dtype=torch.float64)
    x = torch.randn(2, groups * width, 6, 6, dtype=torch.float64, generator=generator(1))
    stacked = stack_kernels(spec, kernels, like)
    for index, kernel in enumerate(kernels):
        own = as_weight(spec, stacked[:, index], like.dtype)
        found = F.conv2d(x, own, padding=size // 2, groups=groups)
        wanted = (
            x
            if kernel is None
            else F.conv2d(x, kernel, padding=kernel.shape[-1] // 2, groups=groups)
        )
        torch.testing.assert_close(found, wanted)


@settings(deadline=None, derandomize=True)
@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from((1, 3)),
    st.sampled_from((torch.float32, torch.float64)),
)
def test_unstacking_is_the_gradient_of_stacking(groups, width, size, dtype):
    spec = unit_of(groups, width, size)
    kernels = kernels_of(spec, (None, 1, size, size))
    like = torch.zeros((), dtype=torch.float64)
    stacked = stack_kernels(spec, kernels, like)
    probe = torch.randn(stacked.shape, dtype=dtype, generator=generator(2))
    (stacked * probe).sum().backward()
    grads = unstack_kernels(spec, probe, kernels)
    assert grads[0] is None
    for kernel, grad in zip(kernels[1:], grads[1:]):
        torch.testing.assert_close(grad, kernel.grad)
    moved = grads[2].detach().clone()
    grads[3].zero_()  # as an optimizer may
    torch.testing.assert_close(grads[2], moved)


def test_channels_without_a_value_get_the_default_and_no_gradient():
    spec = unit_of(2, 2, 1)
    value = torch.arange(4.0)
    stacked = stack_channels(spec, [None, value], 1, value)
    assert stacked.tolist() == [[[1, 1], [0, 1]], [[1, 1], [2, 3]]]
    assert unstack_channels(stacked, [None, value])[0] is None
    torch.testing.assert_close(unstack_channels(stacked, [None, value])[1], value)


def test_what_inference_built_serves_training():
    branch_stack._kept_identity.cache_clear()
    spec = unit_of(3, 1, 3)
    like = torch.zeros(())
    with torch.inference_mode():
        stack_kernels(spec, [None], like)
    assert not branch_stack._kept_identity(3, 3, 3, like.dtype, like.device).is_inference()
