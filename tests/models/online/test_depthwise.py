"""Compiled depthwise kernels against unfolded patches, in float64."""

import pytest
import torch
from helpers import generator

from mmpretrain_mobileone_ext.models.online.convs import (
    DepthwiseConv,
    OutputGrad,
    PatchConv,
    has_depthwise_kernels,
)
from mmpretrain_mobileone_ext.models.online.kernels import compiled_kernels
from mmpretrain_mobileone_ext.models.spec import UnitSpec

pytestmark = pytest.mark.skipif(compiled_kernels() is None, reason='no C++ compiler')
#: Lines and corners; bands that end before the image (2048 pixels) do.
SIZES = [(1, 1), (1, 5), (5, 1), (2, 2), (3, 2), (2, 7), (9, 9), (50, 47), (1, 2100), (2100, 2)]


def uniform(*shape, seed=0):
    return torch.rand(shape, generator=generator(seed), dtype=torch.float64) + 0.5


def case(size, stride, channels=21):
    """A unit, images, and gradients to a ReLU after it, some masked."""
    spec = UnitSpec('dw', channels, channels, 3, stride=stride, groups=channels)
    x = uniform(2, channels, *size)
    assert has_depthwise_kernels(spec, x)
    outputs = (2, channels, *((s - 1) // stride + 1 for s in size))
    return (
        spec,
        x,
        OutputGrad(uniform(*outputs, seed=1) - 1, (uniform(*outputs, seed=2) - 1).relu()),
    )


def pivot():
    return uniform(21, seed=6)


def sums(conv, x, around):
    found = conv.sums(x, around)
    assert found.count == conv.count(x)
    return found.sums, found.products


def assert_equal(found, wanted):
    # Around a pivot sums may be near 0, in which their terms have cancelled.
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-13 * wanted.abs().max().item())


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('size', SIZES)
def test_moments(size, stride):
    spec, x, _ = case(size, stride)
    for around in (pivot(), torch.zeros_like(pivot())):
        found, wanted = (sums(conv(spec), x, around) for conv in (DepthwiseConv, PatchConv))
        for own, other in zip(found, wanted):
            assert_equal(own, other)


@pytest.mark.parametrize('stride', [1, 2])
def test_sums_are_of_padded_patches_minus_the_pivot(stride):
    spec, x, _ = case((9, 8), stride)
    padded = torch.nn.functional.pad(x, [1, 1, 1, 1]) - pivot().view(1, -1, 1, 1)
    patches = padded.unfold(2, 3, stride).unfold(3, 3, stride)
    patches = patches.permute(1, 4, 5, 0, 2, 3).reshape(21, 9, -1)
    for conv in (DepthwiseConv, PatchConv):
        found = sums(conv(spec), x, pivot())
        assert_equal(found[0], patches.sum(2))
        assert_equal(found[1], patches @ patches.transpose(1, 2))


@pytest.mark.parametrize('stride', [1, 2, 3])
@pytest.mark.parametrize('size', SIZES)
def test_gradients(size, stride):
    spec, x, grad = case(size, stride)
    weight, moved = uniform(21, 1, 3, 3, seed=3), uniform(21, 9, seed=4)
    products = uniform(21, 9, 9, seed=5)
    products = products + products.transpose(1, 2)
    found, wanted = (
        (
            *conv(spec).weight_grad(x, grad, weight, pivot()),
            conv(spec).input_grad(x, grad, weight, products, moved, pivot()),
        )
        for conv in (DepthwiseConv, PatchConv)
    )
    for own, other in zip(found, wanted):
        torch.testing.assert_close(own, other, rtol=1e-12, atol=1e-12)


def test_one_other_pixel_is_seen():
    spec, x, _ = case((9, 9), 1)
    wanted = sums(PatchConv(spec), x, pivot())
    x[1, 20, 8, 0] *= 1 + 1e-9
    for found, of in zip(sums(DepthwiseConv(spec), x, pivot()), wanted):
        with pytest.raises(AssertionError):
            assert_equal(found, of)


@pytest.mark.parametrize('size', [(2, 2), (14, 14), (56, 56)])
def test_float32_rounds_no_more_than_sums_of_pixels_do(size):
    spec, x, _ = case(size, 1)
    around = torch.zeros(21)
    exact = sums(PatchConv(spec), x, around.double())
    for found, wanted in zip(sums(DepthwiseConv(spec), x.float(), around), exact):
        torch.testing.assert_close(found, wanted, rtol=5e-7, atol=0)
