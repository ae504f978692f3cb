"""The op loop: a dictionary of values, one operation after another."""

from __future__ import annotations

import functools
from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from ...errors import ProgramError
from ..program.budget import Ledger, Meter, NeedsValuesError
from ..program.graph import Program, sources
from .steps import FRESH, BoundBlock, Step, bind

Stats = dict[str, dict[str, Tensor]]

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


class Executor:
    """Runs the operations of a program on torch, one sample at a time.

    The call is a pure function of its inputs, so ``torch.vmap`` applies.

    Args:
        program (Program): The program to run.
        half (bool): Round every result that the program declares fp16 to
            fp16; inside an operation arithmetic stays fp32.
        record_range (bool): Measure max ``|value|`` of every operation.
        device (torch.device | str): Where to keep constants and compute.
        ledger (Ledger): Takes the bytes of the constants.

    Raises:
        ProgramError: If an operation is not implemented, or the constants
            take too much.
    """

    def __init__(
        self, program: Program, half: bool, record_range: bool, device: torch.device, ledger: Ledger
    ) -> None:
        self._half = half
        self._record_range = record_range
        self._outputs = tuple(feature.name for feature in program.outputs)
        _check_defined(program, self._outputs)
        self._steps = tuple(bind(program, self._outputs, device, ledger))

    def __call__(
        self, inputs: Mapping[str, Tensor], count: bool = False, meter: Optional[Meter] = None
    ) -> tuple[dict[str, Tensor], Stats]:
        """Run the program.

        Args:
            inputs (Mapping[str, Tensor]): One sample, in the shapes the
                program declares.
            count (bool): Count overflows; otherwise only tell whether there
                was any, which is much faster.
            meter (Meter | None): Active; told which values are held, and
                results are compared with what the program declares.

        Returns:
            tuple: Output name to tensor, and 0-dim statistics per operation
            name: ``'ranges'``, ``'overflows'`` (if counted), and under
            ``'check'`` one number that is finite unless a result rounded to
            fp16 is not.
        """
        values = dict(inputs)
        watch = _Watch(self._half, self._record_range, count)
        _Run(watch, meter).steps(self._steps, values)
        return {name: values[name] for name in self._outputs}, watch.stats


