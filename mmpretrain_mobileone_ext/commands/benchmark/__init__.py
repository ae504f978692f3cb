"""Benchmarks, and how they take times: in turns, so that noise hits all alike.

``fake_data`` makes the networks and images that both measure.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any, Optional, TypeVar

T = TypeVar('T')


def in_turns(items: Sequence[T], rounds: int) -> Iterator[T]:
    """Every item once a round; each round begins with the next one."""
    for turn in range(rounds):
        first = turn % max(len(items), 1)
        yield from (*items[first:], *items[:first])


def time_in_turns(
    calls: Mapping[str, Callable[[], Any]],
    rounds: int,
    warmup: int,
    advance: Callable[[int], Any] = lambda count: None,
) -> dict[str, tuple[float, ...]]:
    """Time calls by name.

    Args:
        calls: what is timed.
        rounds: timed runs of each.
        warmup: untimed runs of each before.
        advance: called with 1 after every round.

    Returns:
        Name to the time of each round, in ms.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    for count, name in enumerate(in_turns(list(calls), warmup + rounds), 1):
        start = time.perf_counter()
        calls[name]()
        times[name].append(1000 * (time.perf_counter() - start))
        if count % len(calls) == 0:
            advance(1)
    return {name: tuple(values[warmup:]) for name, values in times.items()}


def paired_ratio(times: Sequence[float], reference: Sequence[float]) -> Optional[float]:
    """Median over rounds of one time by the other; None without rounds.

    What ran in one round ran one after the other, so that what disturbed the machine meanwhile is
    in both.
    """
    ratios = [ours / theirs for ours, theirs in zip(times, reference)]
    return median(ratios) if ratios else None
