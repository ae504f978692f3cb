"""Keep the smallest set of operations in fp32 that makes fp16 good enough.

Accepted is a file that meets the tolerance on all images and in which no
value leaves fp16. The second is asked for even where the output forgives an
infinity (a relu of -inf is 0): which value another device puts in its place
is not defined.

An operation in fp32 is of no use where the next one reads its result in fp16:
what goes beyond fp16 does so again at the cast. So an operation is kept
together with those that read what it makes.
"""
from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from torch import Tensor

from ..errors import ExportError, ParityError
from ..parity import Tolerance
from .mixed_program import Twins, match
from .precision_search import Search
from .program import read_program
from .steps import sources
from .verify import Verification

Convert = Callable[[frozenset[str]], Path]
Evaluate = Callable[[Path], Verification]
Advance = Callable[[int], Any]


@dataclass(frozen=True)
class KeptOp:
    """An operation that stays in fp32.

    Attributes:
        name: in the saved file.
        type: MIL operation, e.g. ``'conv'``.
        why: in words, with figures.
    """
    name: str
    type: str
    why: str


@dataclass(frozen=True)
class PrecisionChoice:
    """The file that was chosen.

    Attributes:
        path: of the file.
        verification: of this file.
        kept: operations in fp32, in the order of execution.
        tried: how many files were converted and executed.
    """
    path: Path
    verification: Verification
    kept: tuple[KeptOp, ...]
    tried: int


def choose_precision(convert: Convert,
                     evaluate: Evaluate,
                     tolerance: Tolerance,
                     inputs: Mapping[str, Tensor],
                     advance: Advance = lambda count: None
                     ) -> PrecisionChoice:
    """Find the smallest set of operations to keep in fp32.

    Without any one of the operations in the set, a file is not accepted.
    Files decide; which ones are tried follows from executing programs that
    coremltools would save, on ``inputs``.

    Args:
        convert: converts with the named operations in fp32, everything else
            in fp16, and returns the mlprogram. It asks for every operation
            whether its name is in the set. Earlier files stay.
        evaluate: compares a file with the network, in fp16 arithmetic.
        tolerance: bound of the comparison.
        inputs: input name to a few of the samples (N, ...) that
            ``evaluate`` uses, as for ``LoadedProgram.predict_batch``.
        advance: told 1 after each program that was executed.

    Raises:
        ParityError: not even fp32 is accepted.
        ExportError: the program's operations cannot be told apart.
        ProgramError: an operation cannot be executed.
    """
    files = _Files(convert, evaluate, tolerance, advance)
    asked = _Asked()
    half = files.make(asked)
    if half.failure is None:
        return files.choice(half)
    if not asked.names:
        raise ExportError('precision auto: the conversion asks for no '
                          'operation whether it stays in fp32')
    whole = files.make(frozenset(asked.names))
    if whole.failure is not None:
        raise ParityError('precision auto: nothing is written, even with '
                          f'all operations in fp32 {whole.failure}')
    twins = match(
        read_program(half.path), read_program(whole.path), asked.names)
    search = Search(twins, tolerance, inputs, advance)
    keep, found = _first_accepted(files, search, half)
    keep, found = _smallest(files, search, keep, found)
    return files.choice(found, tuple(
        KeptOp(op.name, op.type, search.why(op.name))
        for op in twins.whole.operations if op.name in keep))


class _Asked(frozenset[str]):
    """An empty set that remembers what it was asked for.

    coremltools has other names for operations than the file that it saves;
    this is how one learns them.
    """

    def __init__(self) -> None:
        self.names: set[str] = set()

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return False


@dataclass(frozen=True)
class _File:
    """A converted file and why it is not accepted, or None."""
    path: Path
    verification: Verification
    failure: Optional[str]


class _Files:
    """Converts, executes and counts."""

    def __init__(self, convert: Convert, evaluate: Evaluate,
                 tolerance: Tolerance, advance: Advance):
        self._convert = convert
        self._evaluate = evaluate
        self._tolerance = tolerance
        self._advance = advance
        self._tried = 0

    def make(self, keep: frozenset[str]) -> _File:
        path = self._convert(keep)
        found = self._evaluate(path)
        self._tried += 1
        self._advance(1)
        failure = found.parity.failure(self._tolerance)
        if failure is None and found.overflows:
            failure = f'values leave fp16 in {", ".join(found.overflows)}'
        return _File(path, found, failure)

    def choice(self, file: _File,
               kept: tuple[KeptOp, ...] = ()) -> PrecisionChoice:
        return PrecisionChoice(
            file.path, file.verification, kept, self._tried)


def _first_accepted(files: _Files, search: Search,
                    half: _File) -> tuple[frozenset[str], _File]:
    """A set that the search proposes and that all images confirm."""
    search.require(_overflowing(half, search.twins))
    everything = len(search.twins.halves)
    while True:
        keep = search.propose()
        found = files.make(search.twins.keep_argument(keep))
        if found.failure is None:
            return keep, found
        if len(keep) == everything:
            raise ParityError(
                'precision auto: nothing is written, with all operations in '
                f'fp32 that can be {found.failure}')
        more = _overflowing(found, search.twins)
        if more.keys() - keep:
            search.require(more)
        else:  # images that are not among the inputs are harder
            search.tighten()


def _overflowing(file: _File, twins: Twins) -> dict[str, str]:
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
                words = f'{count} values of {name} leave fp16'
                found.update(dict.fromkeys((name, *twins.readers(name)),
                                           words))
    return found


def _smallest(files: _Files, search: Search, keep: frozenset[str],
              found: _File) -> tuple[frozenset[str], _File]:
    """Leave out operations as long as all images allow it."""
    removed = True
    while removed:
        removed = False
        for name in search.least_first(keep):
            # On some of the images, so on all.
            if search.overflows(keep - {name}):
                continue
            file = files.make(search.twins.keep_argument(keep - {name}))
            if file.failure is None:
                keep, found, removed = keep - {name}, file, True
    return keep, found
