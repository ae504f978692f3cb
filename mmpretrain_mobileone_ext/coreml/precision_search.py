"""Which operations to keep in fp32, found without converting.

Programs between the fp16 and the fp32 file are executed on a few samples and
compared with the fp32 file. First comes what leaves fp16 there, with what
reads it. If that is not enough, operations follow in the order of what each
alone in fp16 does to the output. Last, what can be spared is taken out.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..parity import Parity, Tolerance, compare
from .graph import Program
from .mixed_program import Twins
from .runtime import ReferenceProgram

#: Largest fp16 number; what rounds to no more stays finite.
FP16_MAX = 65504
_ROUNDS_TO_INFINITY = 65520


class Search:
    """Proposes sets of operations.

    Args:
        twins: the fp16 and the fp32 file.
        tolerance: what a program may differ by from the fp32 file.
        inputs: input name to samples (N, ...).
        advance: told 1 after each program that was executed.
    """

    def __init__(self, twins: Twins, tolerance: Tolerance,
                 inputs: Mapping[str, Tensor],
                 advance: Callable[[int], Any]):
        self.twins = twins
        self._tolerance = tolerance
        self._inputs = inputs
        self._advance = advance
        self._all = frozenset(twins.halves)
        self._required: dict[str, str] = {}
        self._trials: dict[frozenset[str], tuple[Parity, bool]] = {}
        whole = _executor(twins.whole, 'fp32', record_range=True)
        self._wanted = self._run(whole)
        self._ranges = whole.ranges

    def require(self, reasons: Mapping[str, str]) -> None:
        """Propose only sets with these operations; reasons are in words."""
        self._required = {**reasons, **self._required}

    def tighten(self) -> None:
        """Ask for half the error from now on."""
        self._tolerance = replace(
            self._tolerance, max_relative=self._tolerance.max_relative / 2)

    def propose(self) -> frozenset[str]:
        """A set that is good enough here; all operations if none is."""
        keep = frozenset(self._required).union(self._out_of_range())
        if not self._passes(keep):
            keep = self._enough(keep)
        return self._smallest(keep)

    def overflows(self, keep: frozenset[str]) -> bool:
        """Whether a value leaves fp16 with these operations in fp32."""
        return self._trial(keep)[1]

    def least_first(self, keep: frozenset[str]) -> list[str]:
        """Operations in the order of what they do to the output in fp16."""
        return sorted(keep, key=lambda name: (self._damage(name), name))

    def why(self, name: str) -> str:
        """Why an operation is kept, with figures."""
        if self._leaves(name):
            return (f'reaches {self._ranges[name]:.1e}, fp16 ends at '
                    f'{FP16_MAX}')
        beyond = [self._ranges[n] for n in self.twins.origins(name)
                  if self._leaves(n)]
        if beyond:
            return f'reads up to {max(beyond):.1e}, fp16 ends at {FP16_MAX}'
        if name in self._required:
            return self._required[name]
        return ('drift: in fp16 it alone moves the output by '
                f'{self._damage(name):.1e} (relative)')

    def _leaves(self, name: str) -> bool:
        return self._ranges.get(name, 0.0) >= _ROUNDS_TO_INFINITY

    def _out_of_range(self) -> frozenset[str]:
        """Operations beyond fp16, and those that read what these make."""
        beyond = [n for n in self.twins.halves if self._leaves(n)]
        return frozenset(
            n for name in beyond for n in (name, *self.twins.readers(name)))

    def _enough(self, start: frozenset[str]) -> frozenset[str]:
        """Add as few as suffice, the most damaging first (bisection)."""
        order = self.least_first(self._all - start)[::-1]
        few, many = 0, len(order)
        while many - few > 1:
            middle = (few + many) // 2
            if self._passes(start.union(order[:middle])):
                many = middle
            else:
                few = middle
        return start.union(order[:many])

    def _smallest(self, keep: frozenset[str]) -> frozenset[str]:
        """Leave out what can be spared, the least damaging first."""
        removed = True
        while removed:
            removed = False
            for name in self.least_first(keep - frozenset(self._required)):
                if self._passes(keep - {name}):
                    keep, removed = keep - {name}, True
        return keep

    def _passes(self, keep: frozenset[str]) -> bool:
        parity, overflow = self._trial(keep)
        return not overflow and parity.failure(self._tolerance) is None

    def _damage(self, name: str) -> float:
        """Relative change of the output with only this one in fp16."""
        relative = self._trial(self._all - {name})[0].relative
        return relative if relative == relative else float('inf')

    def _trial(self, keep: frozenset[str]) -> tuple[Parity, bool]:
        if keep not in self._trials:
            program = _executor(self.twins.mixed(keep), 'fp16')
            found = self._run(program)
            classes = bool(program.program.predicted_probabilities_name)
            self._trials[keep] = (
                compare(self._wanted, found, classes=classes),
                bool(program.overflows))
        return self._trials[keep]

    def _run(self, program: ReferenceProgram) -> dict[str, Tensor]:
        outputs = program.predict_batch(self._inputs)
        self._advance(1)
        return {k: v for k, v in outputs.items() if v.is_floating_point()}


def _executor(program: Program, arithmetic: str,
              record_range: bool = False) -> ReferenceProgram:
    return ReferenceProgram(
        program, arithmetic, record_range, torch.device('cpu'))
