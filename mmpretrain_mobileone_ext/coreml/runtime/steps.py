"""Operations bound to what computes them, ready to be called in a row."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import AbstractSet, Any, Callable, NamedTuple, Optional

import numpy as np
import torch
from torch import Tensor

from ..program.budget import Ledger
from ..program.graph import Block, Operation, Program, Value, sources
from . import ops

# Parameters that are lists of data.
_LISTS = ('values', 'loop_vars')
# Operations whose results are new tensors, never views.
FRESH = frozenset({'add', 'batch_norm', 'conv', 'linear', 'mul'})

# What an mlprogram declares, as it is held here. A layer of a neuralnetwork
# declares nothing, and 8-bit values may be held as floats.
_HELD = {'fp16': torch.float32, 'fp32': torch.float32, 'int32': torch.int32, 'bool': torch.bool}


class Step(NamedTuple):
    """One operation, bound to its implementation and its constants."""

    name: str
    type: str
    function: Callable[..., Any]
    references: dict[str, Any]
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    halves: tuple[bool, ...]
    dtypes: tuple[Optional[torch.dtype], ...]
    frees: tuple[str, ...]
    shapes: tuple[Optional[tuple[Optional[int], ...]], ...]
    blocks: tuple[BoundBlock, ...]


class BoundBlock(NamedTuple):
    """A nested block, its operations bound."""

    inputs: tuple[str, ...]
    steps: tuple[Step, ...]
    outputs: tuple[str, ...]


def bind(
    program: Program, outputs: tuple[str, ...], device: torch.device, ledger: Ledger
) -> Iterator[Step]:
    """Bind every operation, and free each value after its last use.

    Raises:
        ProgramError: An operation is not implemented, or the constants take
            more memory than ``ledger`` allows.
    """
    inputs = {feature.name for feature in program.inputs}
    constants = _Constants(device, ledger)
    yield from _bound(program.operations, inputs, outputs, constants)


def _bound(
    operations: Sequence[Operation],
    inputs: AbstractSet[str],
    outputs: Sequence[str],
    constants: _Constants,
) -> Iterator[Step]:
    """Bind the operations of one block, which frees its own values."""
    last_use: dict[str, int] = {}
    uses: Counter[str] = Counter()
    own = set(inputs)
    for index, op in enumerate(operations):
        uses.update(sources(op))
        own.update(op.outputs)
        for name in (*op.outputs, *sources(op)):
            last_use[name] = index
    own.difference_update(outputs)
    fresh: set[str] = set()
    for index, op in enumerate(operations):
        frees = {
            name for name in (*op.outputs, *sources(op)) if last_use[name] == index and name in own
        }
        if op.type in FRESH:
            # With a second reader there may be a view of the value.
            fresh.update(name for name in op.outputs if uses[name] == 1)
        step = _step(op, tuple(sorted(frees)), constants)
        if op.type == 'relu' and fresh & frees & set(step.sources):
            step = step._replace(function=_relu_in_place)
        yield step


def _relu_in_place(x: Tensor) -> Tensor:
    """``relu`` of a value that nothing reads afterwards."""
    return x.relu_()


def _step(op: Operation, frees: tuple[str, ...], stored: _Constants) -> Step:
    constants: dict[str, Any] = {}
    references: dict[str, Any] = {}
    function = ops.lookup(op.type, op.name)
    data = ops.data_parameters(op.type)
    for name, value in op.inputs.items():
        if isinstance(value, Value):
            references[name] = value.name
        elif name in _LISTS:
            references[name] = tuple(
                item.name
                if isinstance(item, Value)
                else stored.of(op.type, 'values', item, name in data)
                for item in value
            )
        else:
            constants[name] = stored.of(op.type, name, value, name in data)
    return Step(
        name=op.name,
        type=op.type,
        function=functools.partial(function, **constants),
        references=references,
        sources=tuple(sources(op)),
        outputs=op.outputs,
        halves=tuple(dtype == 'fp16' for dtype in op.dtypes),
        dtypes=tuple(_HELD.get(dtype) if op.shapes else None for dtype in op.dtypes),
        frees=frees,
        shapes=op.shapes,
        blocks=tuple(_block(block, stored) for block in op.blocks),
    )


def _block(block: Block, stored: _Constants) -> BoundBlock:
    steps = _bound(block.operations, set(block.inputs), block.outputs, stored)
    return BoundBlock(block.inputs, tuple(steps), block.outputs)


class _Constants:
    """Constants in the form operations take them, each stored once.

    A file may well use one weight in ten thousand operations.
    """

    def __init__(self, device: torch.device, ledger: Ledger) -> None:
        self._device = device
        self._ledger = ledger
        self._tensors: dict[Any, Any] = {}

    def of(self, op_type: str, name: str, value: Any, data: bool) -> Any:
        """Tensors for data, and for arrays of floats; else Python values."""
        if isinstance(value, (str, tuple)):
            return value
        array = np.asarray(value)
        is_float = array.dtype.kind == 'f'
        if not data and not (is_float and array.ndim > 0):
            return array.tolist()
        innermost = (op_type, name, array.ndim) == ('conv', 'weight', 4)
        place = array.__array_interface__['data'][0]
        key = place, array.shape, array.strides, array.dtype, innermost
        if key not in self._tensors:
            size = array.size * (1 if array.dtype.kind == 'b' else 4)
            self._ledger.hold(size, f'the {name} of operation {op_type!r}')
            # The array too: while it lives, its place is its own.
            self._tensors[key] = array, self._tensor(array, innermost)
        return self._tensors[key][1]

    def _tensor(self, array: np.ndarray, innermost: bool) -> Tensor:
        """fp32, int32 or bool.

        The kernels of a 2-D convolution have channels innermost. Its result
        then has this order in memory as well, and so have those that
        follow: on the CPU they are computed 1.3 to 1.6 times as fast.
        """
        if array.dtype.kind != 'b':
            is_float = array.dtype.kind == 'f'
            array = array.astype(np.float32 if is_float else np.int32)
        tensor = torch.tensor(array, device=self._device)
        if innermost:
            return tensor.contiguous(memory_format=torch.channels_last)
        return tensor
