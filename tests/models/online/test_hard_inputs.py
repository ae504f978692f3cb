"""Units folded by moments, against their branches, where float32 loses digits."""

import functools

import pytest
import torch
from half_precision import roundings
from hard_inputs import CASES, INPUTS, UNITS, block_of, errors, floors, outcome
from helpers import assert_close, generator, randomize_norms

from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online import batch_fold, convs
from mmpretrain_mobileone_ext.models.online.batch_fold import Folding
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.online.native_fold import DepthwiseFolding, PointwiseFolding
from mmpretrain_mobileone_ext.models.online.operators import HAS_SHAPES
from mmpretrain_mobileone_ext.models.spec import UnitSpec


def by_moments(block, x):
    return sum_by('moments', block.unit(), x)


@functools.cache
def bounds(case):
    """What is exact, and the errors of branches in float32."""
    wanted = outcome(MobileOneBlock._branch_sum, case, torch.float64)
    found = errors(outcome(MobileOneBlock._branch_sum, case, torch.float32), wanted)
    return wanted, torch.maximum(found, floors(case, wanted))


def ratios(cases):
    """Errors over those of branches, (cases, 3)."""
    found = []
    for case in cases:
        wanted, bound = bounds(case)
        found.append(errors(outcome(by_moments, case, torch.float32), wanted) / bound)
    return torch.stack(found)


def cases_of(unit):
    return [case for case in CASES if case.unit == unit]


@pytest.mark.parametrize('unit', UNITS)
def test_errors_are_at_most_three_times_those_of_branches(unit):
    found = ratios(cases_of(unit))
    worst = found.max(0)
    names = [cases_of(unit)[i].input for i in worst.indices.tolist()]
    assert (found <= 3).all(), list(zip(names, worst.values.tolist()))


def test_most_errors_are_those_of_branches():
    assert len(CASES) >= 400
    assert len({case.input for case in CASES}) == len(INPUTS)
    assert (ratios(CASES).median(0).values <= 1.1).all()


def half_precision_ratios(cases, dtype, run):
    """Errors under autocast over those that branches make on average, (cases, 3).

    Where the images themselves lose what differs between their pixels, there is nothing to hold.
    """

    def under_autocast(block, x):
        with torch.autocast('cpu', dtype=dtype):
            return run(block, x)

    found = []
    for case in cases:
        wanted, _ = bounds(case)
        draws = [
            errors(outcome(lambda _, x, own=own: own(x), case, torch.float64, block), wanted)
            for block, own in roundings(block_of(case.unit, torch.float64), dtype, 6)
        ]
        typical = torch.stack(draws).square().mean(0).sqrt()
        if typical.isfinite().all() and typical[1] < 0.1:
            found.append(errors(outcome(under_autocast, case, torch.float32), wanted) / typical)
    return torch.stack(found)


@pytest.mark.skipif(not HAS_SHAPES, reason='torch < 2.4: autocast on a CPU takes bfloat16 only')
@pytest.mark.parametrize(
    'share', [pytest.param(8, id='eighth'), pytest.param(1, id='all', marks=pytest.mark.slow)]
)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
def test_autocast_loses_what_branches_lose_under_it(dtype, share):
    cases = CASES[::share]
    found = half_precision_ratios(cases, dtype, by_moments)
    assert len(found) > len(cases) / 2
    assert (found.median(0).values <= 1).all()
    # Four standard deviations, where one number is most of a norm.
    assert (found <= 4).all()


@pytest.fixture
def without_pivot(monkeypatch):
    monkeypatch.setattr(convs.PatchConv, 'pivot', lambda self, x: torch.zeros_like(x[0, :, 0, 0]))


@pytest.fixture
def without_direct_rows(monkeypatch):
    monkeypatch.setattr(batch_fold, 'least_share', lambda *_: 0.0)


@pytest.mark.usefixtures('without_pivot', 'without_direct_rows')
@pytest.mark.parametrize('unit', UNITS)
def test_plain_moments_fail(unit):
    found = ratios(cases_of(unit)).nan_to_num(torch.inf)
    assert (found > 3).any(1).double().mean() > 0.1


@pytest.mark.usefixtures('without_direct_rows')
@pytest.mark.parametrize('unit', ['pointwise', 'wide', 'stem', 'grouped'])
def test_a_pivot_alone_is_not_enough(unit):
    cases = [case for case in cases_of(unit) if 'correlated' in case.input]
    assert (ratios(cases).nan_to_num(torch.inf) > 3).any()


@pytest.mark.parametrize('branch', [0, 1, 2])
@pytest.mark.parametrize(
    ('folding', 'options'),
    [
        (PointwiseFolding, dict(kernel_size=1)),
        (DepthwiseFolding, dict(kernel_size=3, groups=80)),
        (Folding, dict(kernel_size=3, groups=40)),
        (Folding, dict(kernel_size=3)),
    ],
)
def test_any_row_can_be_taken_directly(folding, options, branch, monkeypatch):
    """A skip branch's too, which has no kernel: its row is no other branch's."""
    torch.manual_seed(0)
    spec = UnitSpec('unit', 80, 80, **options, num_conv_branches=2)
    block = randomize_norms(MobileOneBlock(spec, online_reparam=False)).double()
    x = torch.randn(4, 80, 6, 5, generator=generator(), dtype=torch.float64) + 1
    first = folding.fold

    def marking(self, params, sums, dtype, given=None):
        folded = first(self, params, sums, dtype, given)
        if given is None:
            folded.direct.zero_()[branch, 7] = True
        return folded

    monkeypatch.setattr(folding, 'fold', marking)
    found = []
    for run in (MobileOneBlock._branch_sum, by_moments):
        own = x.clone().requires_grad_()
        block.zero_grad()
        out = run(block, own)
        out.sin().sum().backward()
        found.append([out, own.grad, *(p.grad.clone() for p in block.parameters())])
    assert_close(*found, 1e-9)
