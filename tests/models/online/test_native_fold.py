"""Folding by compiled kernels against folding by torch's operators."""

import pytest
import torch
from helpers import generator

from mmpretrain_mobileone_ext.models.online.batch_fold import DirectStats, Folding, PatchSums
from mmpretrain_mobileone_ext.models.online.kernels import compiled_kernels
from mmpretrain_mobileone_ext.models.online.native_fold import DepthwiseFolding, PointwiseFolding
from mmpretrain_mobileone_ext.models.online.unit import BranchParams
from mmpretrain_mobileone_ext.models.spec import UnitSpec

pytestmark = pytest.mark.skipif(compiled_kernels() is None, reason='no C++ compiler')
EPS = (1e-5, 1e-3, 1e-5, 1e-4)
COUNT = 50


def normal(*shape, seed, dtype=torch.float64):
    return torch.randn(shape, generator=generator(seed)).to(dtype)


def sums_of(groups, taps, seed=0, spread=1.0):
    """Of random patches, whose mean is not the pivot."""
    p = normal(groups, taps, COUNT, seed=seed) * spread + 1
    pivot = normal(taps if groups == 1 else groups, seed=7)
    return PatchSums(COUNT, p.sum(2), p @ p.transpose(1, 2), pivot)


def depthwise(dtype=torch.float64, channels=5):
    """Branches of 3x3, skip, 1x1 and 3x3; two norms are not affine."""
    kernels = (
        normal(channels, 1, 3, 3, seed=1, dtype=dtype),
        None,
        normal(channels, 1, 1, 1, seed=2, dtype=dtype),
        normal(channels, 1, 3, 3, seed=3, dtype=dtype),
    )
    return (
        DepthwiseFolding,
        UnitSpec('unit', channels, channels, 3, groups=channels),
        BranchParams(kernels, *affine(channels, dtype)),
        sums_of(channels, 9),
    )


def pointwise(dtype=torch.float64, out=6, width=6):
    kernels = (
        normal(out, width, 1, 1, seed=1, dtype=dtype),
        None if out == width else normal(out, width, 1, 1, seed=4, dtype=dtype),
        normal(out, width, 1, 1, seed=2, dtype=dtype),
        normal(out, width, 1, 1, seed=3, dtype=dtype),
    )
    return (
        PointwiseFolding,
        UnitSpec('unit', width, out, 1),
        BranchParams(kernels, *affine(out, dtype)),
        sums_of(1, width),
    )


def affine(channels, dtype):
    gammas = [normal(channels, seed=10 + j, dtype=dtype) for j in range(4)]
    betas = [normal(channels, seed=20 + j, dtype=dtype) for j in range(4)]
    gammas[2] = betas[2] = betas[1] = None
    return tuple(gammas), tuple(betas)


def wide():
    return pointwise(out=9, width=6)


def both(made):
    kind, spec, params, sums = made
    return kind(spec, EPS), Folding(spec, EPS), params, sums


def given_for(params, sums, out):
    """Statistics of two rows of a convolution."""
    taps = sums.sums.shape[1]
    branch, channel = torch.tensor([0, 3]), torch.tensor([out - 1, 0])
    values = normal(2, seed=40), normal(2, seed=41).abs(), normal(2, taps, seed=42)
    return DirectStats(branch, channel, *values)


def outcome(folding, params, sums, given=None):
    """Fold and gradients, as one list of tensors."""
    folded = folding.fold(params, sums, torch.float64, given)
    direct = by_scale = None
    if given is not None:
        direct = torch.zeros_like(folded.mean, dtype=torch.bool)
        direct[given.branch, given.channel] = True
        by_scale = normal(*direct.shape, seed=32)
    grads = folding.backward(
        params,
        folded.state,
        sums.count,
        normal(*folded.weight.shape, seed=30),
        normal(*folded.bias.shape, seed=31),
        direct,
        by_scale,
    )
    assert [g is None for g in grads.params.flat()] == [p is None for p in params.flat()]
    return [
        folded.weight,
        folded.bias,
        folded.mean,
        folded.var,
        grads.products,
        grads.sums,
        *(g for g in grads.params.flat() if g is not None),
    ]


