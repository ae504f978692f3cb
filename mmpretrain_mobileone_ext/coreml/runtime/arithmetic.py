"""What a program is computed with: the one place where arithmetics differ.

An :class:`Arithmetic` says what computes an operation, what becomes of a result, and of an input.
The executor knows nothing else of it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ...errors import ProgramError
from ...utils.parity import FP16_ENDS, FP16_OVERFLOWS
from ..program.graph import Feature, Operation
from .engine.chips import CHIPS, DEFAULT_CHIP, Numerics, find_chip
from .engine.rules import engine_kind, overflows_at
from .engine.sums import PORT
from .engine.tables import Tables
from .ops import Op

#: What an operation of a ``.mlmodel`` has, and no other.
LAYER = 'layer'
#: The format of a ``.mlmodel``.
_LAYERED = 'neuralnetwork'


class Arithmetic:
    """fp32, with weights as stored.

    Attributes:
        chip: whose engine computes so; '' for none.
    """

    chip = ''

    def name_for(self, format: str) -> str:
        """What a program of a format is computed in, one of :data:`ARITHMETICS`."""
        return 'fp32'

    def halves(self, operation: Operation) -> tuple[bool, ...]:
        """Whether each result is an fp16 number."""
        return (False,) * len(operation.dtypes)

    def kind(self, kind: Op, operation: Operation, tables: Tables) -> Op:
        """What computes an operation, given what is registered for its type.

        Args:
            tables: those of the program, where functions are tables.
        """
        return kind

    def given(self, value: Tensor, feature: Feature, format: str) -> Tensor:
        """An input as the program gets it.

        Args:
            value: fp32 or integers.
            feature: the input.
            format: of the program, e.g. 'mlprogram'.
        """
        return value

    def stored(self, value: Tensor, operation: Operation) -> Tensor:
        """A constant as an operation gets it."""
        return value

    def mended(self, operation: Operation, rounded: Tensor) -> Tensor:
        """A result that is rounded, without what the arithmetic does not have."""
        return rounded

    def overflows_at(self, operation: Operation) -> float:
        """From where on results become infinite."""
        return torch.inf

    def end_of(self, operation: Operation) -> str:
        """Where that is, in words."""
        return ''


class Half(Arithmetic):
    """Results that the program declares fp16 are rounded to it; inside of operations fp32."""

    def name_for(self, format: str) -> str:
        # A .mlmodel declares nothing.
        return 'fp32' if format == _LAYERED else 'fp16'

    def halves(self, operation: Operation) -> tuple[bool, ...]:
        return tuple(dtype == 'fp16' for dtype in operation.dtypes)

    def given(self, value: Tensor, feature: Feature, format: str) -> Tensor:
        return value.half().float() if feature.dtype == 'fp16' else value

    def overflows_at(self, operation: Operation) -> float:
        return FP16_OVERFLOWS

    def end_of(self, operation: Operation) -> str:
        return FP16_ENDS


class NeuralEngine(Half):
    """As :class:`Half`, and operations with fp16 results as the Neural Engine computes them.

    What is in fp32 runs elsewhere. A ``.mlmodel`` declares no types: all of it runs there.

    Args:
        chip: e.g. 'A14' or 'M2'.

    Raises:
        ProgramError: the chip is unknown, or its arithmetic.
    """

    def __init__(self, chip: str = DEFAULT_CHIP):
        self.numerics = numerics_of(chip)
        self.chip = find_chip(chip, ProgramError).name

    def name_for(self, format: str) -> str:
        return 'ane'

    def halves(self, operation: Operation) -> tuple[bool, ...]:
        if LAYER in operation.attributes:
            return tuple(dtype == 'fp32' for dtype in operation.dtypes)
        return super().halves(operation)

    def kind(self, kind: Op, operation: Operation, tables: Tables) -> Op:
        halves = any(self.halves(operation))
        return engine_kind(kind, operation, self.numerics, tables) if halves else kind

    def given(self, value: Tensor, feature: Feature, format: str) -> Tensor:
        runs_there = feature.dtype == 'fp16' or format == _LAYERED
        return _arrived(value) if runs_there else value

    def stored(self, value: Tensor, operation: Operation) -> Tensor:
        return _arrived(value) if LAYER in operation.attributes else value

    def mended(self, operation: Operation, rounded: Tensor) -> Tensor:
        # NaN arrives as infinity, and none is ever made.
        return _without_nan(rounded, torch.inf if operation.type == 'cast' else 0.0)

    def overflows_at(self, operation: Operation) -> float:
        return overflows_at(operation, self.numerics)

    def end_of(self, operation: Operation) -> str:
        if self.overflows_at(operation) == FP16_OVERFLOWS:
            return super().end_of(operation)
        return f"the Neural Engine's sums end at {PORT:.0f}"


def _arrived(value: Tensor) -> Tensor:
    """Numbers as they get into the engine: in fp16, and NaN as infinity."""
    return _without_nan(value.half().float(), torch.inf) if value.is_floating_point() else value


def _without_nan(value: Tensor, instead: float) -> Tensor:
    return torch.where(value.isnan(), instead, value)


def numerics_of(chip: str) -> Numerics:
    """What the arithmetic of a chip does to numbers.

    Raises:
        ProgramError: the chip is unknown, or its arithmetic.
    """
    found = find_chip(chip, ProgramError).numerics
    if found is None:
        allowed = ', '.join(name for name, known in CHIPS.items() if known.numerics)
        raise ProgramError(
            f'nothing is known of the arithmetic of chip {chip!r}; allowed: {allowed}'
        )
    return found


#: The names of arithmetics.
ARITHMETICS = ('fp32', 'fp16', 'ane')


def arithmetic_of(name: str, chip: str = DEFAULT_CHIP) -> Arithmetic:
    """An arithmetic by its name.

    Args:
        name: 'fp32', 'fp16' or 'ane'.
        chip: whose engine, for 'ane'.

    Raises:
        ProgramError: there is none of this name, or no such chip.
    """
    if name not in ARITHMETICS:
        raise ProgramError(f'arithmetic is {name!r}; allowed: {", ".join(ARITHMETICS)}')
    engine = NeuralEngine(chip)
    return {'fp32': Arithmetic(), 'fp16': Half(), 'ane': engine}[name]
