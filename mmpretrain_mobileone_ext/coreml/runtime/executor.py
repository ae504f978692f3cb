"""The op loop: a dictionary of values, one operation after another."""

from __future__ import annotations

import functools
from collections import ChainMap
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from ...errors import ProgramError
from ..program.budget import Ledger, Meter, NeedsValuesError
from ..program.graph import Block, Program, sources
from .arithmetic import Arithmetic
from .steps import Step, bind, failed

Stats = dict[str, dict[str, Tensor]]
_Values = MutableMapping[str, Tensor]


class Executor:
    """Runs the operations of a program on torch, one sample at a time.

    The call is a pure function of its inputs, so ``torch.vmap`` applies.

    Args:
        program (Program): The program to run.
        arithmetic (Arithmetic): What computes an operation, and what becomes of its results.
        record_range (bool): Measure max ``|value|`` of every operation.
        device (torch.device | str): Where to keep constants and compute.
        ledger (Ledger): Takes the bytes of the constants.

    Raises:
        ProgramError: If an operation is not implemented, or the constants take too much.
    """

    def __init__(
        self,
        program: Program,
        arithmetic: Arithmetic,
        record_range: bool,
        device: torch.device,
        ledger: Ledger,
    ) -> None:
        self._arithmetic = arithmetic
        self._record_range = record_range
        self._outputs = tuple(feature.name for feature in program.outputs)
        _check_defined(program, self._outputs)
        self._steps = bind(program, self._outputs, arithmetic, device, ledger)

    def __call__(
        self, inputs: Mapping[str, Tensor], count: bool = False, meter: Optional[Meter] = None
    ) -> tuple[dict[str, Tensor], Stats]:
        """Run the program.

        Args:
            inputs (Mapping[str, Tensor]): One sample, in the shapes the program declares.
            count (bool): Count overflows, and mend results that are no numbers; otherwise only tell
                whether there was any of either, which is much faster.
            meter (Meter | None): Active; told which values are held, and results are compared with
                what the program declares.

        Returns:
            tuple: Output name to tensor, and 0-dim statistics per operation
            name: ``'ranges'``, ``'overflows'`` (if counted), and under
            ``'check'`` one number that is finite unless a result rounded to fp16 is not.
        """
        values = dict(inputs)
        run = _Run(self._arithmetic, self._record_range, count, meter)
        run.steps(self._steps, values)
        return {name: values[name] for name in self._outputs}, run.stats


def _check_defined(program: Program, outputs: Iterable[str]) -> None:
    """Check that every value an operation reads exists when it runs."""
    known = {feature.name for feature in program.inputs}
    for op in program.operations:
        for name in sources(op):
            if name not in known:
                raise ProgramError(
                    f'{program.path}: operation {op.name!r} reads {name!r}, which nothing defines'
                )
        known.update(op.outputs)
    for name in outputs:
        if name not in known:
            raise ProgramError(f'{program.path}: output {name!r} is never computed')


