"""Each operation of a program: on the engine of a chip or not, and why not."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Optional

from ...errors import ProgramError
from ..program.graph import Operation, Program, sources
from ..runtime.engine.chips import Chip, weakest
from .matrix import look_up
from .rules import Finding, findings
from .view import Values, View
from .weights import Weight, weights_of

#: What a file does to its input before the network, in whatever type.
_CONVERTING = ('add', 'cast', 'mul', 'sub')
#: And to its results behind it.
_RESULTING = ('cast', 'classify')


@dataclass(frozen=True, eq=False)
class Placement:
    """Where one operation runs.

    Attributes:
        operation (Operation): of the program.
        on_engine (bool): whether the engine takes it; False where that is unknown.
        reason (str): why not, '' where it does.
        instead (str): what to write instead, '' where nothing is known or needed.
        label (str): how that is known, one of ``chips.LABELS``.
        remarks (tuple[Finding, ...]): of one on the engine: detours and risks.
        weights (tuple[Weight, ...]): its constant tensors.
        is_border (bool): it converts an input or a result of the file; no network can be without.
        is_inner (bool): it stands within a branch or a loop.
    """

    operation: Operation
    on_engine: bool
    reason: str
    instead: str
    label: str
    remarks: tuple[Finding, ...] = ()
    weights: tuple[Weight, ...] = ()
    is_border: bool = False
    is_inner: bool = False

    @property
    def streams(self) -> Optional[bool]:
        """Whether its compressed weights cross the engine's memory as they are stored.

        False where that only saves disk; None where the guide does not say, or it has none that are
        compressed.
        """
        answers = [w.streams for w in self.weights if w.forms]
        if not self.on_engine or not answers or None in answers:
            return None
        return all(answers)


@dataclass(frozen=True, eq=False)
class Segment:
    """Operations that run one after another on one unit.

    Attributes:
        on_engine (bool): or on the CPU (or the GPU).
        placements (tuple[Placement, ...]): in an order of execution.
    """

    on_engine: bool
    placements: tuple[Placement, ...]


def place(program: Program, chip: Chip) -> tuple[Placement, ...]:
    """Tell for each operation of a program whether the engine of a chip takes it.

    Args:
        program: as :func:`~.shapes.with_shapes` gives it: where a result has no shape, whether it
            runs is unknown.
        chip: of :func:`~mmpretrain_mobileone_ext.coreml.runtime.engine.chips.find_chip`.

    Returns:
        tuple[Placement, ...]: one for each operation, in the order of the program; those of nested
        blocks follow the operation that they are in.

    Raises:
        ProgramError: an operation reads what only itself or a later one makes.
    """
    _check_order(program)
    values = Values(program)
    before = _before(program, values)
    behind = _behind(program)
    return tuple(_placed(program.operations, chip, values, before | behind))


def _check_order(program: Program) -> None:
    """Layers of a ``neuralnetwork`` name what they read; nothing else keeps them in order."""
    own = {name for op in program.operations for name in op.outputs}
    made = {feature.name for feature in program.inputs}
    for op in program.operations:
        for name in sources(op):
            if name in own and name not in made:
                raise ProgramError(
                    f'{program.path}: operation {op.name!r} reads {name!r}, which is not made '
                    'before it'
                )
        made.update(op.outputs)


def _placed(
    operations: Iterable[Operation],
    chip: Chip,
    values: Values,
    border: Collection[str],
    inside: str = '',
) -> Iterator[Placement]:
    for op in operations:
        yield _one(op, chip, values, op.name in border, inside)
        for block in op.blocks:
            yield from _placed(block.operations, chip, values, (), inside=op.type)


def _one(op: Operation, chip: Chip, values: Values, is_border: bool, inside: str) -> Placement:
    weights = weights_of(op, chip)
    if inside:
        why = f'within a {inside}, which the engine does not have'
        return Placement(op, False, why, '', chip.sureness, weights=weights, is_inner=True)
    if op.type == 'classify':
        why = 'Core ML looks up the labels itself'
        return Placement(op, False, why, '', chip.sureness, is_border=True)
    row = look_up(op.type, chip)
    found = tuple(findings(View(op, chip, values)))
    stops = [f for f in found if f.stops]
    if row.runs and not stops:
        detour = (Finding(row.why, label=row.label),) if row.why else ()
        label = weakest(row.label, *(f.label for f in found if f.limits))
        return Placement(op, True, '', '', label, (*detour, *found), weights)
    # What the table refuses is refused in any shape.
    first = Finding(row.why, row.instead, row.label) if not row.runs else stops[0]
    instead = first.instead or row.instead
    if op.outputs and values.varying.isdisjoint(op.outputs):
        instead = 'its result as a constant: it depends on no input'
    return Placement(
        op, False, first.text, instead, first.label, weights=weights, is_border=is_border
    )


def _before(program: Program, values: Values) -> frozenset[str]:
    """Names of operations that convert inputs: no other comes before them."""
    known = {feature.name for feature in program.inputs}
    found = set()
    for op in program.operations:
        given = list(sources(op))
        if op.type in _CONVERTING and given and known.issuperset(given):
            found.add(op.name)
            # The engine's own begins where a value is fp16.
            if all(values.dtype(name) != 'fp16' for name in op.outputs):
                known.update(op.outputs)
    return frozenset(found)


def _behind(program: Program) -> frozenset[str]:
    """Names of operations that convert results: no other comes behind them."""
    found: set[str] = set()
    read: set[str] = set()
    for op in reversed(program.operations):
        if op.type in _RESULTING and not read.intersection(op.outputs):
            found.add(op.name)
        else:
            read.update(sources(op))
    return frozenset(found)


def segments(placements: Sequence[Placement]) -> tuple[Segment, ...]:
    """Runs on the engine and on the CPU, with the fewest switches that some order has.

    The order of a file is one of many: what waits for nothing on the other unit is run before a
    switch. Conversions at the borders are left out, as are operations within others.

    Returns:
        tuple[Segment, ...]: one after another alternate; n of them switch n - 1 times.
    """
    network = [p for p in placements if not p.is_border and not p.is_inner]
    needed = _needed(network)
    return min((_alternate(network, needed, start) for start in (True, False)), key=len)


def _needed(network: Sequence[Placement]) -> list[set[int]]:
    """Of each operation, places of those that it waits for; all are before it."""
    maker: dict[str, int] = {}
    needed = []
    for index, p in enumerate(network):
        needed.append({maker[name] for name in sources(p.operation) if name in maker})
        maker.update(dict.fromkeys(p.operation.outputs, index))
    return needed


def _alternate(
    network: Sequence[Placement], needed: Sequence[set[int]], unit: bool
) -> tuple[Segment, ...]:
    """All that can run on one unit, then all on the other, and so on."""
    readers: list[list[int]] = [[] for _ in network]
    for reader, makers in enumerate(needed):
        for maker in makers:
            readers[maker].append(reader)
    missing = [len(makers) for makers in needed]
    # What waits for nothing, on each unit; the first in the file is the first to run.
    ready: dict[bool, list[int]] = {True: [], False: []}
    for index, p in enumerate(network):
        if not missing[index]:
            ready[p.on_engine].append(index)
    runs = []
    while ready[True] or ready[False]:
        run = tuple(_run(network, ready, unit, readers, missing))
        if run:
            runs.append(Segment(unit, run))
        unit = not unit
    return tuple(runs)


def _run(
    network: Sequence[Placement],
    ready: Mapping[bool, list[int]],
    unit: bool,
    readers: Sequence[Sequence[int]],
    missing: list[int],
) -> Iterator[Placement]:
    """What can run on a unit before the other runs again."""
    while ready[unit]:
        index = heappop(ready[unit])
        yield network[index]
        for reader in readers[index]:
            missing[reader] -= 1
            if not missing[reader]:
                heappush(ready[network[reader].on_engine], reader)
