"""All forms at one shape, step by step in turns."""
from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Optional

import torch

from . import memory
from .candidates import build_candidates
from .options import BenchmarkOptions
from .results import Case, Cost
from .step import Lap, TrainingStep, make_batch

OUT_OF_MEMORY = 'out of memory'
#: How torch's CPU allocator says so, in a plain RuntimeError.
_CPU_REFUSALS = ("can't allocate memory", 'not enough memory')


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory is used up, and nothing else."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in _CPU_REFUSALS)


@dataclass
class Trial:
    """A form being measured; after a failure it is left out."""
    step: TrainingStep
    first_ms: Optional[float] = None
    laps: list[Lap] = field(default_factory=list)
    saved: Optional[int] = None
    peak: Optional[int] = None
    failure: Optional[str] = None

    def attempt(self, action: Callable[[Trial], Any]) -> None:
        """Do something with the form unless it failed before."""
        if self.failure:
            return
        try:
            action(self)
        except Exception as error:
            if not ran_out_of_memory(error):
                raise
            self.failure = OUT_OF_MEMORY
        if self.failure:  # after the traceback let go of the tensors
            self.step.clear()
            gc.collect()

    def cost(self) -> Cost:
        return Cost(
            form=self.step.candidate.form,
            first_ms=self.first_ms,
            forward_ms=tuple(lap.forward_ms for lap in self.laps),
            backward_ms=tuple(lap.backward_ms for lap in self.laps),
            saved_bytes=self.saved,
            peak_bytes=self.peak,
            failure=self.failure)


def steps_of_case(options: BenchmarkOptions, forms: Sequence[str],
                  batch: int, size: int) -> int:
    """How often :func:`measure_case` reports progress."""
    # The first step, and two for memory.
    return len(forms) * (
        1 + options.warmup + options.steps_for(batch, size) + 2)


def measure_case(options: BenchmarkOptions,
                 forms: Sequence[str],
                 arch: str,
                 batch: int,
                 size: int,
                 advance: Callable[[int], None] = lambda count: None) -> Case:
    """Measure every form at one shape.

    Forms take turns step by step, each round beginning with the next one, so
    that noise hits all alike. Memory comes last: watching autograd may make
    a compiled form compile again.

    Args:
        options: threads are the caller's to set.
        forms: keys of ``options.FORMS``.
        arch, batch, size: the case.
        advance: called with 1 after every step.
    """
    candidates = build_candidates(forms, arch, options.device)
    data = make_batch(candidates[0], batch, size, 0, options.device)
    trials = [Trial(TrainingStep(c, data, options.amp)) for c in candidates]

    def everyone(action: Callable[[Trial], Any], turn: int = 0) -> None:
        for trial in _rotated(trials, turn):
            trial.attempt(action)
            advance(1)

    everyone(_first)
    for turn in range(options.warmup):
        everyone(lambda t: t.step.run(), turn)
    gc.collect()
    for turn in range(options.steps_for(batch, size)):
        everyone(_timed, turn)
    everyone(_peak)
    everyone(_saved)
    return Case(arch, batch, size, tuple(t.cost() for t in trials))


def _rotated(trials: Sequence[Trial], turn: int) -> list[Trial]:
    turn %= len(trials)
    return [*trials[turn:], *trials[:turn]]


def _first(trial: Trial) -> None:
    lap = trial.step.run()
    trial.first_ms = lap.forward_ms + lap.backward_ms


def _timed(trial: Trial) -> None:
    trial.laps.append(trial.step.run())


def _peak(trial: Trial) -> None:
    trial.peak = memory.peak_bytes(trial.step)


def _saved(trial: Trial) -> None:
    trial.saved = memory.saved_bytes(trial.step)
