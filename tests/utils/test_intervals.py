"""Confidence intervals, against definitions written out and by enumeration."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq, minimize_scalar
from scipy.stats import binom, binomtest

from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.utils.accuracy import CONFIDENCE, paired_difference, wilson

Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)


@pytest.mark.parametrize(
    ('hits', 'total'), [(0, 1), (1, 1), (3, 7), (51, 56), (56, 56), (536, 540), (9274, 10_000)]
)
def test_wilson_is_scipys(hits, total):
    wanted = binomtest(hits, total).proportion_ci(CONFIDENCE, 'wilson')
    assert wilson(hits, total) == pytest.approx((wanted.low, wanted.high), abs=1e-12)


def score(lost, gained, total, d):
    """Z(d), its nuisance share by maximizing the likelihood numerically.

    The variance of lost - gained is total (p + q - d²) with p = q + d.
    """
    low, high = max(0.0, -d), (1 - d) / 2

    def minus_log(q):
        return -sum(
            n * math.log(max(p, 1e-300))
            for n, p in ((lost, q + d), (gained, q), (total - lost - gained, 1 - 2 * q - d))
            if n
        )

    q = minimize_scalar(
        minus_log, bounds=(low, high), method='bounded', options=dict(xatol=1e-13)
    ).x
    return (lost - gained - total * d) / math.sqrt(total * (2 * q + d - d * d))


@pytest.mark.parametrize(
    ('lost', 'gained', 'total'),
    [(0, 0, 56), (2, 3, 56), (5, 0, 56), (7, 1, 21), (212, 144, 1600), (12, 2, 50), (1, 9, 540)],
)
def test_the_paired_interval_is_where_the_likelihood_says(lost, gained, total):
    found = (lost - gained) / total
    ends = [
        brentq(lambda d, s=s: score(lost, gained, total, d) - s * Z, *bracket, xtol=1e-12)
        for s, bracket in ((1, (-0.9, found - 1e-9)), (-1, (found + 1e-9, 0.9)))
    ]
    assert paired_difference(lost, gained, total) == pytest.approx(ends, abs=1e-5)


def test_the_paired_interval_is_the_published_one():
    """Airway data: Fagerland, Lydersen, Laake 2014, Stat. Med. 33:2850."""
    assert paired_difference(7, 1, 21) == pytest.approx((0.026, 0.517), abs=5e-4)


def test_equal_forms_leave_room_for_a_loss():
    for total in (1, 56, 540, 10_000):
        edge = Z**2 / (total + Z**2)
        assert paired_difference(0, 0, total) == pytest.approx((-edge, edge))


@settings(max_examples=30)
@given(st.integers(1, 3000), st.data())
def test_the_interval_mirrors_and_holds_what_was_found(total, data):
    lost = data.draw(st.integers(0, total))
    gained = data.draw(st.integers(0, total - lost))
    low, high = paired_difference(lost, gained, total)
    assert -1 <= low <= (lost - gained) / total <= high <= 1
    assert paired_difference(gained, lost, total) == pytest.approx((-high, -low), abs=1e-9)


def coverage_of_wilson(share, total):
    """Exact: the chance of counts whose interval holds the share."""
    return sum(
        binom.pmf(k, total, share)
        for k in range(total + 1)
        if wilson(k, total)[0] <= share <= wilson(k, total)[1]
    )


def test_wilson_covers_on_average_what_it_says():
    """Over shares spread evenly; single shares lie around it."""
    shares = (np.arange(200) + 0.5) / 200
    found = np.mean([coverage_of_wilson(p, 56) for p in shares])
    assert found == pytest.approx(CONFIDENCE, abs=0.01)


def test_paired_intervals_cover_in_a_simulation():
    """3000 pairs of forms a case: no fewer hits than chance explains.

    Tango's interval is asymptotic: up to one point below its confidence is its own (Tango 1998,
    table II). Of what is left a binomial count falls below its 1e-6 quantile once in a million
    runs; the seed is fixed.
    """
    rng = np.random.default_rng(3)
    draws = 3000
    least = binom.ppf(1e-6, draws, CONFIDENCE - 0.01)
    for lost, gained, total in (
        (0.05, 0.05, 56),
        (0.10, 0.02, 56),
        (0.02, 0.02, 270),
        (0.03, 0.01, 540),
    ):
        counts = rng.multinomial(total, (lost, gained, 1 - lost - gained), draws)
        ends = {
            tuple(c): paired_difference(int(c[0]), int(c[1]), total)
            for c in np.unique(counts, axis=0)
        }
        hits = sum(low <= lost - gained <= high for low, high in (ends[tuple(c)] for c in counts))
        assert hits >= least, (lost, gained, total)


def test_the_simulation_finds_an_interval_that_is_too_narrow():
    """Wald's, which is a point where no image differs."""
    rng = np.random.default_rng(3)
    counts = rng.multinomial(56, (0.03, 0.01, 0.96), 3000)
    b, c = counts[:, 0] / 56, counts[:, 1] / 56
    spread = Z * np.sqrt((b + c - (b - c) ** 2) / 56)
    assert (np.abs(b - c - 0.02) <= spread).sum() < binom.ppf(1e-6, 3000, CONFIDENCE - 0.01)


@pytest.mark.parametrize('counts', [(-1, 3), (4, 3), (0, 0)])
def test_counts_that_cannot_be(counts):
    with pytest.raises(MobileOneExtError, match='images'):
        wilson(*counts)


@pytest.mark.parametrize('counts', [(-1, 0, 3), (2, 2, 3), (0, 0, 0)])
def test_pairs_that_cannot_be(counts):
    with pytest.raises(MobileOneExtError, match='cannot be'):
        paired_difference(*counts)
