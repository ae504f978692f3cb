"""Tables for palettized weights: k-means of numbers, without a seed.

coremltools clusters with scikit-learn, which knows nothing of one dimension: 74 s for the tables of
8 bits of a MobileOne-S0 on one core, seeded, and in float sums that depend on the number of
threads. Numbers can be sorted, and then a cluster is an interval whose mean is a difference of
running sums. Here the distinct values are split where that lowers the squared error most, and
Lloyd's iteration (1982) moves the borders until nothing changes.

The nearest entry is not always the best one. Behind a ReLU all inputs of a filter are positive, so
that its errors add up to a shift of the whole output channel (Nagel et al. 2019, arXiv:1906.04721,
section 4.2, correct it through the bias, with statistics of the inputs). Here some weights of a
filter take the next entry instead, so that the errors of the filter sum to about zero: measured on
three networks trained on digits, with four bits in layers of at least 2048 weights, that halves the
error of the probabilities.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from hashlib import sha256
from typing import Union

import numpy as np

from ...errors import ExportError

#: Weight of a filter's squared sum of errors against its sum of squares: (mean of the inputs)^2 /
#: variance, of an order that layers have.
SUM_WEIGHT = 0.25

Borders = Union[int, np.ndarray]
Found = tuple[np.ndarray, np.ndarray]


class Palettes:
    """Palettizes arrays, and remembers the last ones.

    A search over the layers of a network meets the same weight again and again.

    Args:
        kept: how many are remembered.
    """

    def __init__(self, kept: int = 256) -> None:
        self._kept = kept
        self._known: OrderedDict[tuple[object, ...], Found] = OrderedDict()

    def __call__(self, values: np.ndarray, bits: int, sparse: bool = False) -> Found:
        """As :func:`palettize`."""
        key = (sha256(values.tobytes()).digest(), values.shape, values.dtype, bits, sparse)
        if key not in self._known:
            self._known[key] = palettize(values, bits, sparse)
            if len(self._known) > self._kept:
                self._known.popitem(last=False)
        return self._known[key]


def palettize(values: np.ndarray, bits: int, sparse: bool = False) -> Found:
    """Table and indices that stand for ``values``.

    Equal input gives equal output on every machine.

    Args:
        values: finite numbers, output channels (filters) first.
        bits: of an index, 1 to 8.
        sparse: zeros are not stored: they need no entry, and their indices mean nothing.

    Returns:
        The table (2**bits, ), increasing, in the dtype of ``values``; the entries behind the last
        one in use are 0. And uint8 indices of the shape of ``values``.

    Raises:
        ExportError: ``values`` has nan or infinity.
    """
    if not np.isfinite(values).all():
        raise ExportError('weights with nan or infinity have no table')
    kept = values != 0 if sparse else np.ones(values.shape, bool)
    table = np.zeros(2**bits, values.dtype)
    centers = cluster(values[kept], 2**bits).astype(values.dtype)
    table[: len(centers)] = centers
    if not len(centers):
        return table, np.zeros(values.shape, np.uint8)
    rows = values.reshape(len(values), -1).astype(np.float64)
    exact = centers.astype(np.float64)
    indices = np.searchsorted((exact[1:] + exact[:-1]) / 2, rows)
    indices = _balance(rows, kept.reshape(rows.shape), exact, indices)
    return table, indices.astype(np.uint8).reshape(values.shape)


def _balance(
    rows: np.ndarray, kept: np.ndarray, centers: np.ndarray, indices: np.ndarray
) -> np.ndarray:
    """Move weights of each row to the next entry until errors cancel.

    The objective is sum(e^2) + SUM_WEIGHT * sum(e)^2 of a row's errors e. All moves of a row go
    against its sum, cheapest first for what they change, as far as the objective falls.
    """
    error = np.where(kept, centers[indices] - rows, 0)
    total = error.sum(1, keepdims=True)
    moved = indices - np.sign(total).astype(int)
    free = kept & (moved >= 0) & (moved < len(centers))
    moved = np.where(free, moved, indices)
    change = centers[moved] - centers[indices]
    free &= change != 0
    cost = np.where(free, change * (2 * error + change), np.inf)
    order = np.argsort(cost / np.where(free, np.abs(change), 1), axis=1, kind='stable')
    steps = np.take_along_axis(np.where(free, change, 0), order, 1).cumsum(1)
    costs = np.take_along_axis(cost, order, 1).cumsum(1)
    objective = np.concatenate(
        [SUM_WEIGHT * total**2, costs + SUM_WEIGHT * (total + steps) ** 2], axis=1
    )
    count = objective.argmin(1)[:, None]
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(order.shape[1])[None], 1)
    return np.where(place < count, moved, indices)


def cluster(values: np.ndarray, clusters: int, iterations: int = 200) -> np.ndarray:
    """Centers of at most ``clusters`` clusters of numbers, increasing.

    Args:
        values: finite numbers of any shape; may be empty.
        clusters: how many at most.
        iterations: of Lloyd's, at most.

    Returns:
        float64 (k, ): the distinct values where they are few enough.
    """
    distinct, counts = np.unique(values.reshape(-1), return_counts=True)
    wide = distinct.astype(np.float64)
    if len(wide) <= clusters:
        return wide
    sums = _Sums(wide, counts)
    borders = _split(sums, len(wide), clusters)
    for _ in range(iterations):
        means = sums.means(borders)
        inner = np.searchsorted(wide, (means[1:] + means[:-1]) / 2)
        moved = np.concatenate([[0], inner, [len(wide)]])
        if np.array_equal(moved, borders) or not np.diff(moved).all():
            break
        borders = moved
    return sums.means(borders)


class _Sums:
    """Running sums over sorted values, each with a count."""

    def __init__(self, values: np.ndarray, counts: np.ndarray):
        # Centred: squares of a large common offset would cancel badly.
        self._offset = np.average(values, weights=counts)
        shifted = values - self._offset
        self.count, self.first, self.second = (
            np.concatenate([[0.0], np.cumsum(c)])
            for c in (counts, counts * shifted, counts * shifted**2)
        )

    def means(self, borders: np.ndarray) -> np.ndarray:
        """Mean of every interval between borders."""
        return np.diff(self.first[borders]) / np.diff(self.count[borders]) + self._offset

    def error(self, low: Borders, high: Borders) -> np.ndarray:
        """Squared error of the intervals about their means."""
        count = self.count[high] - self.count[low]
        first = self.first[high] - self.first[low]
        return self.second[high] - self.second[low] - first**2 / count


def _split(sums: _Sums, length: int, clusters: int) -> np.ndarray:
    """Split the interval of the largest error, again and again.

    There are more values than clusters, so that one can always be split.
    """
    heap = [(-np.inf, 0, length)]
    alone: list[int] = []
    while len(heap) + len(alone) < clusters:
        _, low, high = heapq.heappop(heap)
        if high - low < 2:
            alone.append(low)
            continue
        middle = np.arange(low + 1, high)
        best = int(middle[np.argmin(sums.error(low, middle) + sums.error(middle, high))])
        for part in ((low, best), (best, high)):
            heapq.heappush(heap, (-float(sums.error(*part)), *part))
    starts = sorted([*alone, *(low for _, low, _ in heap)])
    return np.array([*starts, length])
