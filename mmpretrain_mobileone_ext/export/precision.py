"""Keep the smallest set of operations in fp32 that makes fp16 good enough.

Programs between the fp16 and the fp32 file are executed on a few samples and compared with the fp32
file. First comes what leaves fp16 there, with what reads it. If that is not enough, operations
follow in the order of what each alone in fp16 does to the output. Last, what can be spared is taken
out.

Accepted is a file that meets the tolerance on all images and in which no value leaves fp16. The
second is asked for even where the output forgives an infinity (a relu of -inf is 0): which value
another device puts in its place is not defined.

An operation in fp32 is of no use where the next one reads its result in fp16: what goes beyond fp16
does so again at the cast. So an operation is kept together with those that read what it makes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor

from ..coreml.program.graph import Program, sources
from ..coreml.program.mixed import Twins, match
from ..coreml.program.read import read_program
from ..coreml.runtime.arithmetic import Arithmetic, arithmetic_of
from ..coreml.runtime.load import ReferenceProgram
from ..errors import ExportError, ParityError
from ..utils.parity import Parity, Tolerance, compare, drifts, reaches
from .verify import Advance, KeptOp, Verification, VerifiedFile

Convert = Callable[[frozenset[str]], Path]
Evaluate = Callable[[Path], Verification]
#: Operations in fp32 to a file, and why it is not accepted, or None.
_Make = Callable[[frozenset[str]], tuple[VerifiedFile, Optional[str]]]


def choose_precision(
    convert: Convert,
    evaluate: Evaluate,
    tolerance: Tolerance,
    inputs: Mapping[str, Tensor],
    advance: Advance = lambda count: None,
    arithmetic: str = 'fp16',
) -> VerifiedFile:
    """Find the smallest set of operations to keep in fp32.

    Without any one of the operations in the set, a file is not accepted. Files decide; which ones
    are tried follows from executing programs that coremltools would save, on ``inputs``.

    Args:
        convert: converts with the named operations in fp32, everything else in fp16, and returns
            the mlprogram. It asks for every operation whether its name is in the set. Earlier files
            stay.
        evaluate: compares a file with the network, in ``arithmetic``.
        tolerance: bound of the comparison.
        inputs: input name to a few of the samples (N, ...) that ``evaluate`` uses, as for
            ``LoadedProgram.predict_batch``.
        advance: told 1 after each program that was executed.
        arithmetic: 'fp16', or 'ane' for that of the Neural Engine, whose products end earlier.

    Raises:
        ParityError: not even fp32 is accepted.
        ExportError: the program's operations cannot be told apart.
        ProgramError: an operation cannot be executed.
    """

    def make(keep: frozenset[str]) -> tuple[VerifiedFile, Optional[str]]:
        path = convert(keep)
        found = evaluate(path)
        advance(1)
        failure = found.parity.failure(tolerance)
        if failure is None and found.overflows:
            failure = f'values leave {found.range} in {", ".join(found.overflows)}'
        return VerifiedFile(path, found), failure

    asked = _Asked()
    half, failure = make(asked)
    if failure is None:
        return half
    if not asked.names:
        raise ExportError(
            'precision auto: the conversion asks for no operation whether it stays in fp32'
        )
    whole, failure = make(frozenset(asked.names))
    if failure is not None:
        raise ParityError(
            f'precision auto: nothing is written, even with all operations in fp32 {failure}'
        )
    twins = match(read_program(half.path), read_program(whole.path), asked.names)
    search = Search(twins, tolerance, inputs, advance, arithmetic)
    keep, found = _first_accepted(make, search, half)
    keep, found = _smallest(make, search, keep, found)
    kept = [op for op in twins.whole.operations if op.name in keep]
    return replace(found, kept=tuple(KeptOp(op.name, op.type, search.why(op.name)) for op in kept))


def first_that_passes(
    make: Callable[[frozenset[str]], VerifiedFile],
    proposals: Iterable[Mapping[str, tuple[str, str]]],
) -> VerifiedFile:
    """The first file that meets its tolerance.

    Args:
        make: converts with the named operations in fp32, and compares with the network.
        proposals: operations to their types and reasons, the smallest set first; at least one.

    Raises:
        ParityError: none does.
    """
    for kept in proposals:
        found = make(frozenset(kept))
        if found.verification.failure is None:
            ops = tuple(KeptOp(name, *said) for name, said in kept.items())
            return replace(found, kept=ops)
    raise ParityError(
        'precision auto: nothing is written, even with all operations in fp32 '
        f'{found.verification.failure}'
    )


class _Asked(frozenset[str]):
    """An empty set that remembers what it was asked for.

    coremltools has other names for operations than the file that it saves; this is how one learns
    them.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return False


