"""Tables of palettized weights: close to the optimum, balanced, repeatable."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans

from mmpretrain_mobileone_ext.coreml.compress import kmeans as palette
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes, cluster, palettize
from mmpretrain_mobileone_ext.errors import ExportError

RNG = np.random.default_rng(0)


def squared_error(values, centers):
    values = values.reshape(-1, 1).astype(np.float64)
    return float(((values - np.asarray(centers)) ** 2).min(1).sum())


def optimum(values, clusters):
    """Least squared error of intervals, by dynamic programming."""
    v = np.sort(values.astype(np.float64))
    n = len(v)
    best = np.full((clusters + 1, n + 1), np.inf)
    best[:, 0] = 0
    for k in range(1, clusters + 1):
        for high in range(1, n + 1):
            best[k, high] = min(
                best[k - 1, low] + ((v[low:high] - v[low:high].mean()) ** 2).sum()
                for low in range(high)
            )
    return best[clusters, n]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(-60, 60), min_size=1, max_size=24), st.sampled_from([1, 2, 3, 4, 8]))
def test_near_the_optimum(numbers, clusters):
    values = np.array(numbers, np.float32) / 8
    centers = cluster(values, clusters)
    assert len(centers) <= clusters
    assert (np.diff(centers) > 0).all()
    found, least = squared_error(values, centers), optimum(values, clusters)
    assert least - 1e-9 <= found
    # Lloyd's iteration ends in a local optimum.
    assert found <= 5.0 * least + 1e-9


def test_at_the_optimum_on_average():
    ratios = []
    for seed in range(60):
        rng = np.random.default_rng(seed)
        values = rng.normal(size=20).astype(np.float32)
        clusters = int(rng.choice([2, 4, 8]))
        ratios.append(squared_error(values, cluster(values, clusters)) / optimum(values, clusters))
    assert np.mean(ratios) < 1.1
    assert min(ratios) > 1 - 1e-9


@pytest.mark.parametrize('clusters', [4, 16, 64])
def test_no_worse_than_scikit_learn(clusters):
    values = (RNG.standard_t(4, 4000) * 0.05).astype(np.float16)
    other = KMeans(clusters, n_init=3, random_state=0).fit(values.reshape(-1, 1).astype(np.float64))
    assert squared_error(values, cluster(values, clusters)) < 1.05 * other.inertia_


def test_fixed_point_of_lloyd():
    values = RNG.normal(size=3000).astype(np.float16)
    centers = cluster(values, 16)
    nearest = np.abs(values[:, None] - centers).argmin(1)
    means = [values[nearest == k].astype(np.float64).mean() for k in range(16)]
    np.testing.assert_allclose(centers, means, atol=1e-9)


def test_few_distinct_values_are_exact():
    values = np.array([[0.5, -1, 0.5], [2, -1, 2]], np.float16)
    table, indices = palettize(values, 4)
    assert table[:3].tolist() == [-1, 0.5, 2]
    assert table.shape == (16,)
    assert not table[3:].any()
    np.testing.assert_array_equal(table[indices], values)
    assert indices.dtype == np.uint8
    assert table.dtype == np.float16


def test_errors_of_a_filter_cancel():
    """The nearest entries leave sums of errors; ours leave far less."""
    values = (RNG.normal(size=(32, 64)) * 0.1).astype(np.float16)
    table, indices = palettize(values, 3)
    centers = table.astype(np.float64)
    nearest = np.abs(values[..., None] - centers).argmin(-1)
    plain, ours = (centers[i] - values for i in (nearest, indices))
    assert np.abs(ours.sum(1)).mean() < 0.2 * np.abs(plain.sum(1)).mean()
    assert (plain**2).sum() <= (ours**2).sum() < 1.2 * (plain**2).sum()
    assert np.abs(indices.astype(int) - nearest).max() == 1

    def objective(e):
        return (e**2).sum(1) + palette.SUM_WEIGHT * e.sum(1) ** 2

    assert (objective(ours) <= objective(plain) + 1e-12).all()


def test_sparse_zeros_need_no_entry():
    values = np.zeros((4, 8), np.float16)
    kept = np.arange(32).reshape(4, 8) % 3 == 0
    values[kept] = [1, 2, 3, 4, 5, 6, 7, 8, 1, 2, 3]
    table, indices = palettize(values, 3, sparse=True)
    np.testing.assert_array_equal(table[indices][kept], values[kept])
    assert table.tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    dense, _ = palettize(values, 3)
    assert 0 in dense


def test_nothing_left():
    table, indices = palettize(np.zeros((2, 3), np.float16), 2, sparse=True)
    assert table.tolist() == [0] * 4
    assert indices.tolist() == [[0] * 3] * 2


def test_large_common_offset():
    values = (1000 + RNG.normal(size=500)).astype(np.float32)
    found = squared_error(values, cluster(values, 8))
    assert found == pytest.approx(squared_error(values - 1000, cluster(values - 1000, 8)), rel=1e-3)


def test_repeatable_and_remembered(monkeypatch):
    values = RNG.normal(size=(8, 16)).astype(np.float16)
    first = palettize(values, 4)
    again = palettize(values.copy(), 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, again))
    remembers = Palettes()
    remembers(values, 4)
    monkeypatch.setattr(palette, 'palettize', None)
    found = remembers(values.copy(), 4)
    assert all(np.array_equal(a, b) for a, b in zip(first, found))
    changed = values.copy()
    changed[0, 0] += 1
    for other in (
        (changed, 4),
        (values, 2),
        (values, 4, True),
        (values.reshape(16, 8), 4),
        (values.astype(np.float32), 4),
    ):
        with pytest.raises(TypeError):
            remembers(*other)


@pytest.mark.parametrize('bad', [np.nan, np.inf])
def test_not_finite(bad):
    with pytest.raises(ExportError, match='nan or infinity'):
        palettize(np.array([[1, bad]], np.float16), 4)
