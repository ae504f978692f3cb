"""Folding as pure tensor functions, against NumPy and Python's fractions."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from helpers import generator, next_value, numpy_conv
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.errors import FoldError
from mmpretrain_mobileone_ext.models.fold import (
    fold_branches,
    fold_conv_norm,
    identity_kernel,
    pad_kernel,
    round_once,
)
from mmpretrain_mobileone_ext.models.spec import UnitSpec


def statistics(channels, seed=0):
    rng = generator(seed)
    mean, var, weight, bias = torch.rand(4, channels, generator=rng, dtype=torch.float64) + 0.5
    return dict(running_mean=mean, running_var=var, weight=weight, bias=bias)


def fractions(tensor):
    return [Fraction(v) for v in tensor.double().flatten().tolist()]


def test_the_formula_on_numbers_worked_out_by_hand():
    norm = dict(
        running_mean=torch.tensor([3.0]),
        running_var=torch.tensor([15.0]),
        weight=torch.tensor([8.0]),
        bias=torch.tensor([1.0]),
    )
    kernel, bias = fold_conv_norm(torch.tensor([[[[5.0]]]]), norm, eps=1.0)
    assert kernel.item() == 10  # 5 * 8 / sqrt(15 + 1)
    assert bias.item() == -5  # 1 - 3 * 8 / sqrt(15 + 1)


def test_a_norm_without_affine_has_unit_scale_and_no_shift():
    plain = {k: v for k, v in statistics(4).items() if 'running' in k}
    affine = dict(plain, weight=torch.ones(4), bias=torch.zeros(4))
    weight = torch.randn(4, 2, 3, 3)
    for got, wanted in zip(
        fold_conv_norm(weight, plain, 1e-3), fold_conv_norm(weight, affine, 1e-3)
    ):
        assert torch.equal(got, wanted)


@pytest.mark.parametrize('name', ['running_mean', 'running_var'])
def test_a_norm_without_statistics_is_refused(name):
    norm = statistics(4)
    del norm[name]
    with pytest.raises(FoldError, match='track_running_stats=False'):
        fold_conv_norm(torch.randn(4, 2, 1, 1), norm, 1e-5)


@pytest.mark.parametrize('kernel_size', [1, 3, 5, 7])
@pytest.mark.parametrize(('channels', 'groups'), [(6, 1), (6, 2), (6, 6)])
def test_the_identity_kernel_does_nothing(kernel_size, channels, groups):
    x = np.random.default_rng(0).normal(size=(2, channels, 8, 8))
    kernel = identity_kernel(channels, groups, kernel_size).numpy()
    assert kernel.sum() == channels
    out = numpy_conv(x, kernel, 1, kernel_size // 2, 1, groups)
    np.testing.assert_array_equal(out, x)


def test_a_padded_kernel_keeps_its_taps_at_the_centre():
    weight = torch.randn(4, 2, 3, 3)
    padded = pad_kernel(weight, 7)
    assert padded.shape == (4, 2, 7, 7)
    assert torch.equal(padded[..., 2:5, 2:5], weight)
    assert padded.count_nonzero() == weight.count_nonzero()


@pytest.mark.parametrize(('size', 'target'), [(3, 1), (2, 4), (2, 3), (4, 4)])
def test_a_kernel_without_a_centre_is_refused(size, target):
    with pytest.raises(FoldError, match=f'{size}x{size}'):
        pad_kernel(torch.zeros(1, 1, size, size), target)


def test_nothing_to_fold_is_an_error():
    with pytest.raises(FoldError, match='no branch'):
        fold_branches(UnitSpec('unit', 4, 4, 3), [])


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16])
@given(st.floats(-100, 100).filter(lambda v: abs(v) > 1e-3), st.integers(-(2**29), 2**29))
def test_rounding_to_16_bits_takes_the_nearest(dtype, near, shift):
    # A tie between two neighbours, and a hair beside it.
    low = torch.tensor([near], dtype=dtype)
    high = next_value(low, torch.inf)
    middle = (low.double() + high.double()) / 2
    value = middle * (1 + shift * 2.0**-52)
    got = fractions(round_once(value, dtype))[0]
    (exact,) = fractions(value)
    distances = [abs(f - exact) for f in fractions(torch.cat([low, high]))]
    assert abs(got - exact) == min(distances)


def test_rounding_agrees_with_numpy_on_float16():
    values = torch.randn(100_000, generator=generator(), dtype=torch.float64)
    values = torch.cat([values * s for s in (1e-9, 1e-6, 1e-3, 1, 1e3, 1e6)])
    ties = values.half().double() + values.half().double() * 2**-11
    values = torch.cat([values, ties, ties * (1 + 2.0**-50), -values.abs()])
    with np.errstate(over='ignore'):
        wanted = values.numpy().astype(np.float16)
    assert np.array_equal(round_once(values, torch.float16).numpy(), wanted, equal_nan=True)
    # The plain conversion does not, so this test can tell.
    assert not np.array_equal(values.half().numpy(), wanted, equal_nan=True)


@pytest.mark.parametrize('dtype', [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_rounding_keeps_special_values(dtype):
    values = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e300, -1e300], dtype=torch.float64)
    got = round_once(values, dtype)
    assert torch.equal(got, values.to(dtype))
    assert torch.equal(got.signbit(), values.signbit())
    assert round_once(torch.full((1,), torch.nan).double(), dtype).isnan()
