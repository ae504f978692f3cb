"""The op loop: a dictionary of values, one operation after another."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, Callable, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import ProgramError
from . import ops
from .graph import Operation, Program, Value

Stats = dict[str, dict[str, Tensor]]

# Parameters that are data even when they are constants; integer constants
# under any other name (axes, strides, ...) stay Python numbers.
_DATA = frozenset({'x', 'y', 'a', 'b', 'cond', 'indices', 'probabilities'})

# Operations whose results are values of their inputs (or zero): fp16 stays
# fp16, so rounding them again would change nothing.
_SELECT = frozenset(
    {
        'concat',
        'depth_to_space',
        'expand_dims',
        'flatten2d',
        'gather',
        'identity',
        'max_pool',
        'pixel_shuffle',
        'relu',
        'reshape',
        'slice_by_index',
        'slice_by_size',
        'space_to_depth',
        'split',
        'squeeze',
        'stack',
        'transpose',
    }
)

# Operations whose results are new tensors, never views.
_FRESH = frozenset({'add', 'batch_norm', 'conv', 'linear', 'mul'})


class _Step(NamedTuple):
    """One operation, bound to its implementation and its constants."""

    name: str
    type: str
    function: Callable[..., Any]
    references: dict[str, Any]
    sources: tuple[str, ...]
    outputs: tuple[str, ...]
    halves: tuple[bool, ...]
    frees: tuple[str, ...]


class Executor:
    """Runs the operations of a program on torch, one sample at a time.

    The call is a pure function of its inputs, so ``torch.vmap`` applies.

    Args:
        program (Program): The program to run.
        half (bool): Round every result that the program declares fp16 to
            fp16; inside an operation arithmetic stays fp32.
        record_range (bool): Measure max ``|value|`` of every operation.
        device (torch.device | str): Where to keep constants and compute.

    Raises:
        ProgramError: If an operation is not implemented.
    """

    def __init__(
        self,
        program: Program,
        half: bool,
        record_range: bool,
        device: torch.device,
    ) -> None:
        self._half = half
        self._record_range = record_range
        self._outputs = tuple(feature.name for feature in program.outputs)
        self._steps = tuple(_bind_all(program, self._outputs, device))
        _check_defined(program, self._outputs)

    def __call__(
        self, inputs: Mapping[str, Tensor], count: bool = False
    ) -> tuple[dict[str, Tensor], Stats]:
        """Run the program.

        Args:
            inputs (Mapping[str, Tensor]): One sample, in the shapes the
                program declares.
            count (bool): Count overflows; otherwise only tell whether there
                was any, which is much faster.

        Returns:
            tuple: Output name to tensor, and 0-dim statistics per operation
            name: ``'ranges'``, ``'overflows'`` (if counted), and under
            ``'check'`` one number that is finite unless a result rounded to
            fp16 is not.
        """
        values = dict(inputs)
        watch = _Watch(self._half, self._record_range, count)
        for step in self._steps:
            results = _call(step, values)
            values.update(watch.settle(step, results))
            for name in step.frees:
                del values[name]
        return {name: values[name] for name in self._outputs}, watch.stats


class _Watch:
    """Rounds results to fp16 and collects statistics of one run."""

    def __init__(self, half: bool, record_range: bool, count: bool) -> None:
        self._half = half
        self._record_range = record_range
        self._count = count
        self._rounded: set[str] = set()
        self._infinite: dict[str, Tensor] = {}
        self.stats: Stats = {'overflows': {}, 'ranges': {}, 'check': {}}

    def settle(
        self, step: _Step, results: tuple[Tensor, ...]
    ) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, final value) of the results of one operation."""
        for name, half, result in zip(step.outputs, step.halves, results):
            if self._record_range and result.is_floating_point():
                peak = result.abs().amax()
                _merge(self.stats['ranges'], step.name, peak, torch.maximum)
            if self._half and half and result.is_floating_point():
                result = self._round(step, name, result)
            yield name, result

    def _round(self, step: _Step, name: str, result: Tensor) -> Tensor:
        """Round to fp16, unless the operation only selects fp16 values."""
        self._rounded.add(name)
        if step.type in _SELECT and self._rounded.issuperset(step.sources):
            rounded = result
        else:
            rounded = result.half().float()
            # A sum of fp16 values cannot leave fp32: it is finite unless
            # one of them is not. Counting costs far more than this pass.
            _merge(self.stats['check'], '', rounded.sum(), torch.add)
        if self._count:
            self._count_infinite(step, name, result, rounded)
        return rounded

    def _count_infinite(
        self, step: _Step, name: str, result: Tensor, rounded: Tensor
    ) -> None:
        """Count infinities that appear in this operation."""
        infinite = rounded.isinf().sum()
        self._infinite[name] = infinite
        table = self._infinite
        known = [table[name] for name in step.sources if name in table]
        if known:
            # With an infinite input, count what only the rounding made.
            arrived = functools.reduce(torch.add, known) > 0
            passed = torch.where(arrived, result.isinf().sum(), 0)
            infinite = infinite - passed
        _merge(self.stats['overflows'], step.name, infinite, torch.add)


