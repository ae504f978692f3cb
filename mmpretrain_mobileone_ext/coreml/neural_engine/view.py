"""What rules see of an operation: its parameters with shapes and types, and the chip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from ..program.graph import Operation, Program, Shape, Value, sources, walk
from ..runtime.engine.chips import DECODED, MEASURED, Chip, Fact, weakest


class Values:
    """Types and shapes of the values of a program, as it declares them.

    Attributes:
        is_typed: whether it declares types: an ``mlprogram`` does, and computes by them. Layers of
            a ``neuralnetwork`` have none, and run on the engine in fp16.
        has_ranges: whether an input takes any size within a range.
        has_lists: whether one takes any of several sizes.
        varying: names of the values that depend on an input.
    """

    def __init__(self, program: Program) -> None:
        self.is_typed = program.format == 'mlprogram'
        self.has_ranges = any(
            low != high for feature in program.inputs for low, high in feature.ranges
        )
        self.has_lists = any(f.is_flexible and not f.ranges for f in program.inputs)
        self._shapes: dict[str, Shape] = {
            f.name: f.shape for f in program.inputs if f.shape and not f.is_flexible
        }
        self._dtypes = {feature.name: feature.dtype for feature in program.inputs}
        self.varying = {feature.name for feature in program.inputs}
        for op in program.operations:
            # Random numbers read nothing, and are not the same each time.
            if op.type.startswith('random_') or not self.varying.isdisjoint(sources(op)):
                self.varying.update(op.outputs)
        for op in walk(program.operations):
            self._dtypes.update(zip(op.outputs, op.dtypes))
            self._shapes.update((n, s) for n, s in zip(op.outputs, op.shapes) if s is not None)

    def shape(self, name: str) -> Optional[Shape]:
        """None where the file states none."""
        return self._shapes.get(name)

    def dtype(self, name: str) -> str:
        """'fp16', ...; '' where nothing is known."""
        return self._dtypes.get(name, '')


def numbers(op: Operation, parameter: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
    """A constant parameter as integers; ``default`` where it is none of them."""
    value = op.inputs.get(parameter)
    # Several constants are no array, and may differ in length.
    if value is None or isinstance(value, (Value, str, tuple)):
        return default
    found = np.asarray(value)
    if found.dtype.kind not in 'biuf' or not np.isfinite(found).all():
        return default
    return tuple(int(n) for n in found.ravel())


@dataclass(frozen=True, eq=False)
class View:
    """One operation on one chip.

    Attributes:
        op: it.
        chip: it would run on.
        values: of its program.
    """

    op: Operation
    chip: Chip
    values: Values

    def is_computed(self, parameter: str) -> bool:
        """Whether a parameter is a value that the program computes, not a constant."""
        return isinstance(self.op.inputs.get(parameter), Value)

    def constant(self, parameter: str, default: Any = None) -> Any:
        """The constant that a parameter is; ``default`` where it is computed or left out."""
        value = self.op.inputs.get(parameter, default)
        return default if isinstance(value, Value) else value

    def numbers(self, parameter: str, default: tuple[int, ...] = ()) -> tuple[int, ...]:
        """A constant as integers; ``default`` where it is none of them."""
        return numbers(self.op, parameter, default)

    def shape(self, parameter: str = 'x') -> Optional[Shape]:
        """Of a parameter, None where nothing is stated."""
        value = self.op.inputs.get(parameter)
        if isinstance(value, Value):
            return self.values.shape(value.name)
        return None if value is None or isinstance(value, (str, tuple)) else np.shape(value)

    @property
    def computed(self) -> list[str]:
        """Names of the values that it reads and that are no constants."""
        found = []
        for value in self.op.inputs.values():
            items = value if isinstance(value, tuple) else (value,)
            found += [item.name for item in items if isinstance(item, Value)]
        return found

    def limit(self, name: str) -> Fact:
        """A limit of the chip."""
        return self.chip.limit(name)

    def label(self, *engines: str) -> str:
        """How a rule is known that was measured on some engines ('H13') and decoded for others."""
        measured = self.chip.engine[:3] in engines
        return weakest(MEASURED if measured else DECODED, self.chip.sureness)