@pytest.mark.parametrize('make', [depthwise, pointwise, wide])
def test_folds_and_gradients_equal_torchs(make):
    own, oracle, params, sums = both(make())
    for found, wanted in zip(outcome(own, params, sums), outcome(oracle, params, sums)):
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('make', [depthwise, pointwise])
def test_one_other_weight_is_seen(make):
    own, oracle, params, sums = both(make())
    wanted = outcome(oracle, params, sums)
    params.kernels[3].view(-1)[-1] += 1e-6
    for found, of in zip(outcome(own, params, sums)[:2], wanted):
        with pytest.raises(AssertionError):
            torch.testing.assert_close(found, of, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('make', [depthwise, pointwise])
def test_float32_parameters(make):
    own, _, params, sums = both(make(torch.float32))
    _, oracle, exact, _ = both(make())
    folded = own.fold(params, sums, torch.float32)
    wanted = oracle.fold(exact, sums, torch.float64)
    assert folded.weight.dtype == folded.bias.dtype == torch.float32
    torch.testing.assert_close(folded.weight.double(), wanted.weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize('make', [depthwise, pointwise, wide])
def test_given_statistics_replace_those_of_moments(make):
    own, oracle, params, sums = both(make())
    given = given_for(params, sums, own.spec.out_channels)
    found = outcome(own, params, sums, given)
    for value, wanted in zip(found, outcome(oracle, params, sums, given)):
        torch.testing.assert_close(value, wanted, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(found[3][given.branch, given.channel], given.var)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(found[0], outcome(own, params, sums)[0])


@pytest.mark.parametrize('make', [depthwise, pointwise])
def test_what_statistics_of_moments_give_is_the_same_if_given(make):
    own, _, params, sums = both(make())
    folded = own.fold(params, sums, torch.float64)
    oracle = Folding(own.spec, EPS)
    by_cov = oracle.fold(params, sums, torch.float64).state[1]
    place = own.spec.groups > 1
    branch, channel = torch.tensor([0, 3]), torch.tensor([1, 2])
    row = by_cov[channel, branch, 0] if place else by_cov[0, branch, channel]
    kernels, _, _ = params.stacked(own.spec, sums.sums)
    rows = kernels[channel, branch, 0] if place else kernels[0, branch, channel]
    mean = (rows * (sums.sums / COUNT)[channel if place else channel * 0]).sum(1)
    given = DirectStats(branch, channel, mean, folded.var[branch, channel], row)
    again = own.fold(params, sums, torch.float64, given)
    torch.testing.assert_close(again.weight, folded.weight, rtol=1e-11, atol=1e-11)
    torch.testing.assert_close(again.mean, folded.mean, rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize('make', [depthwise, pointwise])
def test_rows_whose_variance_is_lost_are_marked(make):
    own, oracle, params, sums = both(make())
    assert not own.fold(params, sums, torch.float64).direct.all()
    lost = sums_of(own.spec.groups, own.spec.taps, spread=1e-6)
    found, wanted = (f.fold(params, lost, torch.float64).direct for f in (own, oracle))
    assert found.all()
    assert torch.equal(found, wanted)


@pytest.mark.parametrize('make', [depthwise, pointwise])
@pytest.mark.parametrize('spread', [float('nan'), float('inf')])
def test_what_is_not_finite_stays_so(make, spread):
    own, oracle, params, _ = both(make())
    sums = sums_of(own.spec.groups, own.spec.taps, spread=spread)
    for folding in (own, oracle):
        folded = folding.fold(params, sums, torch.float64)
        assert not folded.weight.isfinite().any()
        assert not folded.direct.any()


@pytest.mark.parametrize('make', [depthwise, pointwise])
def test_parameters_may_have_strides(make):
    own, _, params, sums = both(make())
    wanted = outcome(own, params, sums)
    spaced = BranchParams.of(
        [None if p is None else torch.stack([p, p], -1)[..., 0] for p in params.flat()]
    )
    assert not spaced.kernels[0].is_contiguous()
    for found, of in zip(outcome(own, spaced, sums), wanted):
        torch.testing.assert_close(found, of, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize('make', [depthwise, pointwise])
def test_gradients_share_no_memory(make):
    own, _, params, sums = both(make())
    folded = own.fold(params, sums, torch.float64)
    grads = own.backward(params, folded.state, sums.count, folded.weight, folded.bias).params
    places = [g.data_ptr() for g in grads.flat() if g is not None]
    assert len(set(places)) == len(places)
