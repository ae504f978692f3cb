"""What was found, as frozen data. Times are in ms, memory in bytes; tuples have one value a step or
a seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, Optional

from .. import paired_ratio


@dataclass(frozen=True)
class Cost:
    """What the training step of one form costs.

    Attributes:
        form: a key of ``candidates.FORMS``.
        first_ms: the first step, which compiles and chooses.
        forward_ms: forward and loss of each timed step.
        backward_ms: backward of each timed step.
        saved_bytes: what autograd keeps from forward to backward.
        peak_bytes: growth of memory during a step; None where the system does not say.
        failure: why there is nothing more, or None.
    """

    form: str
    first_ms: Optional[float] = None
    forward_ms: tuple[float, ...] = ()
    backward_ms: tuple[float, ...] = ()
    saved_bytes: Optional[int] = None
    peak_bytes: Optional[int] = None
    failure: Optional[str] = None

    @property
    def step_ms(self) -> tuple[float, ...]:
        return tuple(f + b for f, b in zip(self.forward_ms, self.backward_ms))

    @property
    def median_ms(self) -> Optional[float]:
        return median(self.step_ms) if self.step_ms else None

    def document(self) -> dict[str, Any]:
        """Everything for JSON, medians included; times to a microsecond."""
        steps = self.step_ms
        every = {
            **asdict(self),
            'step_ms': steps,
            'median_ms': self.median_ms,
            'min_ms': min(steps) if steps else None,
        }
        return {k: _to_microseconds(v) if k.endswith('_ms') else v for k, v in every.items()}


def _to_microseconds(ms: Any) -> Any:
    if isinstance(ms, tuple):
        return tuple(map(_to_microseconds, ms))
    return None if ms is None else round(ms, 3)


@dataclass(frozen=True)
class Case:
    """All forms at one architecture and shape.

    Attributes:
        arch: 's0' ... 's4'.
        batch: images a step.
        size: their height and width in pixels.
        costs: one a form; empty where skipped.
        skipped: why it was not run, or None.
        asked: images asked for, where memory may have allowed fewer.
    """

    arch: str
    batch: int
    size: int
    costs: tuple[Cost, ...] = ()
    skipped: Optional[str] = None
    asked: Optional[int] = None

    @property
    def title(self) -> str:
        return f'{self.arch}, {self.batch}x3x{self.size}x{self.size}'

    @property
    def notes(self) -> list[str]:
        """A line on what was not measured as asked, for each such thing."""
        if self.skipped:
            return [
                f'left out {replace(self, batch=self.asked or self.batch).title}: {self.skipped}'
            ]
        failures = [(c.form, c.failure) for c in self.costs if c.failure and ':' in c.failure]
        lines = [f'{self.title}: {form} {failure}' for form, failure in failures]
        if self.asked not in (None, self.batch):
            lines.append(f'{self.title}: {self.asked} images need more memory than there is')
        return lines

    @property
    def pixels(self) -> int:
        return self.batch * self.size**2

    def cost(self, form: str) -> Optional[Cost]:
        """The cost of a form, None where it is absent."""
        return next((c for c in self.costs if c.form == form), None)

    def ratio(self, form: str, reference: str) -> Optional[float]:
        """Median pairwise ratio of two forms' step times, None if absent."""
        a, b = self.cost(form), self.cost(reference)
        return paired_ratio(a.step_ms, b.step_ms) if a and b else None

    def document(self) -> dict[str, Any]:
        return {**asdict(self), 'costs': [c.document() for c in self.costs]}


@dataclass(frozen=True)
class Exactness:
    """How far a form is from MMPretrain's branches in float64.

    The four agreements are of float64 with float64: max |a - b| by max |b| of a tensor, the worst
    tensor, one value a seed. The errors are norms over all parameter gradients together, of the
    difference by the float64 reference.

    Attributes:
        form: a key of ``candidates.FORMS``.
        output: the last feature map.
        input_gradient: gradient to the images.
        gradients: gradients of all parameters.
        statistics: running means and variances after the step.
        fp32_error: gradients computed in float32.
        amp_error: gradients computed under autocast; empty without.
    """

    form: str
    output: tuple[float, ...] = ()
    input_gradient: tuple[float, ...] = ()
    gradients: tuple[float, ...] = ()
    statistics: tuple[float, ...] = ()
    fp32_error: tuple[float, ...] = ()
    amp_error: tuple[float, ...] = ()
    failure: Optional[str] = None


@dataclass(frozen=True)
class ArchExactness:
    """All forms of one architecture, measured at one small shape."""

    arch: str
    batch: int
    size: int
    forms: tuple[Exactness, ...]

    @property
    def title(self) -> str:
        return f'{self.arch}, {self.batch}x3x{self.size}x{self.size}'


@dataclass
class Report:
    """Everything of one run, growing while it runs."""

    machine: dict[str, Any]
    command: Sequence[str]
    options: dict[str, Any]
    notes: list[str]
    cases: list[Case]
    exactness: list[ArchExactness]

    def document(self) -> dict[str, Any]:
        """Plain data for JSON."""
        cases = [case.document() for case in self.cases]
        return dict(vars(self), cases=cases, exactness=[asdict(e) for e in self.exactness])
