"""How a file differs inside: drift of each operation, range of each weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

import numpy as np
import torch
from torch import Tensor

from ..coreml.compress.storage import int8
from ..coreml.compress.weights import Weight, find_weights
from ..coreml.program.graph import Feature, Operation, Program
from ..coreml.runtime.load import ReferenceProgram

_FLOATS = ('fp16', 'fp32')
_AT_ONCE = 4  # images; all values of a program are alive at the same time
#: A ratio of 4 costs the median channel 2 of 8 bits under one scale.
_WIDE = 4.0
_LOW_DB = 30.0
_MOST_DB = 120.0  # of a channel that is stored exactly


@dataclass(frozen=True)
class OperationDrift:
    """Figures of one operation over all images.

    Attributes:
        name, type: as in the file; MIL spelling.
        dtype: 'fp16' or 'fp32', as declared for its (first) result.
        relative: ||fp16 - fp32|| / ||fp32|| (Frobenius, over all images and results); None where a
            value is not finite.
        peak: largest |value| in fp32.
        overflows: values that are infinite in fp16, finite in fp32.
        place: what it is in the network, in words; '' where nobody knows.
    """

    name: str
    type: str
    dtype: str
    relative: Optional[float]
    peak: float
    overflows: int
    place: str = ''

    @property
    def called(self) -> str:
        """What people call it."""
        return self.place or self.name


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

    def of(self, op: Operation) -> OperationDrift:
        share = self.error / self.norm if self.norm else self.error
        # Infinite or not a number: no figure says how far it is.
        relative = share**0.5 if share < float('inf') else None
        dtype = next(d for d in op.dtypes if d in _FLOATS)
        return OperationDrift(op.name, op.type, dtype, relative, self.peak, self.overflows)


def measure_drift(
    program: Program,
    batches: Iterable[Mapping[str, Tensor]],
    advance: Callable[[int], Any] = lambda count: None,
) -> tuple[OperationDrift, ...]:
    """Execute a file in both arithmetics and compare every operation.

    An operation's figure includes what arrives from the operations before it, as on a device.

    Args:
        program: a Core ML file, as read from disk.
        batches: inputs as of ``LoadedProgram.predict_batch``: name to (N, ...); images hold values
            0 to 255 in the model's own channel order.
        advance: told the number of images done.

    Returns:
        In execution order, the operations with floating-point results.

    Raises:
        ProgramError: the file cannot be executed, or fed so.
    """
    shown = {op.name: op for op in program.operations if _results(op)}
    exact, rounded = (
        _all_values(program, shown.values(), arithmetic) for arithmetic in ('fp32', 'fp16')
    )
    sums = {name: _Sums() for name in shown}
    values = [(name, value) for name, op in shown.items() for value in _results(op)]
    for part, count in _few_at_once(batches):
        # One image at a time: of several as one input, an inner value need not tell them apart.
        wanted, found = (p.predict_batch(part, chunk_size=1) for p in (exact, rounded))
        for name, value in values:
            sums[name].add(wanted[value], found[value])
        advance(count)
    return tuple(sums[name].of(op) for name, op in shown.items())


def _few_at_once(
    batches: Iterable[Mapping[str, Tensor]],
) -> Iterator[tuple[dict[str, Tensor], int]]:
    """Parts of the batches, and how many images each has."""
    for batch in batches:
        count = len(next(iter(batch.values())))
        for start in range(0, count, _AT_ONCE):
            part = {k: v[start : start + _AT_ONCE] for k, v in batch.items()}
            yield part, min(_AT_ONCE, count - start)


def _results(op: Operation) -> list[str]:
    return [name for name, dtype in zip(op.outputs, op.dtypes) if dtype in _FLOATS]


def _all_values(
    program: Program, operations: Iterable[Operation], arithmetic: str
) -> ReferenceProgram:
    """The program with every floating-point value as an output."""
    outputs = tuple(Feature(name, 'tensor') for op in operations for name in _results(op))
    return ReferenceProgram(
        replace(program, outputs=outputs), arithmetic, False, torch.device('cpu')
    )


@dataclass(frozen=True)
class WeightRange:
    """Ranges of one weight, by output channel.

    Attributes:
        layer: name of the operation, or of the module.
        op_type: 'conv', 'conv_transpose' or 'linear'.
        shape: output channels first.
        depthwise: every filter sees one input channel.
        channel_max: largest |w| of each output channel.
        ratio: largest entry of ``channel_max`` over the median of those that are not zero; 1 for a
            weight of zeros.
        dead: output channels whose weights are all zero.
        sqnr_tensor_db: signal to quantization noise of int8 in dB with one scale for the weight,
            the median of its channels (not counting dead ones), at most 120.
        sqnr_channel_db: the same with one scale for each output channel.
        why: one sentence on what makes the weight hard, '' if nothing does.
        place: what the layer is in the network, in words; '' where nobody knows.
    """

    layer: str
    op_type: str
    shape: tuple[int, ...]
    depthwise: bool
    channel_max: tuple[float, ...]
    ratio: float
    dead: int
    sqnr_tensor_db: float
    sqnr_channel_db: float
    why: str
    place: str = ''

    @property
    def called(self) -> str:
        """What people call it."""
        return self.place or self.layer


def weight_ranges(program: Program) -> tuple[WeightRange, ...]:
    """Ranges of all convolution and linear weights of a Core ML file.

    The hardest come first: those with the lowest ``sqnr_tensor_db``.
    """
    found = [range_of(weight) for weight in find_weights(program)]
    return tuple(sorted(found, key=lambda r: (r.sqnr_tensor_db, r.layer)))


def range_of(weight: Weight) -> WeightRange:
    """The ranges of one weight."""
    rows = weight.values.astype(np.float64).reshape(len(weight.values), -1)
    largest = np.abs(rows).max(1)
    alive = largest > 0
    ratio = 1.0
    if alive.any():
        ratio = float(largest.max() / np.median(largest[alive]))
    one, each = (
        _sqnr(rows[alive], int8(rows, per_channel)[alive]) for per_channel in (False, True)
    )
    found = WeightRange(
        layer=weight.name,
        op_type=weight.op_type,
        shape=weight.values.shape,
        depthwise=weight.depthwise,
        channel_max=tuple(largest.tolist()),
        ratio=ratio,
        dead=int((~alive).sum()),
        sqnr_tensor_db=one,
        sqnr_channel_db=each,
        why='',
    )
    return replace(found, why=_why(found))


def _sqnr(rows: np.ndarray, stored: np.ndarray) -> float:
    if not len(rows):
        return _MOST_DB
    noise = ((stored - rows) ** 2).sum(1)
    signal = (rows**2).sum(1)
    with np.errstate(divide='ignore'):
        decibels = 10 * np.log10(signal / noise)
    return float(np.minimum(np.median(decibels), _MOST_DB))


def _why(found: WeightRange) -> str:
    """One sentence, for people who read a report."""
    few = int(np.prod(found.shape[1:]))
    alone = (
        (f'; a depthwise filter has {few} weights, too few for errors to average out')
        if found.depthwise
        else ''
    )
    if found.ratio >= _WIDE:
        lost = np.log2(found.ratio)
        return (
            f'Its largest channel spans {found.ratio:.0f} times the median one, as folding '
            'multiplies every channel by gamma / sqrt(var + eps) of its own normalization: one '
            f'scale for all leaves the median channel {max(0.0, 8 - lost):.1f} of 8 bits '
            f'({found.sqnr_tensor_db:.0f} dB), a scale for each channel gives '
            f'{found.sqnr_channel_db:.0f} dB{alone}.'
        )
    if found.sqnr_channel_db < _LOW_DB:
        return (
            'Single weights are far larger than the others of their channel, so that even a scale '
            f'for each channel gives only {found.sqnr_channel_db:.0f} dB{alone}.'
        )
    return ''