def _merge(
    table: dict[str, Tensor],
    name: str,
    value: Tensor,
    combine: Callable[[Tensor, Tensor], Tensor],
) -> None:
    table[name] = combine(table[name], value) if name in table else value


def _call(step: _Step, values: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
    """Call one operation on the values it refers to."""
    arguments = {
        parameter: values[source]
        if isinstance(source, str)
        else [values[s] if isinstance(s, str) else s for s in source]
        for parameter, source in step.references.items()
    }
    try:
        result = step.function(**arguments)
    except Exception as error:
        # torch raises every kind of error on shapes that do not fit.
        reason = ' '.join(str(error).split())
        raise ProgramError(
            f'operation {step.type!r} (named {step.name!r}) failed: {reason}'
        ) from error
    return (result,) if isinstance(result, Tensor) else tuple(result)


def _bind_all(
    program: Program, outputs: tuple[str, ...], device: torch.device
) -> Iterator[_Step]:
    """Bind every operation, and free each value after its last use."""
    last_use: dict[str, int] = {}
    uses: Counter[str] = Counter()
    for index, op in enumerate(program.operations):
        uses.update(_sources(op))
        for name in (*op.outputs, *_sources(op)):
            last_use[name] = index
    fresh: set[str] = set()
    for index, op in enumerate(program.operations):
        frees = {
            name
            for name in (*op.outputs, *_sources(op))
            if last_use[name] == index and name not in outputs
        }
        if op.type in _FRESH:
            # With a second reader there may be a view of the value.
            fresh.update(name for name in op.outputs if uses[name] == 1)
        step = _bind(op, tuple(sorted(frees)), device)
        if op.type == 'relu' and fresh & frees & set(step.sources):
            step = step._replace(function=_relu_in_place)
        yield step


def _relu_in_place(x: Tensor) -> Tensor:
    """``relu`` of a value that nothing reads afterwards."""
    return x.relu_()


def _bind(
    op: Operation, frees: tuple[str, ...], device: torch.device
) -> _Step:
    constants: dict[str, Any] = {}
    references: dict[str, Any] = {}
    for name, value in op.inputs.items():
        if isinstance(value, Value):
            references[name] = value.name
        elif name == 'values':
            references[name] = tuple(
                item.name
                if isinstance(item, Value)
                else _constant('x', item, device)
                for item in value
            )
        else:
            constants[name] = _constant(name, value, device)
    return _Step(
        name=op.name,
        type=op.type,
        function=functools.partial(
            ops.lookup(op.type, op.name), **constants
        ),
        references=references,
        sources=tuple(_sources(op)),
        outputs=op.outputs,
        halves=tuple(dtype == 'fp16' for dtype in op.dtypes),
        frees=frees,
    )


def _sources(op: Operation) -> Iterator[str]:
    """Names of the values an operation reads."""
    for value in op.inputs.values():
        items = value if isinstance(value, tuple) else (value,)
        yield from (i.name for i in items if isinstance(i, Value))


def _constant(name: str, value: Any, device: torch.device) -> Any:
    """Convert a constant once: tensors for data, Python values else."""
    if isinstance(value, (str, tuple)):
        return value
    array = np.asarray(value)
    is_float = array.dtype.kind == 'f'
    if name in _DATA or (is_float and array.ndim > 0):
        if array.dtype.kind != 'b':
            array = array.astype(np.float32 if is_float else np.int32)
        return torch.tensor(array, device=device)
    return array.tolist()


def _check_defined(program: Program, outputs: tuple[str, ...]) -> None:
    """Check that every value an operation reads exists when it runs."""
    known = {feature.name for feature in program.inputs}
    for op in program.operations:
        missing = [name for name in _sources(op) if name not in known]
        if missing:
            raise ProgramError(
                f'{program.path}: operation {op.name!r} reads {missing[0]!r},'
                f' which nothing defines'
            )
        known.update(op.outputs)
    missing = [name for name in outputs if name not in known]
    if missing:
        raise ProgramError(
            f'{program.path}: output {missing[0]!r} is never computed'
        )
