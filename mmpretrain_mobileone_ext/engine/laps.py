"""Times of evaluated batches, and the figures that follow from them."""
from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import numpy as np


@dataclass(frozen=True)
class Lap:
    """One batch.

    Attributes:
        images: how many it had.
        model_s: seconds of the model's own step.
        data_s: seconds spent waiting for the batch.
    """
    images: int
    model_s: float
    data_s: float


@dataclass(frozen=True)
class RankLaps:
    """What one rank measured.

    Attributes:
        laps: without those of the warm-up.
        peak_bytes: peak memory; None where the system does not say.
    """
    laps: tuple[Lap, ...]
    peak_bytes: Optional[int]


def summarize(ranks: Sequence[RankLaps]) -> dict[str, float]:
    """Figures of an epoch over all ranks.

    Returns:
        ``throughput``: images per second of model time, summed over ranks.
        ``latency_median``, ``latency_p90``, ``latency_p99``: ms a batch,
        over the batches of the most frequent size (a last, smaller one is
        another thing).
        ``data_time_share``: 0 to 1, waiting for data over waiting and model.
        ``peak_memory``: MB (1e6 bytes) of the rank that needs most; left
        out where unknown.
    """
    laps = [lap for rank in ranks for lap in rank.laps]
    model = sum(lap.model_s for lap in laps)
    data = sum(lap.data_s for lap in laps)
    size = batch_size(ranks)
    ms = [1e3 * lap.model_s for lap in laps if lap.images == size]
    median, p90, p99 = np.percentile(ms, (50, 90, 99))
    figures = dict(
        throughput=sum(_rate(rank.laps) for rank in ranks),
        latency_median=float(median),
        latency_p90=float(p90),
        latency_p99=float(p99),
        data_time_share=data / (data + model))
    peaks = [r.peak_bytes for r in ranks if r.peak_bytes is not None]
    if peaks:
        figures['peak_memory'] = max(peaks) / 1e6
    return figures


def batch_size(ranks: Sequence[RankLaps]) -> int:
    """The most frequent number of images in a batch."""
    sizes = Counter(lap.images for rank in ranks for lap in rank.laps)
    return max(sizes, key=lambda size: (sizes[size], size))


def _rate(laps: Sequence[Lap]) -> float:
    seconds = sum(lap.model_s for lap in laps)
    return sum(lap.images for lap in laps) / seconds if laps else 0.0