class _Run:
    """One run of a program, its nested blocks included.

    Rounds results to fp16, collects statistics, and keeps the meter.
    """

    def __init__(
        self, arithmetic: Arithmetic, record_range: bool, count: bool, meter: Optional[Meter]
    ) -> None:
        self._arithmetic = arithmetic
        self._record_range = record_range
        self._count = count
        self._meter = meter
        self._rounded: set[str] = set()
        self._infinite: dict[str, Tensor] = {}
        self.stats: Stats = {'overflows': {}, 'ranges': {}, 'check': {}}

    def steps(self, steps: Sequence[Step], values: _Values) -> None:
        """Run operations in a row on a dictionary of values."""
        for step in steps:
            results = self._results(step, values)
            outputs = step.operation.outputs
            settled = {
                name: self._settled(step, name, half, result)
                for name, half, result in zip(outputs, step.halves, results)
            }
            if self._meter is not None:
                _check_declared(step, results)
                self._meter.keep(settled.values())
                for name in step.frees:
                    self._meter.free(settled[name] if name in settled else values[name])
            values.update(settled)
            for name in step.frees:
                del values[name]

    def _results(self, step: Step, values: _Values) -> tuple[Tensor, ...]:
        if not step.blocks:
            return _call(step, values)
        held = 0 if self._meter is None else self._meter.live
        blocks = [
            functools.partial(self._block, step, *block, values, held) for block in step.blocks
        ]
        results = _call(step, values, blocks=blocks)
        if self._meter is not None:
            self._meter.live = held
        return results

    def _block(
        self,
        step: Step,
        block: Block,
        steps: Sequence[Step],
        around: _Values,
        held: int,
        *given: Tensor,
    ) -> tuple[Tensor, ...]:
        """Run a nested block; ``held`` bytes are those around it."""
        if len(given) != len(block.inputs):
            raise ProgramError(
                f'{step.label} has a block for {len(block.inputs)} values, '
                f'and {len(given)} are given'
            )
        if self._meter is not None:
            # What an iteration before this one held is gone.
            self._meter.live = held
            self._meter.keep(given)
            for _ in range(1 + len(steps)):
                self._meter.round()
        values = ChainMap(dict(zip(block.inputs, given)), around)
        self.steps(steps, values)
        return tuple(values[name] for name in block.outputs)

    def _settled(self, step: Step, name: str, half: bool, result: Tensor) -> Tensor:
        """The final value of a result, recorded and rounded."""
        if not result.is_floating_point():
            return result
        if self._record_range and result.numel() > 0:
            peak = result.abs().amax()
            _merge(self.stats['ranges'], step.operation.name, peak, torch.maximum)
        return self._round(step, name, result) if half else result

    def _round(self, step: Step, name: str, result: Tensor) -> Tensor:
        """Round to fp16, unless the operation only selects fp16 values."""
        self._rounded.add(name)
        if step.kind.selects and self._rounded.issuperset(step.sources):
            rounded = result
        else:
            half = result.half()
            # Nobody else has a fresh result: its memory need not be found anew.
            fresh = step.kind.fresh and not self._count
            rounded = result.copy_(half) if fresh else half.float()
            # A sum of fp16 values cannot leave fp32: it is finite unless one of them is not.
            # Counting costs far more than this pass.
            _merge(self.stats['check'], '', rounded.sum(), torch.add)
        if self._count:
            rounded = self._arithmetic.mended(step.operation, rounded)
            self._count_infinite(step, name, result, rounded)
        return rounded

    def _count_infinite(self, step: Step, name: str, result: Tensor, rounded: Tensor) -> None:
        """Count infinities that appear in this operation."""
        infinite = rounded.isinf().sum()
        known = [self._infinite[source] for source in step.sources if source in self._infinite]
        self._infinite[name] = infinite
        if known:
            # With an infinite input, count what only the rounding made.
            arrived = functools.reduce(torch.add, known) > 0
            infinite = infinite - torch.where(arrived, result.isinf().sum(), 0)
        _merge(self.stats['overflows'], step.operation.name, infinite, torch.add)


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
        raise failed(step.operation, error) from error
    results = (result,) if isinstance(result, Tensor) else tuple(result)
    if len(results) != len(step.dtypes):
        return results
    # Of an integer and a constant of floats (iOS 17) only the declaration tells the type of the
    # result; floats become integers by truncation.
    return tuple(r if dtype is None else r.to(dtype) for r, dtype in zip(results, step.dtypes))


def _check_declared(step: Step, results: tuple[Tensor, ...]) -> None:
    """Check results against the shapes that the program declares."""
    outputs, shapes = step.operation.outputs, step.operation.shapes
    if len(results) != len(outputs):
        raise ProgramError(
            f'{step.label} declares {len(outputs)} results and computes {len(results)}'
        )
    for shape, result in zip(shapes, results):
        found = tuple(result.shape)
        if shape is not None and not _is_of(found, shape):
            raise ProgramError(
                f'{step.label} declares a result of shape {shape} and computes {found}'
            )


def _is_of(found: tuple[int, ...], declared: tuple[Optional[int], ...]) -> bool:
    return len(found) == len(declared) and all(b is None or a == b for a, b in zip(found, declared))
