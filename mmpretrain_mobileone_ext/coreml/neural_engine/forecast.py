"""How long a file runs on each of several chips, layer by layer, and what would shorten it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

from ...errors import ProgramError
from ...utils.text import counted
from ..program.graph import Program
from ..runtime.engine.chips import Chip
from .latency.estimate import Estimate, Estimator, LatencyModel
from .latency.features import Layer, layers_of
from .shapes import with_shapes
from .suggest import Suggestion, suggest
from .verdict import Verdict, preflight

#: What the range beside an estimate is.
BOUNDS = 'bounds are made to hold 8 of 10 further networks of this kind'
_CAVEAT = (
    'Estimates are of one prediction with its round trip through Core ML, as published for an '
    f'iPhone 12 in 2022, the fastest of about 1000; {BOUNDS}. A bench on your device says more; '
    "preflight's --calibrate reads it."
)
_CALIBRATED = (
    'Estimates are of one prediction with its round trip through Core ML on the device {device}, '
    f'the median of a bench; {BOUNDS}.'
)


def caveat(model: LatencyModel) -> str:
    """What a reader has to know of every estimate by a model."""
    return _CALIBRATED.format(device=model.device) if model.is_calibrated else _CAVEAT


@dataclass(frozen=True)
class Forecast:
    """A file on a chip.

    Attributes:
        chip: its name.
        layers: of the file, as the chip reads them.
        estimate: None where there is none.
        why: there is none, '' where there is one.
        suggestions: by what they save; empty where nobody asked.
    """

    chip: str
    layers: tuple[Layer, ...] = ()
    estimate: Optional[Estimate] = None
    why: str = ''
    suggestions: tuple[Suggestion, ...] = ()

    def sentence(self) -> str:
        """One line."""
        if self.estimate is None:
            return f'{self.chip}: no estimate of time: {self.why}'
        notes = ''.join(f'; {note}' for note in self.estimate.notes)
        return f'{self.chip}: {self.estimate.words()}{notes}'

    @property
    def parts(self) -> str:
        """What the time is made of, in words."""
        found = self.estimate.parts if self.estimate else {}
        return ', '.join(f'{name} {ms:.2f}' for name, ms in found.items()) + ' ms'

    def slowest(self) -> list[tuple[Layer, float, str]]:
        """Layers that take time with their ms and what they wait for, longest first."""
        if self.estimate is None:
            return []
        rows = zip(self.layers, self.estimate.layers_ms, self.estimate.waits)
        return sorted((row for row in rows if row[1] > 0), key=lambda row: -row[1])

    def document(self, each: bool = True) -> dict[str, Any]:
        """Plain values for JSON; with ``each`` layer."""
        found = self.estimate.document() if self.estimate else None
        times, waits = (found.pop('layers_ms'), found.pop('waits')) if found else ((), ())
        layers = [
            dict(name=layer.name, type=layer.type, ms=ms, waits_for=wait)
            for layer, ms, wait in zip(self.layers, times, waits)
        ]
        return dict(
            chip=self.chip,
            estimate=found,
            parts=self.estimate.parts if self.estimate else {},
            why=self.why,
            **(dict(layers=layers) if each else {}),
            suggestions=[s.document() for s in self.suggestions],
        )


def clearest(found: Sequence[Forecast]) -> Forecast:
    """The first with bounds; else the first."""
    bound = (f for f in found if f.estimate is not None and f.estimate.low is not None)
    return next(bound, found[0])


def forecasts(
    program: Program,
    verdicts: Iterable[Verdict],
    model: LatencyModel,
    with_suggestions: bool = False,
) -> tuple[Forecast, ...]:
    """Estimate a file on the chips of its verdicts; a calibrated model holds for one, the first.

    Args:
        program: as read from disk.
        verdicts: on the chips.
        model: fitted.
        with_suggestions: find what would shorten it, too.
    """
    chosen = list(verdicts)[:1] if model.is_calibrated else verdicts
    return tuple(_forecast(program, v, model, with_suggestions) for v in chosen)


def _forecast(
    program: Program, verdict: Verdict, model: LatencyModel, with_suggestions: bool
) -> Forecast:
    chip = verdict.chip
    name = model.device if model.is_calibrated else chip.name
    if not verdict.num_on_engine:
        return Forecast(name, why='nothing of it runs on the engine')
    try:
        layers = layers_of(program, chip)
    except ProgramError as error:
        return Forecast(name, why=str(error))
    estimator = Estimator(model, chip)
    found = suggest(layers, estimator) if with_suggestions else ()
    return Forecast(name, layers, _with_gaps(estimator(layers), verdict), '', found)


def _with_gaps(estimate: Estimate, verdict: Verdict) -> Estimate:
    """What runs elsewhere, and changes of unit, are in no published latency."""
    if verdict.is_whole:
        return estimate
    left = len(verdict.network) - verdict.num_on_engine
    note = (
        f'{counted(left, "operation")} off the engine and '
        f'{counted(verdict.switches, "change")} of unit cost more, which is not counted'
    )
    return replace(estimate, notes=(*estimate.notes, note))


def estimate_of(program: Program, model: LatencyModel, chip: Chip) -> Optional[Estimate]:
    """Of a file on one chip, with what it does not count; None where nothing can be said."""
    program = with_shapes(program)
    (found,) = forecasts(program, preflight(program, [chip]), model)
    return found.estimate
