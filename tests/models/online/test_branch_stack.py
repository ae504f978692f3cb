"""Stacked parameters are the branches' own, and so are gradients."""

import torch
import torch.nn.functional as F
from helpers import generator
from hypothesis import given, settings
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.models.online import unit as branch_stack
from mmpretrain_mobileone_ext.models.online.unit import KernelShape


def kernels_of(shape, sizes):
    """A kernel for each size; None for a skip branch."""
    draw = generator()
    return [
        None
        if size is None
        else torch.randn(
            shape.out_channels,
            shape.width,
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
    shape = KernelShape(groups * width, groups, width, size)
    sizes = [dict(skip=None, scale=1, conv=size)[kind] for kind in kinds]
    kernels = kernels_of(shape, sizes)
    like = torch.zeros((), dtype=torch.float64)
    x = torch.randn(2, groups * width, 6, 6, dtype=torch.float64, generator=generator(1))
    stacked = shape.stack(kernels, like)
    for index, kernel in enumerate(kernels):
        own = shape.as_weight(stacked[:, index], like.dtype)
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
    shape = KernelShape(groups * width, groups, width, size)
    kernels = kernels_of(shape, (None, 1, size, size))
    like = torch.zeros((), dtype=torch.float64)
    stacked = shape.stack(kernels, like)
    probe = torch.randn(stacked.shape, dtype=dtype, generator=generator(2))
    (stacked * probe).sum().backward()
    grads = shape.unstack(probe, kernels)
    assert grads[0] is None
    for kernel, grad in zip(kernels[1:], grads[1:]):
        torch.testing.assert_close(grad, kernel.grad)
    moved = grads[2].detach().clone()
    grads[3].zero_()  # as an optimizer may
    torch.testing.assert_close(grads[2], moved)


def test_channels_without_a_value_get_the_default_and_no_gradient():
    shape = KernelShape(4, 2, 2, 1)
    value = torch.arange(4.0)
    stacked = shape.stack_channels([None, value], 1, value)
    assert stacked.tolist() == [[[1, 1], [0, 1]], [[1, 1], [2, 3]]]
    assert shape.unstack_channels(stacked, [None, value])[0] is None
    torch.testing.assert_close(shape.unstack_channels(stacked, [None, value])[1], value)


def test_what_inference_built_serves_training():
    branch_stack._identity.cache_clear()
    shape = KernelShape(3, 3, 1, 3)
    like = torch.zeros(())
    with torch.inference_mode():
        shape.stack([None], like)
    assert not branch_stack._identity(shape, like.dtype, like.device).is_inference()
