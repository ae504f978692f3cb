"""What of a Core ML file the Neural Engines take, as plain data for the page."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Optional

from ..coreml.neural_engine.forecast import Forecast, caveat, forecasts
from ..coreml.neural_engine.latency.estimate import LatencyModel, fitted_model
from ..coreml.neural_engine.shapes import with_shapes
from ..coreml.neural_engine.verdict import Shared, by_chips, preflight, stored_words
from ..coreml.program.graph import Program
from ..coreml.runtime.engine.chips import CHIPS, DEFAULT_CHIPS

__all__ = ['EngineChip', 'EngineReport', 'EngineTime', 'engine_report', 'time_caveat']

_FORMATS = ('mlprogram', 'neuralnetwork')


@dataclass(frozen=True)
class EngineChip:
    """The verdict on one chip.

    Attributes:
        chip: its name.
        level: 'good', 'warn' or 'bad'.
        sentence: one line.
        doubt: what speaks against the chip's table, '' for nothing.
    """

    chip: str
    level: str
    sentence: str
    doubt: str = ''


@dataclass(frozen=True)
class EngineTime:
    """The estimated latency of one prediction on one chip.

    Attributes:
        chip: its name.
        sentence: one line, with the chip.
        ms: None where there is no estimate.
        low, high: of its bounds, ms; None where only the order of files counts.
    """

    chip: str
    sentence: str
    ms: Optional[float] = None
    low: Optional[float] = None
    high: Optional[float] = None

    @classmethod
    def of(cls, found: Forecast) -> EngineTime:
        """Of a forecast, without its layers."""
        if found.estimate is None:
            return cls(found.chip, found.sentence())
        return cls(
            found.chip, found.sentence(), found.estimate.ms, found.estimate.low, found.estimate.high
        )


@dataclass(frozen=True)
class EngineReport:
    """One file on several chips.

    Attributes:
        form: name of its row.
        chips: the verdicts.
        off: what is not on the engine.
        remarks: detours and risks of what is.
        weights: one line for each way in which they are stored.
        times: estimated latencies.
    """

    form: str
    chips: tuple[EngineChip, ...]
    off: tuple[Shared, ...] = ()
    remarks: tuple[Shared, ...] = ()
    weights: tuple[str, ...] = ()
    times: tuple[EngineTime, ...] = ()


def engine_report(files: Iterable[tuple[str, Program]]) -> list[EngineReport]:
    """Judge files on the usual chips; those of other formats are left out.

    Args:
        files: (name of the form, program as read from disk).
    """
    model = fitted_model()
    return [_one(form, program, model) for form, program in files if program.format in _FORMATS]


def time_caveat() -> str:
    """What a reader has to know of the estimates of time."""
    return caveat(fitted_model())


def _one(form: str, program: Program, model: LatencyModel) -> EngineReport:
    program = with_shapes(program)
    verdicts = preflight(program, [CHIPS[name] for name in DEFAULT_CHIPS])
    off = tuple(by_chips(verdicts, lambda v: v.off))
    remarks = tuple(by_chips(verdicts, lambda v: v.remarks))
    chips = tuple(EngineChip(v.chip.name, v.level, v.sentence, v.chip.doubt) for v in verdicts)
    times = tuple(map(EngineTime.of, forecasts(program, verdicts, model)))
    return EngineReport(form, chips, off, remarks, tuple(stored_words(verdicts)), times)
