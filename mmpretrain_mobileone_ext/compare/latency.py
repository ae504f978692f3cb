"""Latency of one image, all models in turns, so that noise hits all alike."""
from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

Call = Callable[[], Any]


class Latency(NamedTuple):
    """Milliseconds: median and quickest of so many runs."""
    median_ms: float
    min_ms: float
    runs: int


def in_turns(calls: Mapping[str, Call],
             rounds: int,
             warmup: int,
             advance: Callable[[int], Any] = lambda count: None
             ) -> dict[str, Latency]:
    """Time calls by name; every round starts with the next one.

    Args:
        calls: what is timed.
        rounds: timed runs of each.
        warmup: untimed runs of each before.
        advance: called with 1 after every round.
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warmup, rounds):
        first = turn % max(len(names), 1)
        for name in names[first:] + names[:first]:
            start = time.perf_counter()
            calls[name]()
            if turn >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
        advance(1)
    return {name: Latency(statistics.median(t), min(t), len(t))
            for name, t in times.items()}
