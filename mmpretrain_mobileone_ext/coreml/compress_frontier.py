"""Which forms of which weights are worth trying, smallest damage first."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from .approximate import approximate, output_error
from .palette import Palettes
from .weight_form import DENSE, INT8, TABLE_BITS, Form, stored_bytes, table
from .weights import Weight

_PRUNED = (25, 50, 75)
#: All forms that a search considers.
FORMS = (DENSE, INT8, *(table(bits) for bits in TABLE_BITS),
         *(Form(pruned=p) for p in _PRUNED),
         *(Form('int8', 8, p) for p in _PRUNED),
         *(table(bits, p) for bits in (6, 4, 3, 2) for p in _PRUNED))


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
    every = {DENSE: Choice(DENSE, stored_bytes(
        DENSE, weight.shape, target, itemsize), 0.0)}
    for form in FORMS[1:]:
        size = stored_bytes(form, weight.shape, target, itemsize)
        if form.oldest <= target and size < every[DENSE].size:
            values = approximate(weight.values, form, target, palettes)
            every[form] = Choice(
                form, size, output_error(weight.values, values))
    return Choices(every, _hull(list(every.values())))


def _hull(found: Sequence[Choice]) -> tuple[Choice, ...]:
    """Corners of the lower convex hull, large to small."""
    undominated: list[Choice] = []
    for choice in sorted(found, key=lambda c: (c.size, c.error)):
        if not undominated or choice.error < undominated[-1].error:
            undominated.append(choice)
    hull: list[Choice] = []
    for choice in reversed(undominated):
        while len(hull) > 1 and (_price(hull[-2], hull[-1]) >=
                                 _price(hull[-1], choice)):
            hull.pop()
        hull.append(choice)
    return tuple(hull)


def _price(large: Choice, small: Choice) -> float:
    """Error for each byte saved."""
    return (small.error - large.error) / (large.size - small.size)


def smaller_steps(plan: Mapping[str, Form], choices: Mapping[str, Choices],
               gains: Mapping[str, float]) -> list[Step]:
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
            steps.append(Step(name, then.form, now.size - then.size,
                              (then.error - now.error) * gains[name]))
    return sorted(steps, key=lambda s: (s.damage / s.saved, s.name))


def larger_steps(plan: Mapping[str, Form], choices: Mapping[str, Choices],
                 gains: Mapping[str, float]) -> list[Step]:
    """For every weight the next larger form, most damage a byte undone first.

    Args:
        As of :func:`smaller_steps`; ``saved`` and ``damage`` are negative.
    """
    steps = []
    for name, found in choices.items():
        now = found.every[plan.get(name, DENSE)]
        larger = [c for c in found.best
                  if c.size > now.size and c.error < now.error]
        if larger:
            then = max(larger, key=lambda c: _price(c, now))
            steps.append(Step(name, then.form, now.size - then.size,
                              (then.error - now.error) * gains[name]))
    return sorted(steps, key=lambda s: (-s.damage / s.saved, s.name))


def path_of_plans(choices: Mapping[str, Choices],
                  gains: Mapping[str, float]) -> list[dict[str, Form]]:
    """Plans from all dense to all smallest, one step apart."""
    plans: list[dict[str, Form]] = [{}]
    while True:
        steps = smaller_steps(plans[-1], choices, gains)
        if not steps:
            return plans
        plans.append({**plans[-1], steps[0].name: steps[0].form})