class _Run:
    """One run of a program, its nested blocks included."""

    def __init__(self, watch: _Watch, meter: Optional[Meter]) -> None:
        self._watch = watch
        self._meter = meter

    def steps(self, steps: Sequence[Step], values: MutableMapping[str, Tensor]) -> None:
        """Run operations in a row on a dictionary of values."""
        for step in steps:
            results = self._results(step, values)
            settled = dict(self._watch.settle(step, results))
            if self._meter is not None:
                self._account(self._meter, step, results, settled, values)
            values.update(settled)
            for name in step.frees:
                del values[name]

    def _account(
        self,
        meter: Meter,
        step: Step,
        results: tuple[Tensor, ...],
        settled: Mapping[str, Tensor],
        values: Mapping[str, Tensor],
    ) -> None:
        _check_declared(step, results)
        meter.keep(settled.values())
        for name in step.frees:
            meter.free(settled[name] if name in settled else values[name])

    def _results(self, step: Step, values: MutableMapping[str, Tensor]) -> tuple[Tensor, ...]:
        if not step.blocks:
            return _call(step, values)
        held = 0 if self._meter is None else self._meter.live
        blocks = [
            functools.partial(self._block, step, block, values, held) for block in step.blocks
        ]
        results = _call(step, values, blocks=blocks)
        if self._meter is not None:
            self._meter.live = held
        return results

    def _block(
        self,
        step: Step,
        block: BoundBlock,
        around: MutableMapping[str, Tensor],
        held: int,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run a nested block; ``held`` bytes are those around it."""
        if len(given) != len(block.inputs):
            raise ProgramError(
                f'operation {step.type!r} (named {step.name!r}) has a block '
                f'for {len(block.inputs)} values, and {len(given)} are given'
            )
        if self._meter is not None:
            # What an iteration before this one held is gone.
            self._meter.live = held
            self._meter.keep(given)
            for _ in range(1 + len(block.steps)):
                self._meter.round()
        values = ChainMap(dict(zip(block.inputs, given)), around)
        self.steps(block.steps, values)
        return tuple(values[name] for name in block.outputs)


class _Watch:
    """Rounds results to fp16 and collects statistics of one run."""

    def __init__(self, half: bool, record_range: bool, count: bool) -> None:
        self._half = half
        self._record_range = record_range
        self._count = count
        self._rounded: set[str] = set()
        self._infinite: dict[str, Tensor] = {}
        self.stats: Stats = {'overflows': {}, 'ranges': {}, 'check': {}}

    def settle(self, step: Step, results: tuple[Tensor, ...]) -> Iterator[tuple[str, Tensor]]:
        """Yield (name, final value) of the results of one operation."""
        for name, half, result in zip(step.outputs, step.halves, results):
            measured = self._record_range and result.numel() > 0
            if measured and result.is_floating_point():
                peak = result.abs().amax()
                _merge(self.stats['ranges'], step.name, peak, torch.maximum)
            if self._half and half and result.is_floating_point():
                result = self._round(step, name, result)
            yield name, result

    def _round(self, step: Step, name: str, result: Tensor) -> Tensor:
        """Round to fp16, unless the operation only selects fp16 values."""
        self._rounded.add(name)
        if step.type in _SELECT and self._rounded.issuperset(step.sources):
            rounded = result
        else:
            rounded = self._rounding(step, result)
            # A sum of fp16 values cannot leave fp32: it is finite unless
            # one of them is not. Counting costs far more than this pass.
            _merge(self.stats['check'], '', rounded.sum(), torch.add)
        if self._count:
            self._count_infinite(step, name, result, rounded)
        return rounded

    def _rounding(self, step: Step, result: Tensor) -> Tensor:
        half = result.half()
        if step.type in FRESH and not self._count:
            # Nobody else has it, so its memory need not be found anew.
            return result.copy_(half)
        return half.float()

    def _count_infinite(self, step: Step, name: str, result: Tensor, rounded: Tensor) -> None:
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
    table: dict[str, Tensor], name: str, value: Tensor, combine: Callable[[Tensor, Tensor], Tensor]
) -> None:
    table[name] = combine(table[name], value) if name in table else value


def _call(step: Step, values: Mapping[str, Tensor], **further: Any) -> tuple[Tensor, ...]:
    """Call one operation on the values it refers to."""
    arguments = {
        parameter: values[source]
        if isinstance(source, str)
        else [values[s] if isinstance(s, str) else s for s in source]
        for parameter, source in step.references.items()
    }
    try:
        result = step.function(**arguments, **further)
    except NeedsValuesError:
        raise
    except Exception as error:
        if step.blocks and isinstance(error, ProgramError):
            raise  # names an operation inside
        # torch raises every kind of error on shapes that do not fit.
        reason = ' '.join(str(error).split())
        raise ProgramError(
            f'operation {step.type!r} (named {step.name!r}) failed: {reason}'
        ) from error
    results = (result,) if isinstance(result, Tensor) else tuple(result)
    return _as_declared(step, results)


def _as_declared(step: Step, results: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Results in the types the program declares.

    Of an integer and a constant of floats (iOS 17) only the declaration
    tells the type of the result; floats become integers by truncation.
    """
    if len(results) != len(step.dtypes):
        return results
    return tuple(
        result if dtype is None else result.to(dtype) for result, dtype in zip(results, step.dtypes)
    )


def _check_declared(step: Step, results: tuple[Tensor, ...]) -> None:
    """Check results against the shapes that the program declares."""
    if len(results) != len(step.outputs):
        raise ProgramError(
            f'operation {step.type!r} (named {step.name!r}) declares '
            f'{len(step.outputs)} results and computes {len(results)}'
        )
    for shape, result in zip(step.shapes, results):
        found = tuple(result.shape)
        if shape is not None and not _is_of(found, shape):
            raise ProgramError(
                f'operation {step.type!r} (named {step.name!r}) declares a '
                f'result of shape {shape} and computes {found}'
            )


def _is_of(found: tuple[int, ...], declared: tuple[Optional[int], ...]) -> bool:
    return len(found) == len(declared) and all(b is None or a == b for a, b in zip(found, declared))


def _check_defined(program: Program, outputs: tuple[str, ...]) -> None:
    """Check that every value an operation reads exists when it runs."""
    known = {feature.name for feature in program.inputs}
    for op in program.operations:
        missing = [name for name in sources(op) if name not in known]
        if missing:
            raise ProgramError(
                f'{program.path}: operation {op.name!r} reads {missing[0]!r}, which nothing defines'
            )
        known.update(op.outputs)
    missing = [name for name in outputs if name not in known]
    if missing:
        raise ProgramError(f'{program.path}: output {missing[0]!r} is never computed')
