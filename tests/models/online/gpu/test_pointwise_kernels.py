"""Triton's pointwise kernels against products of matrices in float64.

Bounds as in ``test_depthwise_kernels``.
"""

from dataclasses import dataclass

import pytest
import torch
from triton_kit import assert_within, normal, stored, unit, work

from mmpretrain_mobileone_ext.models.online.convs import OutputGrad
from mmpretrain_mobileone_ext.models.online.gpu.pointwise import TritonPointwise
from mmpretrain_mobileone_ext.models.spec import UnitSpec

#: (N, C, H, W) and output channels: one pixel, lines, several blocks of channels on either side,
#: more pixels than are added up at a time.
SHAPES = (
    *(((1, 1, 1, 1), 1), ((2, 5, 3, 4), 7), ((1, 3, 1, 5), 2), ((1, 16, 7, 1), 16)),
    *(((1, 70, 2, 2), 5), ((2, 6, 3, 3), 66), ((2, 65, 2, 3), 65), ((3, 4, 17, 11), 3)),
    *(((1, 33, 2, 2), 31), ((4, 2, 1, 1), 9)),
)
FEW = (((2, 5, 3, 4), 7), ((1, 16, 7, 1), 16), ((2, 65, 2, 3), 65))
CASES = [(*shape, torch.float32) for shape in SHAPES] + [
    (*shape, dtype) for shape in FEW for dtype in (torch.bfloat16, torch.float16, torch.float64)
]
IDS = [f'{"x".join(map(str, shape))}-{out}-{str(dtype)[6:]}' for shape, out, dtype in CASES]
every_case = pytest.mark.parametrize(('shape', 'out', 'dtype'), CASES, ids=IDS)
either_way = pytest.mark.parametrize('relu', [False, True])


@dataclass
class Case:
    """A unit's tensors, in the images' type, and matrices (pixels, channels) in float64."""

    shape: tuple
    out: int
    dtype: torch.dtype
    skip: bool = False

    def __post_init__(self):
        n, c, h, w = self.shape
        branches = ('conv', 'skip') if self.skip else ('conv',)
        self.conv = TritonPointwise(UnitSpec('pw', c, self.out, 1, branches=branches))
        self.x = normal(*self.shape, dtype=self.dtype) + 3
        if (n + c + h + w) % 2:  # else it lies as torch makes it
            self.x = self.x.to(memory_format=torch.channels_last)
        self.pivot = self.conv.pivot(self.x)
        # What the product rounds to the images' type is of that type.
        self.weight = normal(self.out, c, 1, 1, seed=1, dtype=self.dtype).to(work(self.dtype))
        self.dy = normal(n, self.out, h, w, seed=2, dtype=self.dtype)
        self.active = normal(n, self.out, h, w, seed=3, dtype=self.dtype).relu()
        self.rounding = unit(work(self.dtype))

    @property
    def pixels(self):
        return rows(self.x)

    @property
    def centred(self):
        return self.pixels - self.pivot.double()

    @property
    def matrix(self):
        return self.weight.flatten(1).double()

    def masked(self, relu):
        return rows(self.dy) * (rows(self.active) > 0) if relu else rows(self.dy)

    def grad(self, relu):
        return OutputGrad(self.dy, self.active if relu else None)


def rows(images):
    return images.double().permute(0, 2, 3, 1).flatten(0, 2)


@every_case
def test_sums_around_the_pivot(shape, out, dtype):
    case = Case(shape, out, dtype)
    found, pixels = case.conv.sums(case.x, case.pivot), case.centred
    assert found.count == len(pixels)
    bound = (found.count + 4) * case.rounding
    assert_within(found.sums[0], pixels.sum(0), bound * pixels.abs().sum(0))
    assert_within(found.products[0], pixels.t() @ pixels, bound * (pixels.abs().t() @ pixels.abs()))
    assert found.products.equal(found.products.transpose(1, 2))


@every_case
@either_way
def test_convolution(shape, out, dtype, relu):
    case = Case(shape, out, dtype, skip=shape[1] == out)
    bias = normal(out, seed=4, dtype=dtype)
    found = case.conv.conv(case.x, case.weight, bias, relu)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    wanted = case.pixels @ case.matrix.t() + bias.double()
    size = case.pixels.abs() @ case.matrix.abs().t() + bias.double().abs()
    wanted = wanted.relu() if relu else wanted
    # The product is rounded to the images' type, and so is the end.
    bound = (shape[1] + 4) * case.rounding * size + stored(dtype) * (size + wanted.abs())
    assert_within(rows(found), wanted, bound)


@every_case
@either_way
def test_weight_and_bias_gradient(shape, out, dtype, relu):
    case = Case(shape, out, dtype)
    dy = case.masked(relu)
    kernel, bias = case.conv.weight_grad(case.x, case.grad(relu), case.weight, case.pivot)
    assert kernel.shape == case.weight.shape
    bound = (len(dy) + 2) * case.rounding
    # A value minus the pivot is rounded to the images' type.
    size = (bound + stored(dtype)) * (dy.abs().t() @ case.centred.abs())
    assert_within(kernel.flatten(1), dy.t() @ case.centred, size)
    assert_within(bias, dy.sum(0), bound * dy.abs().sum(0))


