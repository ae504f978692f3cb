"""Triton's depthwise kernels against unfolded patches and autograd, in float64.

Bounds: a sum of n products is off by at most ``(n + 2) u`` times the sum of their magnitudes, with
u the rounding of the type that kernels compute in, and rounded once more to the type of the result.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from triton_kit import DEVICE, assert_within, normal, stored, unit, work

from mmpretrain_mobileone_ext.models.online.convs import OutputGrad
from mmpretrain_mobileone_ext.models.online.gpu.depthwise import TritonDepthwise
from mmpretrain_mobileone_ext.models.spec import UnitSpec

#: Lines, corners, one pixel, tiles of rows that end in the next image, two blocks of channels, more
#: than one strip of columns.
SHAPES = (
    *((1, 1, 1, 1), (2, 3, 1, 2), (1, 5, 2, 1), (1, 33, 2, 2), (3, 2, 1, 7), (2, 3, 7, 1)),
    *((1, 70, 3, 3), (2, 31, 5, 4), (1, 2, 6, 5), (9, 2, 3, 3), (1, 1, 2, 66)),
)
FEW = ((2, 3, 1, 2), (2, 31, 5, 4), (1, 2, 6, 5))
CASES = [(shape, torch.float32) for shape in SHAPES] + [
    (shape, dtype) for shape in FEW for dtype in (torch.bfloat16, torch.float16, torch.float64)
]
IDS = [f'{"x".join(map(str, shape))}-{str(dtype)[6:]}' for shape, dtype in CASES]


def every_case(test):
    """Of shapes, types and strides."""
    return pytest.mark.parametrize('stride', [1, 2])(
        pytest.mark.parametrize(('shape', 'dtype'), CASES, ids=IDS)(test)
    )


@dataclass
class Case:
    """A unit's tensors, in the images' type, and their patches in float64."""

    shape: tuple
    dtype: torch.dtype
    stride: int

    def __post_init__(self):
        n, c, h, w = self.shape
        self.conv = TritonDepthwise(UnitSpec('dw', c, c, 3, stride=self.stride, groups=c))
        self.x = normal(*self.shape, dtype=self.dtype) + 3
        if (n + c + h + w) % 2:  # else it lies as torch makes it
            self.x = self.x.to(memory_format=torch.channels_last)
        self.pivot = self.conv.pivot(self.x)
        self.weight = normal(c, 1, 3, 3, seed=1, dtype=work(self.dtype))
        outputs = (n, c, (h - 1) // self.stride + 1, (w - 1) // self.stride + 1)
        self.dy = normal(*outputs, seed=2, dtype=self.dtype)
        self.active = normal(*outputs, seed=3, dtype=self.dtype).relu()
        self.rounding = unit(work(self.dtype))

    @property
    def patches(self):
        """(N, C, 9, L)."""
        found = F.unfold(self.x.double(), 3, padding=1, stride=self.stride)
        return found.unflatten(1, (self.shape[1], 9))

    @property
    def centred(self):
        return self.patches - self.pivot.double().view(1, -1, 1, 1)

    def masked(self, relu):
        return self.dy.double() * (self.active > 0) if relu else self.dy.double()

    def grad(self, relu):
        return OutputGrad(self.dy, self.active if relu else None)


@every_case
def test_sums_around_the_pivot(shape, dtype, stride):
    check_sums(Case(shape, dtype, stride))


def check_sums(case):
    found, patches = case.conv.sums(case.x, case.pivot), case.centred
    assert found.count == patches.shape[0] * patches.shape[3]
    bound = (found.count + 2) * case.rounding
    assert_within(found.sums, patches.sum((0, 3)), bound * patches.abs().sum((0, 3)))
    both = 'nctl,ncul->ctu', patches, patches
    size = torch.einsum(both[0], patches.abs(), patches.abs())
    assert_within(found.products, torch.einsum(*both), bound * size)
    assert found.products.equal(found.products.transpose(1, 2))


@every_case
@pytest.mark.parametrize('relu', [False, True])
def test_convolution(shape, dtype, stride, relu):
    case = Case(shape, dtype, stride)
    bias = normal(shape[1], seed=4, dtype=dtype)
    found = case.conv.conv(case.x, case.weight, bias, relu)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    given = dict(stride=stride, padding=1, groups=shape[1])
    wanted = F.conv2d(case.x.double(), case.weight.double(), bias.double(), **given)
    size = F.conv2d(case.x.double().abs(), case.weight.double().abs(), bias.double().abs(), **given)
    wanted = wanted.relu() if relu else wanted
    assert_within(found, wanted, 12 * case.rounding * size + stored(dtype) * wanted.abs())


@every_case
@pytest.mark.parametrize('relu', [False, True])
def test_weight_and_bias_gradient(shape, dtype, stride, relu):
    check_weight_grad(Case(shape, dtype, stride), relu)


def check_weight_grad(case, relu):
    kernel, bias = case.conv.weight_grad(case.x, case.grad(relu), case.weight)
    assert kernel.shape == case.weight.shape
    patches, dy = case.patches, case.masked(relu).flatten(2).unsqueeze(2)
    bound = (patches.shape[0] * patches.shape[3] + 2) * case.rounding
    size = bound * (patches * dy).abs().sum((0, 3))
    assert_within(kernel.view(-1, 9), (patches * dy).sum((0, 3)), size)
    assert_within(bias, dy.sum((0, 2, 3)), bound * dy.abs().sum((0, 2, 3)))


@pytest.mark.parametrize('stride', [1, 2])
def test_parts_of_rows_and_of_columns(stride):
    case = Case((4, 1, 5, 66), torch.float32, stride)
    check_sums(case)
    check_weight_grad(case, True)


def input_grad(case, relu, products, sums):
    """Gradient to x, and the sum of the magnitudes of what it is made of."""
    geometry = dict(kernel_size=3, padding=1, stride=case.stride)
    dy = case.masked(relu).flatten(2).unsqueeze(2)
    weight = case.weight.double().view(1, -1, 9, 1)
    size = case.shape[2:]
    moved = torch.matmul(products, case.centred) + sums.unsqueeze(2) + weight * dy
    most = torch.matmul(products.abs(), case.centred.abs()) + sums.abs().unsqueeze(2)
    most = most + (weight * dy).abs()
    return [F.fold(part.flatten(1, 2), size, **geometry) for part in (moved, most)]


@every_case
def test_input_gradient(shape, dtype, stride):
    case, relu = Case(shape, dtype, stride), sum(shape) % 2 > 0
    products = normal(shape[1], 9, 9, seed=5)
    products, sums = products + products.transpose(1, 2), normal(shape[1], 9, seed=6)
    given = (case.x, case.grad(relu), case.weight, products, sums, case.pivot)
    found = case.conv.input_grad(*given)
    assert found.dtype == dtype
    wanted, size = input_grad(case, relu, products, sums)
    # 25 pixels, 9 gradients and a constant; coefficients are rounded too.
    assert_within(found, wanted, 40 * case.rounding * size + stored(dtype) * wanted.abs())


def branches_of(case):
    """Three branches, marks of a few of their channels, and their outputs."""
    channels = case.shape[1]
    kernels = normal(3, channels, 9, seed=7, dtype=work(case.dtype))
    direct = normal(3, channels, seed=8) > 0.5
    direct[1] = False
    z = torch.einsum('nctl,jct->jncl', case.centred, kernels.double())
    size = torch.einsum('nctl,jct->jncl', case.centred.abs(), kernels.double().abs())
    return kernels, direct, z, size


@every_case
def test_statistics_of_marked_branches(shape, dtype, stride):
    case = Case(shape, dtype, stride)
    kernels, direct, z, size = branches_of(case)
    found = case.conv.direct_moments(case.x, case.pivot, kernels, direct)
    wanted = torch.stack([z.sum((1, 3)), z.square().sum((1, 3))])
    bound = torch.stack([size.sum((1, 3)), size.square().sum((1, 3))])
    bound = (z[0, :, 0].numel() + 24) * unit(torch.float64) * bound
    assert_within(found, wanted * direct, bound)


@every_case
def test_gradients_of_marked_branches(shape, dtype, stride):
    case = Case(shape, dtype, stride)
    kernels, direct, z, size = branches_of(case)
    mean, dy = z.mean((1, 3)), case.masked(True).flatten(2)
    given = (case.x, case.grad(True), case.pivot, kernels, direct, mean)
    found = case.conv.direct_grads(*given)
    centre = mean[:, None, :, None]
    wanted = (dy * (z - centre)).sum((1, 3))
    bound = (dy.abs() * (size + centre.abs())).sum((1, 3))
    bound = (z[0, :, 0].numel() + 24) * unit(torch.float64) * bound
    assert_within(found, wanted * direct, bound)


@pytest.mark.parametrize('shape', FEW)
def test_a_pivot_is_the_mean_of_few_pixels(shape):
    case = Case(shape, torch.bfloat16, 1)
    wanted = case.x.double().mean((0, 2, 3))
    assert_within(case.pivot, wanted, stored(torch.float32) * wanted.abs())


def test_a_pivot_is_of_pixels_of_all_images():
    x = torch.arange(8, dtype=torch.float32, device=DEVICE).view(8, 1, 1, 1).expand(8, 2, 20, 20)
    case = Case((1, 2, 1, 1), torch.float32, 1)
    assert_within(
        case.conv.pivot(x).double(), torch.full((2,), 3.5, dtype=torch.float64), torch.tensor(1e-6)
    )


def test_large_values_keep_a_finite_pivot():
    x = torch.full((2, 3, 4, 4), torch.finfo(torch.float32).max, device=DEVICE)
    assert Case((1, 3, 1, 1), torch.float32, 1).conv.pivot(x).isfinite().all()


@pytest.mark.parametrize('stride', [1, 2])
class TestWrongOnesAreSeen:
    """Each bound with one operand a little off."""

    shape = (2, 31, 5, 4)

    def test_pivot(self, stride):
        case = Case(self.shape, torch.float32, stride)
        other = case.pivot.clone()
        other[30] *= 1 + 1e-4
        found, patches = case.conv.sums(case.x, other), case.centred
        bound = (found.count + 2) * case.rounding * patches.abs().sum((0, 3))
        with pytest.raises(AssertionError, match='times the bound'):
            assert_within(found.sums, patches.sum((0, 3)), bound)

    @pytest.mark.parametrize('which', ['weight', 'products', 'sums', 'pivot', 'x', 'dy'])
    def test_input_gradient(self, stride, which):
        case = Case(self.shape, torch.float32, stride)
        products = normal(31, 9, 9, seed=5)
        products, sums = products + products.transpose(1, 2), normal(31, 9, seed=6)
        wanted, size = input_grad(case, False, products, sums)
        given = dict(x=case.x, grad=case.grad(False), weight=case.weight)
        given |= dict(products=products, sums=sums, pivot=case.pivot)
        if which == 'dy':
            given['grad'] = OutputGrad(case.dy * (1 + 1e-4))
        else:
            given[which] = given[which] * (1 + 1e-4)
        with pytest.raises(AssertionError, match='times the bound'):
            assert_within(case.conv.input_grad(**given), wanted, 40 * case.rounding * size)

    def test_the_mask(self, stride):
        case = Case(self.shape, torch.float32, stride)
        kernel, _ = case.conv.weight_grad(case.x, case.grad(False), case.weight)
        terms = case.patches * case.masked(True).flatten(2).unsqueeze(2)
        bound = 1000 * case.rounding * terms.abs().sum((0, 3))
        with pytest.raises(AssertionError, match='times the bound'):
            assert_within(kernel.view(-1, 9), terms.sum((0, 3)), bound)


def test_gradients_of_nan_stay_nan():
    case = Case((1, 2, 3, 3), torch.float32, 1)
    x = case.x.clone()
    x[0, 1, 1, 1] = float('nan')
    out = case.conv.conv(x, case.weight, torch.zeros(2, device=DEVICE), True)
    assert out[0, 1].isnan().all()
    assert out[0, 0].isfinite().all()
