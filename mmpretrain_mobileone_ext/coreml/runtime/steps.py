"""Operations bound to what computes them, ready to be called in a row."""

from __future__ import annotations

import functools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, Callable, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from ...errors import ProgramError
from ..program.budget import Ledger
from ..program.graph import Block, Operation, Program, Value, sources
from . import ops
from .arithmetic import Arithmetic
from .engine.tables import Tables

# What an mlprogram declares, as it is held here. A layer of a neuralnetwork declares nothing, and
# 8-bit values may be held as floats.
_HELD = {'fp16': torch.float32, 'fp32': torch.float32, 'int32': torch.int32, 'bool': torch.bool}


class Step(NamedTuple):
    """One operation, bound to its implementation and its constants.

    Attributes:
        operation: as the program has it.
        kind: what is known about operations of its type.
        function: computes it, given what ``references`` names.
        references: parameter to the name of a value, or for a list of values to names and
            constants.
        sources: names of all values it reads, its nested blocks, too.
        halves: whether each result is rounded to fp16.
        dtypes: what each result is held as; None where nothing is declared.
        frees: values that nothing reads afterwards.
        blocks: its nested blocks, each with its steps.
    """

    operation: Operation
    kind: ops.Op
    function: Callable[..., Any]
    references: dict[str, Any]
    sources: tuple[str, ...]
    halves: tuple[bool, ...]
    dtypes: tuple[Optional[torch.dtype], ...]
    frees: tuple[str, ...]
    blocks: tuple[tuple[Block, tuple[Step, ...]], ...]

    @property
    def label(self) -> str:
        """The operation, for messages."""
        return _label(self.operation)


def _label(operation: Operation) -> str:
    return f'operation {operation.type!r} (named {operation.name!r})'


def failed(operation: Operation, error: Exception) -> ProgramError:
    """Which operation failed, and why, in one line."""
    reason = ' '.join(str(error).split())
    return ProgramError(f'{_label(operation)} failed: {reason}')


def bind(
    program: Program,
    outputs: Sequence[str],
    arithmetic: Arithmetic,
    device: torch.device,
    ledger: Ledger,
) -> tuple[Step, ...]:
    """Bind every operation, and free each value after its last use.

    Raises:
        ProgramError: An operation is not implemented, the arithmetic does not take its
            parameters, or the constants take more memory than ``ledger`` allows.
    """
    inputs = [feature.name for feature in program.inputs]
    stored = _Constants(device, ledger, arithmetic)
    return tuple(_bound(program.operations, inputs, outputs, arithmetic, stored))


def _bound(
    operations: Sequence[Operation],
    inputs: Sequence[str],
    outputs: Sequence[str],
    arithmetic: Arithmetic,
    constants: _Constants,
) -> Iterator[Step]:
    """Bind the operations of one block, which frees its own values."""
    own, uses = set(inputs), Counter[str]()
    last_use: dict[str, int] = {}
    for index, operation in enumerate(operations):
        own.update(operation.outputs)
        uses.update(sources(operation))
        last_use.update(dict.fromkeys((*operation.outputs, *sources(operation)), index))
    frees = defaultdict[int, set[str]](set)
    for name in own.difference(outputs).intersection(last_use):
        frees[last_use[name]].add(name)
    unshared: set[str] = set()
    for index, operation in enumerate(operations):
        step = _step(operation, frees[index], unshared, arithmetic, constants)
        if step.kind.fresh:
            # With a second reader there may be a view of the value.
            unshared.update(name for name in operation.outputs if uses[name] == 1)
        yield step


def _step(
    operation: Operation,
    frees: set[str],
    unshared: set[str],
    arithmetic: Arithmetic,
    stored: _Constants,
) -> Step:
    """Bind one operation; it may overwrite ``x`` if that is unshared and freed here."""
    kind = _kind(operation, arithmetic, stored.tables)
    constants: dict[str, Any] = {}
    references: dict[str, Any] = {}
    for name, value in operation.inputs.items():
        if name in kind.lists:
            items = value if isinstance(value, tuple) else (value,)
            references[name] = tuple(
                v.name if isinstance(v, Value) else stored.of(operation, name, v, kind)
                for v in items
            )
        elif isinstance(value, Value):
            references[name] = value.name
        else:
            constants[name] = stored.of(operation, name, value, kind)
    in_place = kind.in_place if references.get('x') in unshared & frees else None
    return Step(
        operation=operation,
        kind=kind,
        function=functools.partial(in_place or kind.function, **constants),
        references=references,
        sources=tuple(sources(operation)),
        halves=arithmetic.halves(operation),
        dtypes=tuple(_HELD.get(d) if operation.shapes else None for d in operation.dtypes),
        frees=tuple(sorted(frees)),
        blocks=tuple(
            (
                block,
                tuple(_bound(block.operations, block.inputs, block.outputs, arithmetic, stored)),
            )
            for block in operation.blocks
        ),
    )


def _kind(operation: Operation, arithmetic: Arithmetic, tables: Tables) -> ops.Op:
    """What computes an operation."""
    known = ops.lookup(operation.type, operation.name)
    try:
        return arithmetic.kind(known, operation, tables)
    except Exception as error:
        # A file may hold anything as a parameter.
        raise failed(operation, error) from error


class _Constants:
    """Constants in the form operations take them, each stored once.

    A file may well use one weight in ten thousand operations.
    """

    def __init__(self, device: torch.device, ledger: Ledger, arithmetic: Arithmetic) -> None:
        self._device = device
        self._arithmetic = arithmetic
        self._ledger = ledger
        self._tensors: dict[Any, Any] = {}
        #: Of functions, likewise.
        self.tables = Tables(ledger)

    def of(self, operation: Operation, name: str, value: Any, kind: ops.Op) -> Any:
        """Tensors for data, and for arrays of floats; else Python values."""
        if isinstance(value, (str, tuple)):
            return value
        array = np.asarray(value)
        if name not in kind.data and not (array.dtype.kind == 'f' and array.ndim > 0):
            return array.tolist()
        innermost = name == kind.channels_last and array.ndim == 4
        place = array.__array_interface__['data'][0]
        key = place, array.shape, array.strides, array.dtype, innermost
        if key not in self._tensors:
            size = array.size * (1 if array.dtype.kind == 'b' else 4)
            self._ledger.hold(size, f'the {name} of operation {operation.type!r}')
            # The array too: while it lives, its place is its own.
            tensor = self._arithmetic.stored(self._tensor(array, innermost), operation)
            self._tensors[key] = array, tensor
        return self._tensors[key][1]

    def _tensor(self, array: np.ndarray, innermost: bool) -> Tensor:
        """fp32, int32 or bool.

        The kernels of a 2-D convolution have channels innermost. Its result then has this order in
        memory as well, and so have those that follow: on the CPU they are computed 1.3 to 1.6 times
        as fast.
        """
        if array.dtype.kind != 'b':
            array = array.astype(np.float32 if array.dtype.kind == 'f' else np.int32)
        tensor = torch.tensor(array, device=self._device)
        return tensor.contiguous(memory_format=torch.channels_last) if innermost else tensor