@every_case
@either_way
def test_weight_gradient_without_a_pivot(shape, out, dtype, relu):
    case = Case(shape, out, dtype)
    dy = case.masked(relu)
    kernel, _ = case.conv.weight_grad(case.x, case.grad(relu), case.weight)
    size = (len(dy) + 2) * case.rounding * (dy.abs().t() @ case.pixels.abs())
    assert_within(kernel.flatten(1), dy.t() @ case.pixels, size)


def input_grad(case, relu, products, sums):
    """Gradient to pixels, and the sum of the magnitudes of what it is made of."""
    dy = case.masked(relu)
    wanted = case.centred @ products[0] + sums + dy @ case.matrix
    size = case.centred.abs() @ products[0].abs() + sums.abs() + dy.abs() @ case.matrix.abs()
    return wanted, size


def moves(channels):
    products = normal(1, channels, channels, seed=5)
    return products + products.transpose(1, 2), normal(1, channels, seed=6)


@every_case
@either_way
def test_input_gradient(shape, out, dtype, relu):
    case, (products, sums) = Case(shape, out, dtype), moves(shape[1])
    given = (case.x, case.grad(relu), case.weight, products, sums, case.pivot)
    found = case.conv.input_grad(*given)
    assert found.dtype == dtype
    wanted, size = input_grad(case, relu, products, sums)
    # Both factors of a product of moments are rounded to the images' type, as is the result.
    terms = shape[1] + out + 3
    bound = ((terms + 4) * case.rounding + 2 * stored(dtype)) * size + stored(dtype) * wanted.abs()
    assert_within(rows(found), wanted, bound)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float32])
def test_a_constant_is_rounded_no_more_than_in_float32(dtype):
    case = Case((1, 5, 2, 2), 3, dtype)
    _, sums = moves(5)
    case.x[:] = 3
    given = (case.x, OutputGrad(case.dy * 0), case.weight, sums.new_zeros(1, 5, 5), sums)
    found = case.conv.input_grad(*given, torch.full_like(case.pivot, 3))
    wanted = sums.expand(4, 5)
    assert_within(rows(found), wanted, (stored(dtype) + 3 * unit(torch.float32)) * wanted.abs())


@pytest.mark.parametrize('dtype', [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize(
    ('shape', 'out'), [((2, 5, 3, 4), 5), ((1, 70, 2, 1), 3), ((1, 1, 1, 1), 1)]
)
def test_marked_branches(shape, out, dtype):
    case = Case(shape, out, dtype)
    kernels = [normal(out, shape[1], 1, 1, seed=7, dtype=work(dtype))]
    kernels += [None] if shape[1] == out else []
    pixels, dy = case.centred, case.masked(True)
    z = torch.stack([pixels if k is None else pixels @ k.flatten(1).double().t() for k in kernels])
    most = sum(
        pixels.abs().sum(1, keepdim=True) * (1 if k is None else k.abs().max()) for k in kernels
    )
    direct = normal(len(kernels), out, seed=8) > 0.3
    found = case.conv.direct_moments(case.x, case.pivot, kernels, direct)
    wanted = torch.stack([z.sum(1), z.square().sum(1)]) * direct
    bound = 4 * (len(pixels) + shape[1]) * unit(torch.float64)
    assert_within(found[0], wanted[0], bound * most.sum() + 0 * wanted[0])
    assert_within(found[1], wanted[1], bound * most.square().sum() + 0 * wanted[1])
    mean = z.mean(1)
    given = (case.x, case.grad(True), case.pivot, kernels, direct, mean)
    wanted = (dy * (z - mean[:, None])).sum(1) * direct
    size = bound * (dy.abs().sum() * 2 * most.sum()) + 0 * wanted
    assert_within(case.conv.direct_grads(*given), wanted, size)


@pytest.mark.parametrize('which', ['weight', 'products', 'sums', 'pivot', 'x'])
def test_another_operand_is_seen(which):
    case, (products, sums) = Case((2, 5, 3, 4), 7, torch.float32), moves(5)
    wanted, size = input_grad(case, False, products, sums)
    given = dict(x=case.x, grad=case.grad(False), weight=case.weight)
    given |= dict(products=products, sums=sums, pivot=case.pivot)
    given[which] = given[which] * (1 + 1e-4)
    with pytest.raises(AssertionError, match='times the bound'):
        assert_within(rows(case.conv.input_grad(**given)), wanted, 20 * case.rounding * size)


def test_another_pivot_is_seen():
    case = Case((2, 5, 3, 4), 7, torch.float32)
    found, pixels = case.conv.sums(case.x, case.pivot * (1 + 1e-4)), case.centred
    bound = (found.count + 4) * case.rounding * pixels.abs().sum(0)
    with pytest.raises(AssertionError, match='times the bound'):
        assert_within(found.sums[0], pixels.sum(0), bound)
