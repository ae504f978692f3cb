"""The smallest file within a budget of accuracy: the search.

Every fixed scheme is scored first. Then each layer is compressed alone, and
what that does to the output says how much its errors matter; from there on
the error that a plan makes is predicted as the sum over its layers, of the
error of the layer's weight times that gain (as HAWQ-V2 does by second
derivatives, arXiv:1911.03852, section 3). Plans ordered by the prediction
form a path from dense to the smallest file: bisection finds where the budget
ends, and single steps that still fit follow. The scores decide, all of them
on saved and executed files; the prediction only says what to try.

Scores flatter the file that is chosen by them: ``compress_step`` judges it on
other images. A file whose top-1 holds only because about as many images are
gained as lost does not fit either, see ``accuracy.CHANGED``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Optional

from ...errors import ExportError
from ...utils.text import Steps
from ..program.read import read_program
from ..targets import target_of
from .coding import (
    DENSE,
    INT8,
    TABLE_BITS,
    Form,
    Weight,
    approximate,
    find_weights,
    output_error,
    stored_bytes,
    table,
)
from .kmeans import Palettes
from .scheme import SCHEMES, W8A8, check_scheme, plan_for, scheme_form
from .trial import Candidate, Scores, Trial

_PRUNED = (25, 50, 75)
#: All forms that a search considers.
FORMS = (
    DENSE,
    INT8,
    *(table(bits) for bits in TABLE_BITS),
    *(Form(pruned=p) for p in _PRUNED),
    *(Form('int8', 8, p) for p in _PRUNED),
    *(table(bits, p) for bits in (6, 4, 3, 2) for p in _PRUNED),
)


@dataclass(frozen=True)
class Choice:
    """One form of one weight.

    Attributes:
        form: how it is stored.
        size: bytes in the package, estimated.
        error: what it does to the layer's output, see
            :func:`~.approximate.output_error`.
    """

    form: Form
    size: int
    error: float


@dataclass(frozen=True)
class Step:
    """Store one weight in fewer bytes than before.

    Attributes:
        name: of the operation.
        form: the new one.
        saved: bytes, estimated.
        damage: estimated squared relative error of the network's output,
            beyond that of the form before.
    """

    name: str
    form: Form
    saved: int
    damage: float


@dataclass(frozen=True)
class Choices:
    """What one weight can be stored as.

    Attributes:
        every: form to choice, of all forms that are smaller than dense, and
            dense.
        best: those that no mixture of two others beats: the lower convex
            hull of error over size, from dense to the smallest one.
    """

    every: Mapping[Form, Choice]
    best: tuple[Choice, ...]


def choices_of(weight: Weight, target: str, palettes: Palettes) -> Choices:
    """The forms of a weight that the target can read, with size and error."""
    itemsize = weight.values.dtype.itemsize
    every = {DENSE: Choice(DENSE, stored_bytes(DENSE, weight.shape, target, itemsize), 0.0)}
    for form in FORMS[1:]:
        size = stored_bytes(form, weight.shape, target, itemsize)
        if form.oldest <= target and size < every[DENSE].size:
            values = approximate(weight.values, form, target, palettes)
            every[form] = Choice(form, size, output_error(weight.values, values))
    return Choices(every, _hull(list(every.values())))


def _hull(found: Sequence[Choice]) -> tuple[Choice, ...]:
    """Corners of the lower convex hull, large to small."""
    undominated: list[Choice] = []
    for choice in sorted(found, key=lambda c: (c.size, c.error)):
        if not undominated or choice.error < undominated[-1].error:
            undominated.append(choice)
    hull: list[Choice] = []
    for choice in reversed(undominated):
        while len(hull) > 1 and (_price(hull[-2], hull[-1]) >= _price(hull[-1], choice)):
            hull.pop()
        hull.append(choice)
    return tuple(hull)


def _price(large: Choice, small: Choice) -> float:
    """Error for each byte saved."""
    return (small.error - large.error) / (large.size - small.size)


def smaller_steps(
    plan: Mapping[str, Form], choices: Mapping[str, Choices], gains: Mapping[str, float]
) -> list[Step]:
    """For every weight the next smaller form, least damage a byte first.

    Args:
        plan: operation name to form; absent is dense.
        choices: operation name to its forms.
        gains: operation name to the output's squared relative error for
            each unit of the layer's.
    """
    steps = []
    for name, found in choices.items():
        now = found.every[plan.get(name, DENSE)]
        smaller = [c for c in found.best if c.size < now.size]
        if smaller:
            then = min(smaller, key=lambda c: _price(now, c))
            steps.append(
                Step(name, then.form, now.size - then.size, (then.error - now.error) * gains[name])
            )
    return sorted(steps, key=lambda s: (s.damage / s.saved, s.name))


def larger_steps(
    plan: Mapping[str, Form], choices: Mapping[str, Choices], gains: Mapping[str, float]
) -> list[Step]:
    """For every weight the next larger form, most damage a byte undone first.

    Args:
        As of :func:`smaller_steps`; ``saved`` and ``damage`` are negative.
    """
    steps = []
    for name, found in choices.items():
        now = found.every[plan.get(name, DENSE)]
        larger = [c for c in found.best if c.size > now.size and c.error < now.error]
        if larger:
            then = max(larger, key=lambda c: _price(c, now))
            steps.append(
                Step(name, then.form, now.size - then.size, (then.error - now.error) * gains[name])
            )
    return sorted(steps, key=lambda s: (-s.damage / s.saved, s.name))


def path_of_plans(
    choices: Mapping[str, Choices], gains: Mapping[str, float]
) -> list[dict[str, Form]]:
    """Plans from all dense to all smallest, one step apart."""
    plans: list[dict[str, Form]] = [{}]
    while True:
        steps = smaller_steps(plans[-1], choices, gains)
        if not steps:
            return plans
        plans.append({**plans[-1], steps[0].name: steps[0].form})


Advance = Callable[[int], object]
_PROBE = table(4)
_MAX_PROBES = 32
_MAX_STEPS = 16  # single steps that are tried behind the bisection
_MAX_REPAIRS = 8
_NEAR = 2.0  # times the budget: a file that may be repaired
_LEAST = 1e-12


@dataclass(frozen=True)
class Sensitivity:
    """What compressing one layer alone does.

    Attributes:
        layer: name of the operation.
        form: how its weight was stored.
        drop_points: as of a candidate.
        relative: relative error of the probabilities that it adds.
        saved_bytes: of the package.
    """

    layer: str
    form: str
    drop_points: float
    relative: float
    saved_bytes: int


@dataclass(frozen=True)
class SearchResult:
    """The smallest file that fits, and all that was tried.

    Attributes:
        best: its ``path`` is the file; the source itself where nothing
            smaller fits.
        candidates: in the order in which they were scored, the uncompressed
            file first.
        sensitivities: most sensitive layer first.
    """

    best: Candidate
    candidates: tuple[Candidate, ...]
    sensitivities: tuple[Sensitivity, ...]

    @property
    def evaluations(self) -> int:
        """Files that were scored, without the uncompressed one."""
        return len(self.candidates) - 1


def search(
    source: Path,
    folder: Path,
    evaluate: Callable[[Path], Scores],
    baseline: Scores,
    max_drop: float,
    target: str,
    progress: Optional[Steps] = None,
) -> SearchResult:
    """Find the smallest file whose top-1 drops by ``max_drop`` at most.

    Labels may change by :data:`~..accuracy.CHANGED` times as many points.

    The result is at most as large as every fixed scheme that fits, as each
    of them is scored. Equal input gives an equal result.

    Args:
        source: uncompressed ``.mlpackage``.
        folder: for candidates; only the best one is left in it.
        evaluate: scores a file on the evaluation images.
        baseline: what it says of ``source``.
        max_drop: percentage points, 0 to 100.
        target: deployment target of ``source``.
        progress: reports steps; None reports nothing.

    Raises:
        ExportError: a target that reads no compressed weights, a file
            without weights, or scores that have no top-1.
        ProgramError: a file cannot be executed.
    """
    weights = _weights_of(source, target)
    steps = progress or Steps(False)
    trial = Trial(source, folder, evaluate, baseline, max_drop)
    _fixed_schemes(trial, weights, target, steps)
    with steps.step('compress: forms', total=len(weights)) as advance:
        choices = {}
        for weight in weights:
            choices[weight.name] = choices_of(weight, target, trial.palettes)
            advance(1)
    gains, sensitivities = _gains(trial, weights, choices, steps)
    with steps.step('compress: mixed forms') as advance:
        _bisect(trial, path_of_plans(choices, gains), advance)
        _repair(trial, choices, gains, advance)
        _descend(trial, choices, gains, advance)
    return SearchResult(trial.best, trial.all(), sensitivities)


def _weights_of(source: Path, target: str) -> tuple[Weight, ...]:
    check_scheme('auto', target, 'mlprogram')
    program = read_program(source)
    if target_of(program) != target:
        raise ExportError(f'{source} is for {target_of(program)}, not for {target}')
    weights = find_weights(program)
    if not weights:
        raise ExportError(f'{source} has no convolution or linear weights')
    return weights


def _fixed_schemes(trial: Trial, weights: tuple[Weight, ...], target: str, steps: Steps) -> None:
    plans = {
        scheme: plan_for(scheme, weights, target)
        for scheme in SCHEMES
        if scheme != W8A8 and scheme_form(scheme).oldest <= target
    }
    with steps.step('compress: fixed schemes', total=len(plans)) as advance:
        for scheme, plan in plans.items():
            trial.score(plan, 'fixed', scheme)
            advance(1)


def _gains(
    trial: Trial, weights: tuple[Weight, ...], choices: Mapping[str, Choices], steps: Steps
) -> tuple[dict[str, float], tuple[Sensitivity, ...]]:
    """What a unit of squared error in each layer does to the output.

    Layers beyond the largest ones are taken to be like the median of them.
    """
    probed = sorted(
        (w for w in weights if len(choices[w.name].best) > 1),
        key=lambda w: -choices[w.name].every[DENSE].size,
    )
    probed = probed[:_MAX_PROBES]
    base, found, gains = trial.candidates[0], [], {}
    title = 'compress: sensitivity of layers'
    with steps.step(title, total=len(probed)) as advance:
        for weight in probed:
            own = choices[weight.name]
            form = _PROBE if _PROBE in own.every else own.best[-1].form
            scored = trial.score({weight.name: form}, 'layer', f'{weight.name} {form.name}')
            added = max(scored.relative**2 - base.relative**2, _LEAST)
            gains[weight.name] = added / max(own.every[form].error, _LEAST)
            found.append(
                Sensitivity(
                    weight.name,
                    form.name,
                    scored.drop_points,
                    added**0.5,
                    base.size_bytes - scored.size_bytes,
                )
            )
            advance(1)
    usual = median(gains.values()) if gains else 1.0
    return (
        {w.name: gains.get(w.name, usual) for w in weights},
        tuple(sorted(found, key=lambda s: (-s.relative, s.layer))),
    )


def _bisect(trial: Trial, plans: list[dict[str, Form]], advance: Advance) -> None:
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
    trial: Trial, choices: Mapping[str, Choices], gains: Mapping[str, float], advance: Advance
) -> None:
    """From the best plan on, single steps while they fit."""
    closed: set[str] = set()
    for _ in range(_MAX_STEPS):
        plan = trial.best.forms
        steps = [s for s in smaller_steps(plan, choices, gains) if s.name not in closed]
        if not steps:
            return
        tried = trial.score({**plan, steps[0].name: steps[0].form}, 'mixed')
        if tried is not trial.best:
            closed.add(steps[0].name)
        advance(1)


def _repair(
    trial: Trial, choices: Mapping[str, Choices], gains: Mapping[str, float], advance: Advance
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
    plan = min(near, key=lambda c: c.size_bytes).forms
    for _ in range(_MAX_REPAIRS):
        steps = larger_steps(plan, choices, gains)
        if not steps:
            return
        plan = {**plan, steps[0].name: steps[0].form}
        tried = trial.score(plan, 'mixed')
        advance(1)
        if tried.fits or tried.size_bytes >= trial.best.size_bytes:
            return