def _first_accepted(
    make: _Make, search: Search, half: VerifiedFile
) -> tuple[frozenset[str], VerifiedFile]:
    """A set that the search proposes and that all images confirm."""
    search.require(_overflowing(half, search.twins))
    everything = len(search.twins.halves)
    while True:
        keep = search.propose()
        found, failure = make(search.twins.keep_argument(keep))
        if failure is None:
            return keep, found
        if len(keep) == everything:
            raise ParityError(
                'precision auto: nothing is written, with all operations in '
                f'fp32 that can be {failure}'
            )
        more = _overflowing(found, search.twins)
        if more.keys() - keep:
            search.require(more)
        else:  # images that are not among the inputs are harder
            search.tighten()


def _overflowing(file: VerifiedFile, twins: Twins) -> dict[str, str]:
    """Operations to keep because values of a file left fp16, and why.

    Beside what overflowed, what reads it: the cast for it would overflow.
    """
    program = read_program(file.path)
    makers = {v: op for op in program.operations for v in op.outputs}
    found: dict[str, str] = {}
    for op in program.operations:
        count = file.verification.overflows.get(op.name)
        if not count:
            continue
        casts = op.type == 'cast'
        origins = [makers[v] for v in sources(op) if v in makers]
        for origin in origins if casts else [op]:
            name = twins.find(origin)
            if name is not None:
                words = f'{count} values of {name} leave {file.verification.range}'
                found.update(dict.fromkeys((name, *twins.readers(name)), words))
    return found


def _smallest(
    make: _Make, search: Search, keep: frozenset[str], found: VerifiedFile
) -> tuple[frozenset[str], VerifiedFile]:
    """Leave out operations as long as all images allow it."""
    removed = True
    while removed:
        removed = False
        for name in search.least_first(keep):
            # On some of the images, so on all.
            if search.overflows(keep - {name}):
                continue
            file, failure = make(search.twins.keep_argument(keep - {name}))
            if failure is None:
                keep, found, removed = keep - {name}, file, True
    return keep, found


class Search:
    """Proposes sets of operations.

    Args:
        twins: the fp16 and the fp32 file.
        tolerance: what a program may differ by from the fp32 file.
        inputs: input name to samples (N, ...).
        advance: told 1 after each program that was executed.
        arithmetic: of operations in fp16: 'fp16' or 'ane'.
    """

    def __init__(
        self,
        twins: Twins,
        tolerance: Tolerance,
        inputs: Mapping[str, Tensor],
        advance: Advance,
        arithmetic: str = 'fp16',
    ):
        self._arithmetic = arithmetic_of(arithmetic)
        self.twins = twins
        self._tolerance = tolerance
        self._inputs = inputs
        self._advance = advance
        self._all = frozenset(twins.halves)
        self._required: dict[str, str] = {}
        self._trials: dict[frozenset[str], tuple[Parity, bool]] = {}
        whole = _executor(twins.whole, arithmetic_of('fp32'), record_range=True)
        self._wanted = self._run(whole)
        self._ranges = whole.ranges
        self._operations = {op.name: op for op in twins.whole.operations}

    def require(self, reasons: Mapping[str, str]) -> None:
        """Propose only sets with these operations; reasons are in words."""
        self._required = {**reasons, **self._required}

    def tighten(self) -> None:
        """Ask for half the error from now on."""
        self._tolerance = replace(self._tolerance, max_relative=self._tolerance.max_relative / 2)

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
            return reaches(self._ranges[name], end=self._end(name))
        beyond = [n for n in self.twins.origins(name) if self._leaves(n)]
        if beyond:
            largest = max(beyond, key=self._ranges.__getitem__)
            return reaches(self._ranges[largest], 'reads up to', self._end(largest))
        if name in self._required:
            return self._required[name]
        return drifts(self._damage(name))

    def _leaves(self, name: str) -> bool:
        known = name in self._ranges
        return known and self._ranges[name] >= self._arithmetic.overflows_at(self._operations[name])

    def _end(self, name: str) -> str:
        return self._arithmetic.end_of(self._operations[name])

    def _out_of_range(self) -> frozenset[str]:
        """Operations that leave the range, and those that read what these make."""
        beyond = [n for n in self.twins.halves if self._leaves(n)]
        return frozenset(n for name in beyond for n in (name, *self.twins.readers(name)))

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
            program = _executor(self.twins.mixed(keep), self._arithmetic)
            found = self._run(program)
            classes = bool(program.program.predicted_probabilities_name)
            self._trials[keep] = (
                compare(self._wanted, found, classes=classes),
                bool(program.overflows),
            )
        return self._trials[keep]

    def _run(self, program: ReferenceProgram) -> dict[str, Tensor]:
        outputs = program.predict_batch(self._inputs)
        self._advance(1)
        return {k: v for k, v in outputs.items() if v.is_floating_point()}


def _executor(
    program: Program, arithmetic: Arithmetic, record_range: bool = False
) -> ReferenceProgram:
    return ReferenceProgram(program, arithmetic, record_range, torch.device('cpu'))
