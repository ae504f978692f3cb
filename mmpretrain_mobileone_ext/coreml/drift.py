"""How far every operation's fp16 value is from its fp32 value."""
from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
from torch import Tensor

from .graph import Feature, Operation, Program
from .runtime import ReferenceProgram

_FLOATS = ('fp16', 'fp32')
_AT_ONCE = 4  # images; all values of a program are alive at the same time


@dataclass(frozen=True)
class OperationDrift:
    """Figures of one operation over all images.

    Attributes:
        name, type: as in the file; MIL spelling.
        dtype: 'fp16' or 'fp32', as declared for its (first) result.
        relative: ||fp16 - fp32|| / ||fp32|| (Frobenius, over all images and
            results); None where a value is not finite.
        peak: largest |value| in fp32.
        overflows: values that are infinite in fp16, finite in fp32.
    """
    name: str
    type: str
    dtype: str
    relative: Optional[float]
    peak: float
    overflows: int


class _Sums:
    """Running sums of one operation."""

    def __init__(self) -> None:
        self.error, self.norm, self.peak = 0.0, 0.0, 0.0
        self.overflows = 0

    def add(self, exact: Tensor, rounded: Tensor) -> None:
        exact, rounded = exact.double(), rounded.double()
        self.error += float((rounded - exact).square().sum())
        self.norm += float(exact.square().sum())
        self.peak = max(self.peak, float(exact.abs().max()))
        lost = exact.isfinite() & ~rounded.isfinite()
        self.overflows += int(lost.sum())

    @property
    def relative(self) -> Optional[float]:
        share = self.error / self.norm if self.norm else self.error
        # Infinite or not a number: no figure says how far it is.
        return share**0.5 if share < float('inf') else None


def measure_drift(
    program: Program,
    batches: Iterable[Mapping[str, Tensor]],
    advance: Callable[[int], Any] = lambda count: None,
) -> tuple[OperationDrift, ...]:
    """Execute a file in both arithmetics and compare every operation.

    An operation's figure includes what arrives from the operations before
    it, as on a device.

    Args:
        program: a Core ML file, as read from disk.
        batches: inputs as of ``LoadedProgram.predict_batch``: name to
            (N, ...); images hold values 0 to 255 in the model's own channel
            order.
        advance: told the number of images done.

    Returns:
        In execution order, the operations with floating-point results.

    Raises:
        ProgramError: the file cannot be executed, or fed so.
    """
    shown = {op.name: op for op in program.operations if _results(op)}
    exact, rounded = (_all_values(program, shown.values(), arithmetic)
                      for arithmetic in ('fp32', 'fp16'))
    sums = {name: _Sums() for name in shown}
    for batch in batches:
        count = len(next(iter(batch.values())))
        for start in range(0, count, _AT_ONCE):
            part = {k: v[start:start + _AT_ONCE] for k, v in batch.items()}
            # One image at a time: of several as one input, an inner value
            # need not tell them apart.
            _add(sums, shown, exact.predict_batch(part, chunk_size=1),
                 rounded.predict_batch(part, chunk_size=1))
            advance(len(next(iter(part.values()))))
    return tuple(
        OperationDrift(name, op.type, _dtype(op), sums[name].relative,
                       sums[name].peak, sums[name].overflows)
        for name, op in shown.items())


def _results(op: Operation) -> list[str]:
    return [name for name, dtype in zip(op.outputs, op.dtypes)
            if dtype in _FLOATS]


def _dtype(op: Operation) -> str:
    return next(d for d in op.dtypes if d in _FLOATS)


def _all_values(program: Program, operations: Iterable[Operation],
                arithmetic: str) -> ReferenceProgram:
    """The program with every floating-point value as an output."""
    outputs = tuple(
        Feature(name, 'tensor') for op in operations for name in _results(op))
    return ReferenceProgram(
        replace(program, outputs=outputs), arithmetic, False,
        torch.device('cpu'))


def _add(sums: Mapping[str, _Sums], shown: Mapping[str, Operation],
         exact: Mapping[str, Tensor], rounded: Mapping[str, Tensor]) -> None:
    for name, op in shown.items():
        for value in _results(op):
            sums[name].add(exact[value], rounded[value])
