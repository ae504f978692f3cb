"""What coremltools would save with some operations in fp32 and the rest not.

A network is converted twice, to fp16 and to fp32. Every program in between has the operations of
the one file or of the other, so that it can be executed without converting once more. Its figures
are those of the converted file.
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional

from ...errors import ExportError
from . import quiet
from .graph import Operation, Program, Value, sources

#: What coremltools appends to the names of operations and of casts to fp16.
_SUFFIX = '_cast_fp16'
_TO_HALF = '_to_fp16'
#: Pixels of an image are fp32 values.
_FULL = ('fp32', 'uint8')


@dataclass(frozen=True)
class Twins:
    """The fp16 and the fp32 file of one network, operation by operation.

    Operations are called as in the fp32 file.

    Attributes:
        whole: the fp32 file.
        halves: operation to what it is in the fp16 file, which reads values called as in ``whole``;
            only operations that differ and that coremltools lets one choose.
        spellings: operation to what coremltools calls it while it converts.
    """

    whole: Program
    halves: Mapping[str, Operation]
    spellings: Mapping[str, frozenset[str]]

    def keep_argument(self, keep: Iterable[str]) -> frozenset[str]:
        """Operations, in the spelling of coremltools' op selector."""
        return frozenset().union(*(self.spellings[name] for name in keep))

    def mixed(self, keep: Collection[str]) -> Program:
        """The program with ``keep`` in fp32 and all other halves in fp16."""
        operations = tuple(self._mixed(frozenset(keep)))
        return replace(self.whole, operations=operations)

    def _mixed(self, keep: frozenset[str]) -> Iterator[Operation]:
        full = {f.name for f in self.whole.inputs if f.dtype in _FULL}
        cast: set[str] = set()
        for op in self.whole.operations:
            half = op.name in self.halves and op.name not in keep
            chosen = self.halves[op.name] if half else op
            if half:
                needed = full.intersection(sources(chosen))
                for name in sorted(needed - cast):
                    yield _to_half(name)
                cast |= needed
                chosen = _renamed(chosen, {n: f'{n}{_TO_HALF}' for n in needed})
            full.update(name for name, dtype in zip(op.outputs, chosen.dtypes) if dtype == 'fp32')
            yield chosen

    def readers(self, name: str) -> list[str]:
        """Operations that one can choose and that read from ``name``."""
        return [n for n in self.halves if name in self.origins(n)]

    def origins(self, name: str) -> list[str]:
        """Operations whose results operation ``name`` reads."""
        return [self._makers[v] for v in sources(self.halves[name]) if v in self._makers]

    def find(self, op: Operation) -> Optional[str]:
        """The operation that ``op`` of a mixed file is in one of the two precisions."""
        names = self._makers.get(bare(op.outputs[0])), bare(op.name)
        return next((n for n in names if n in self.halves), None)

    @functools.cached_property
    def _makers(self) -> dict[str, str]:
        """Value to the operation that makes it."""
        return {v: op.name for op in self.whole.operations for v in op.outputs}


def match(half: Program, whole: Program, asked: Iterable[str]) -> Twins:
    """Pair the operations of the fp16 and the fp32 file of one network.

    Args:
        asked: what coremltools' op selector was asked about.

    Raises:
        ExportError: the files differ by more than precision.
    """
    pairs = _pairs(half, whole)
    names = _names(half, pairs)
    known = _Spellings(asked)
    halves, spellings = {}, {}
    for op, partner in pairs:
        spelled = known.of(op)
        if spelled and (partner.name, partner.dtypes) != (op.name, op.dtypes):
            halves[op.name] = replace(_renamed(partner, names), name=op.name, outputs=op.outputs)
            spellings[op.name] = spelled
    return Twins(whole, halves, spellings)


def _pairs(half: Program, whole: Program) -> list[tuple[Operation, Operation]]:
    """Each operation of ``whole`` with its partner in ``half``.

    By the name of the first result, which stays that of the graph when a pass makes an operation
    anew, else by the name of the operation.
    """
    ours, theirs = _without_casts(half), _without_casts(whole)
    results = {(op.type, bare(op.outputs[0])): op for op in ours}
    names = {(op.type, bare(op.name)): op for op in ours}
    pairs = []
    for op in theirs:
        partner = results.get((op.type, op.outputs[0])) or names.get((op.type, op.name))
        if partner is None:
            raise ExportError(
                f'precision auto: operation {op.name!r} ({op.type}) of the fp32 program is not in '
                'the fp16 program; give precision fp16 or fp32'
            )
        pairs.append((op, partner))
    if len({partner.name for _, partner in pairs}) != len(ours):
        raise ExportError(
            f'precision auto: the fp16 program has {len(ours)} operations and the fp32 program '
            f'{len(theirs)}; give precision fp16 or fp32'
        )
    return pairs


def _names(half: Program, pairs: Iterable[tuple[Operation, Operation]]) -> dict[str, str]:
    """Values of ``half`` by their names in the other; casts drop out."""
    names: dict[str, str] = {}
    for op, partner in pairs:
        names.update(zip(partner.outputs, op.outputs))
    for cast in _casts(half):
        source = next(sources(cast))
        names[cast.outputs[0]] = names.get(source, source)
    return names


class _Spellings:
    """coremltools' names of operations by those in the file.

    While it converts, names are those of TorchScript ('input.1', '165'); the file has 'input_1' and
    'op_165'.
    """

    def __init__(self, asked: Iterable[str]):
        sanitizer = quiet.module(
            'coremltools.converters.mil.mil.passes.defs.preprocess'
        ).NameSanitizer
        self._tables: list[dict[str, set[str]]] = [{}, {}]
        for name in asked:
            for table, prefix in zip(self._tables, ('op_', 'var_')):
                # A new one each time: it numbers names that it has seen.
                saved = sanitizer(prefix=prefix).sanitize_name(name)
                table.setdefault(saved, set()).add(name)

    def of(self, op: Operation) -> frozenset[str]:
        by_name, by_result = self._tables
        return frozenset(by_name.get(op.name) or by_result.get(op.outputs[0]) or ())


def _casts(program: Program) -> list[Operation]:
    """Operations that only change the precision of a value."""
    floats = {f.name for f in program.inputs if f.dtype in (*_FULL, 'fp16')}
    found = []
    for op in program.operations:
        if op.dtypes[0] in ('fp16', 'fp32'):
            floats.update(op.outputs)
            if op.type == 'cast' and floats.issuperset(sources(op)):
                found.append(op)
    return found


def _without_casts(program: Program) -> list[Operation]:
    casts = {op.name for op in _casts(program)}
    return [op for op in program.operations if op.name not in casts]


def _renamed(op: Operation, names: Mapping[str, str]) -> Operation:
    def renamed(value: Any) -> Any:
        if isinstance(value, tuple):
            return tuple(renamed(item) for item in value)
        if isinstance(value, Value):
            return Value(names.get(value.name, value.name))
        return value

    return replace(op, inputs={k: renamed(v) for k, v in op.inputs.items()})


def bare(name: str) -> str:
    """The name without what tells that the operation is in fp16."""
    return name.removesuffix(_SUFFIX)


def _to_half(value: str) -> Operation:
    name = f'{value}{_TO_HALF}'
    return Operation(name, 'cast', {'x': Value(value), 'dtype': 'fp16'}, (name,), ('fp16',))
