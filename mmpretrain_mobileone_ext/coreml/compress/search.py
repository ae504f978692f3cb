"""The smallest file within a budget of accuracy: the search.

Every fixed scheme is scored first. Then each layer is compressed alone, and what that does to the
output says how much its errors matter; from there on the error that a plan makes is predicted as
the sum over its layers, of the error of the layer's weight times that gain (as HAWQ-V2 does by
second derivatives, arXiv:1911.03852, section 3). Plans ordered by the prediction lead from dense to
the smallest file: bisection finds where the budget ends, the smallest file that just fails is
repaired, and single steps that still fit follow. The scores decide, all of them on saved and
executed files; the prediction only says what to try.

Scores flatter the file that is chosen by them: ``export.compression`` judges it on other images. A
file whose top-1 holds only because about as many images are gained as lost does not fit either, see
``utils.accuracy.CHANGED``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Optional

import numpy as np

from ...errors import ExportError
from ...utils.text import Steps
from .apply import MLPACKAGE, Store
from .kmeans import Palettes
from .scheme import NAMED, SEARCHED, plan_for
from .storage import DENSE, Palette, Storage
from .trial import Candidate, Scores, Trial
from .weights import Weight, output_error

_PROBE = Palette(4)
_NEAR = 2.0  # times the budget: a file that may be repaired
_LEAST = 1e-12

Advance = Callable[[int], object]
#: Operation name to how its weight is stored; absent is dense.
Plan = Mapping[str, Storage]


def search(
    source: Path,
    folder: Path,
    evaluate: Callable[[Path], Scores],
    baseline: Scores,
    max_drop: float,
    target: str,
    progress: Optional[Steps] = None,
    *,
    store: Store = MLPACKAGE,
    max_probes: int = 32,
    max_repairs: int = 8,
    max_steps: int = 16,
) -> tuple[Candidate, ...]:
    """Find the smallest file whose top-1 drops by ``max_drop`` at most.

    Labels may change by :data:`~...utils.accuracy.CHANGED` times as many points.

    The result is at most as large as every fixed scheme that fits, as each of them is scored. Equal
    input gives an equal result.

    Args:
        source: uncompressed file.
        folder: for candidates; only the best one is left in it.
        evaluate: scores a file on the evaluation images.
        baseline: what it says of ``source``.
        max_drop: percentage points, 0 to 100.
        target: deployment target of ``source``.
        progress: reports steps; None reports nothing.
        store: how files of the format hold weights.
        max_probes: layers that are compressed alone, the largest ones.
        max_repairs: steps back from the smallest file that just fails.
        max_steps: steps on from the smallest file that fits.

    Returns:
        All files that were scored, in that order, the uncompressed one first. Only the smallest
        that fits has a path: that of ``source`` where nothing smaller fits.

    Raises:
        ExportError: a target that reads no compressed weights, a file without weights, or scores
            that have no top-1.
        ProgramError: a file cannot be executed.
    """
    weights = store.read(source, target)
    if not weights:
        raise ExportError(f'{source} has no convolution or linear weights')
    steps = progress or Steps(False)
    trial = Trial(source, folder, evaluate, baseline, max_drop, store)
    _fixed_schemes(trial, weights, target, steps, store)
    with steps.step('compress: forms', total=len(weights)) as advance:
        choices = {}
        for weight in weights:
            choices[weight.name] = choices_of(weight, target, trial.palettes, store.size)
            advance(1)
    probed = _worth_probing(weights, choices)[:max_probes]
    found: dict[str, float] = {}
    with steps.step('compress: sensitivity of layers', total=len(probed)) as advance:
        for name in probed:
            found[name] = _gain(trial, name, choices[name])
            advance(1)
    # Layers that were not probed are taken to be like the median of the others.
    usual = median(found.values()) if found else 1.0
    gains = {w.name: found.get(w.name, usual) for w in weights}
    with steps.step('compress: mixed forms') as advance:
        _bisect(trial, path_of_plans(choices, gains), advance)
        repair(trial, choices, gains, advance, max_repairs)
        _descend(trial, choices, gains, advance, max_steps)
    return trial.all()


def _fixed_schemes(
    trial: Trial, weights: tuple[Weight, ...], target: str, steps: Steps, store: Store
) -> None:
    plans = {
        name: plan_for(scheme, weights, target, store.size)
        for name, scheme in NAMED.items()
        if isinstance(scheme, Storage) and scheme.oldest <= target
    }
    with steps.step('compress: fixed schemes', total=len(plans)) as advance:
        for name, plan in plans.items():
            trial.score(plan, 'fixed', name)
            advance(1)


def _worth_probing(weights: Sequence[Weight], choices: Mapping[str, Choices]) -> list[str]:
    """Names of weights that can become smaller, largest first."""
    found = [w.name for w in weights if len(choices[w.name].best) > 1]
    return sorted(found, key=lambda name: -choices[name].every[DENSE].size)


def _gain(trial: Trial, layer: str, own: Choices) -> float:
    """What a unit of squared error in one layer alone does to the output."""
    storage = _PROBE if _PROBE in own.every else own.best[-1].storage
    scored = trial.score({layer: storage}, 'layer', f'{layer} {storage.name}')
    added = scored.relative**2 - trial.candidates[0].relative ** 2
    return max(added, _LEAST) / max(own.every[storage].error, _LEAST)


def _bisect(trial: Trial, plans: list[Plan], advance: Advance) -> None:
    """Find where the path leaves the budget."""
    low, high = 0, len(plans) - 1
    while low < high:
        middle = (low + high + 1) // 2
        if trial.score(plans[middle], 'mixed').fits:
            low = middle
        else:
            high = middle - 1
        advance(1)


def _descend(
    trial: Trial,
    choices: Mapping[str, Choices],
    gains: Mapping[str, float],
    advance: Advance,
    max_steps: int,
) -> None:
    """From the best plan on, single steps while they fit."""
    closed: set[str] = set()
    for _ in range(max_steps):
        plan = trial.best.plan
        steps = [s for s in steps_from(plan, choices, gains) if s.name not in closed]
        if not steps:
            return
        tried = trial.score({**plan, steps[0].name: steps[0].storage}, 'mixed')
        if tried is not trial.best:
            closed.add(steps[0].name)
        advance(1)


def repair(
    trial: Trial,
    choices: Mapping[str, Choices],
    gains: Mapping[str, float],
    advance: Advance,
    max_repairs: int,
) -> None:
    """Give the smallest file that just fails its worst weights back."""
    budget = trial.budget
    near = [
        c
        for c in trial.candidates
        if c.kind == 'mixed'
        and not c.fits
        and c.size_bytes < trial.best.size_bytes
        and c.drop_points <= budget * _NEAR
    ]
    if not near:
        return
    plan = min(near, key=lambda c: c.size_bytes).plan
    for _ in range(max_repairs):
        steps = steps_from(plan, choices, gains, larger=True)
        if not steps:
            return
        plan = {**plan, steps[0].name: steps[0].storage}
        tried = trial.score(plan, 'mixed')
        advance(1)
        if tried.fits or tried.size_bytes >= trial.best.size_bytes:
            return


@dataclass(frozen=True)
class Choice:
    """One way to store one weight.

    Attributes:
        storage: the way.
        size: bytes in the package, estimated.
        error: what it does to the layer's output, see :func:`.output_error`.
    """

    storage: Storage
    size: int
    error: float


@dataclass(frozen=True)
class Choices:
    """What one weight can be stored as.

    Attributes:
        every: storage to choice, of all that are smaller than dense, and dense.
        best: those that no mixture of two others beats: the lower convex hull of error over size,
            from dense to the smallest one.
    """

    every: Mapping[Storage, Choice]
    best: tuple[Choice, ...]


@dataclass(frozen=True)
class Step:
    """Store one weight in fewer bytes than before, or in more.

    Attributes:
        name: of the operation.
        storage: the new one.
        saved: bytes, estimated; negative for more.
        damage: estimated squared relative error of the network's output, beyond that of the storage
            before.
    """

    name: str
    storage: Storage
    saved: int
    damage: float


def choices_of(
    weight: Weight,
    target: str,
    palettes: Palettes,
    size_of: Callable[[Storage, np.ndarray, str], int] = Storage.size,
) -> Choices:
    """The ways to store a weight that the target reads, with size and error."""
    dense = size_of(DENSE, weight.values, target)
    every: dict[Storage, Choice] = {DENSE: Choice(DENSE, dense, 0.0)}
    for storage in SEARCHED:
        size = size_of(storage, weight.values, target)
        if storage.oldest <= target and size < dense:
            values = storage.approximate(weight.values, target, palettes)
            every[storage] = Choice(storage, size, output_error(weight.values, values))
    return Choices(every, hull(list(every.values())))


def hull(found: Sequence[Choice]) -> tuple[Choice, ...]:
    """Corners of the lower convex hull, large to small."""
    undominated: list[Choice] = []
    for choice in sorted(found, key=lambda c: (c.size, c.error)):
        if not undominated or choice.error < undominated[-1].error:
            undominated.append(choice)
    corners: list[Choice] = []
    for choice in reversed(undominated):
        while len(corners) > 1 and _price(corners[-2], corners[-1]) >= _price(corners[-1], choice):
            corners.pop()
        corners.append(choice)
    return tuple(corners)


def _price(one: Choice, other: Choice) -> float:
    """Error for each byte that the smaller one saves."""
    return (other.error - one.error) / (one.size - other.size)


def steps_from(
    plan: Plan, choices: Mapping[str, Choices], gains: Mapping[str, float], larger: bool = False
) -> list[Step]:
    """For every weight the next smaller way to store it, least damage a byte first.

    Args:
        plan: where they start.
        choices: operation name to ways to store its weight.
        gains: operation name to the output's squared relative error for each unit of the layer's.
        larger: the next larger ones instead, most damage a byte undone first.
    """
    steps = []
    for name, found in choices.items():
        now = found.every[plan.get(name, DENSE)]
        if larger:
            others = [c for c in found.best if c.size > now.size and c.error < now.error]
        else:
            others = [c for c in found.best if c.size < now.size]
        if others:
            then = (max if larger else min)(others, key=lambda c: _price(now, c))
            damage = (then.error - now.error) * gains[name]
            steps.append(Step(name, then.storage, now.size - then.size, damage))
    sign = -1 if larger else 1
    return sorted(steps, key=lambda s: (sign * s.damage / s.saved, s.name))


def path_of_plans(choices: Mapping[str, Choices], gains: Mapping[str, float]) -> list[Plan]:
    """Plans from all dense to all smallest, one step apart."""
    plans: list[Plan] = [{}]
    while steps := steps_from(plans[-1], choices, gains):
        plans.append({**plans[-1], steps[0].name: steps[0].storage})
    return plans
