"""What a program meets on a chip, summed up: groups of operations, switches, weights, a verdict."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

from ...utils.text import counted
from ..program.graph import Program
from ..runtime.engine.chips import UNKNOWN, Chip, weakest
from .placement import Placement, Segment, place, segments
from .shapes import with_shapes

_WORDS = {
    'constexpr_affine_dequantize': 'int8 affine',
    'constexpr_lut_to_dense': 'palette',
    'constexpr_sparse_to_dense': 'sparse',
    'constexpr_blockwise_shift_scale': 'blockwise',
    'constexpr_lut_to_sparse': 'sparse palette',
    'constexpr_sparse_blockwise_shift_scale': 'sparse blockwise',
}


class Group(NamedTuple):
    """Operations of one type of which the same is said.

    Attributes:
        type: of MIL.
        names: of the operations, in the order of the program.
        text: why they are not on the engine, or what is remarked.
        instead: what to write instead, '' where nothing is known.
        label: how it is known.
    """

    type: str
    names: tuple[str, ...]
    text: str
    instead: str
    label: str


class Stored(NamedTuple):
    """Weights of the network that are stored in one way.

    Attributes:
        form: in words, 'palette, 4 bits'; 'fp16' for dense ones.
        tensors: how many.
        size: numbers in them.
        stored_bytes: in the file; None where the file's reader does not tell.
        streams: whether the engine reads them as they are stored; None where the guide does not
            say.
        label: how that is known.
    """

    form: str
    tensors: int
    size: int
    stored_bytes: Optional[int]
    streams: Optional[bool]
    label: str


@dataclass(frozen=True, eq=False)
class Verdict:
    """A program on a chip.

    Attributes:
        chip (Chip): it.
        placements (tuple[Placement, ...]): of every operation.
        segments (tuple[Segment, ...]): of the network, without what converts inputs and results.
        off (tuple[Group, ...]): what is not on the engine, commonest first.
        remarks (tuple[Group, ...]): detours and risks of what is.
        stored (tuple[Stored, ...]): its weights.
    """

    chip: Chip
    placements: tuple[Placement, ...]
    segments: tuple[Segment, ...]
    off: tuple[Group, ...]
    remarks: tuple[Group, ...]
    stored: tuple[Stored, ...]

    @property
    def network(self) -> list[Placement]:
        """Operations but for those that convert inputs and results."""
        return [p for p in self.placements if not p.is_border]

    @property
    def border(self) -> list[Placement]:
        """Those that do, off the engine."""
        return [p for p in self.placements if p.is_border]

    @property
    def num_on_engine(self) -> int:
        """Operations of the network that the engine takes."""
        return sum(p.on_engine for p in self.network)

    @property
    def num_unknown(self) -> int:
        """Operations of the network of which the guide says nothing."""
        return sum(not p.on_engine and p.label == UNKNOWN for p in self.network)

    @property
    def switches(self) -> int:
        """Changes between the engine and another unit, at least."""
        return max(0, len(self.segments) - 1)

    @property
    def is_whole(self) -> bool:
        """Whether the engine takes the whole network."""
        return bool(self.network) and self.num_on_engine == len(self.network)

    @property
    def label(self) -> str:
        """How that is known: as the least sure of its operations."""
        return weakest(*(p.label for p in self.network if p.on_engine or self.is_whole))

    @property
    def level(self) -> str:
        """'good', 'warn' (a part) or 'bad' (nothing is on the engine)."""
        return 'good' if self.is_whole else 'warn' if self.num_on_engine else 'bad'

    @property
    def sentence(self) -> str:
        """One line."""
        total = len(self.network)
        if self.is_whole:
            return f'all {counted(total, "operation")} can run on the engine ({self.label})'
        if not self.num_on_engine:
            reasons = ', '.join(dict.fromkeys(g.text for g in self.off[:1]))
            can = 'is known to' if self.num_unknown else 'can'
            return f'none of {counted(total, "operation")} {can} run on the engine: {reasons}'
        left = total - self.num_on_engine
        known = f', {self.num_unknown} of them unknown' if self.num_unknown else ''
        return (
            f'{left} of {counted(total, "operation")} cannot run on the engine{known}: '
            f'at least {counted(self.switches, "change")} of unit'
        )

    def to_dict(self, each: bool = False) -> dict[str, Any]:
        """As JSON has it; ``each`` adds every operation."""
        placements = {'placements': [_plain(p) for p in self.placements]} if each else {}
        return {
            'chip': self.chip.name,
            'engine': self.chip.engine,
            'known': self.chip.label,
            'doubt': self.chip.doubt,
            'verdict': {'level': self.level, 'sentence': self.sentence, 'label': self.label},
            'operations': len(self.network),
            'on_engine': self.num_on_engine,
            'unknown': self.num_unknown,
            'border': len(self.border),
            'switches': self.switches,
            'segments': [
                {'on_engine': s.on_engine, 'operations': len(s.placements)} for s in self.segments
            ],
            'off': [_group(g, each) for g in self.off],
            'remarks': [_group(g, each) for g in self.remarks],
            'weights': [s._asdict() for s in self.stored],
            **placements,
        }


def _group(group: Group, each: bool) -> dict[str, Any]:
    """All of it but for the names, which ``each`` adds."""
    found = {**group._asdict(), 'number': len(group.names)}
    return found if each else {k: v for k, v in found.items() if k != 'names'}


def _plain(p: Placement) -> dict[str, Any]:
    return {
        'name': p.operation.name,
        'type': p.operation.type,
        'on_engine': p.on_engine,
        'border': p.is_border,
        'reason': p.reason,
        'instead': p.instead,
        'label': p.label,
        'remarks': [r.text for r in p.remarks],
        'streams': p.streams,
    }


def preflight(program: Program, chips: Iterable[Chip]) -> tuple[Verdict, ...]:
    """Tell where each operation of a program runs on each of several chips.

    Args:
        program: as read from disk.
        chips: at least one.
    """
    shaped = with_shapes(program)
    return tuple(judge(place(shaped, chip), chip) for chip in chips)


def judge(placements: Sequence[Placement], chip: Chip) -> Verdict:
    """Sum up the placements on a chip."""
    off = [
        (p, p.reason, p.instead, p.label) for p in placements if not (p.on_engine or p.is_border)
    ]
    remarks = [(p, r.text, r.instead, r.label) for p in placements for r in p.remarks]
    return Verdict(
        chip,
        tuple(placements),
        segments(placements),
        _groups(off),
        _groups(remarks),
        _stored(placements),
    )


def _groups(found: Iterable[tuple[Placement, str, str, str]]) -> tuple[Group, ...]:
    names: dict[tuple[str, ...], list[str]] = {}
    for p, *said in found:
        names.setdefault((p.operation.type, *said), []).append(p.operation.name)
    groups = [
        Group(kind, tuple(given), text, instead, label)
        for (kind, text, instead, label), given in names.items()
    ]
    return tuple(sorted(groups, key=lambda g: -len(g.names)))


def _stored(placements: Iterable[Placement]) -> tuple[Stored, ...]:
    found: dict[tuple[str, Optional[bool], str], list[tuple[int, Optional[int]]]] = {}
    for w in (w for p in placements if not p.is_border for w in p.weights):
        dense = 'fp32' if w.bits == 32 else 'fp16'
        forms = ' of '.join(_WORDS.get(f, f) for f in reversed(w.forms)) or dense
        bits = f', {w.bits} bits' if w.forms and w.bits else ''
        key = f'{forms}{bits}', w.streams, w.label
        found.setdefault(key, []).append((w.size, w.stored_bytes))
    rows = [
        Stored(form, len(each), sum(n for n, _ in each), _sum(b for _, b in each), streams, label)
        for (form, streams, label), each in found.items()
    ]
    return tuple(sorted(rows, key=lambda r: -r.size))


def _sum(sizes: Iterable[Optional[int]]) -> Optional[int]:
    known = list(sizes)
    return None if None in known else sum(n for n in known if n is not None)


@dataclass(frozen=True)
class Shared:
    """A group of operations on the chips on which the same is said of it.

    Attributes:
        type, text, instead: as of the groups.
        number: of the operations.
        chips: names by how it is known there.
    """

    type: str
    text: str
    instead: str
    number: int
    chips: dict[str, list[str]]

    @property
    def where(self) -> str:
        """The chips in words: 'A14, A17 Pro (decoded); M1 (measured)'."""
        return '; '.join(f'{", ".join(names)} ({label})' for label, names in self.chips.items())


def by_chips(
    verdicts: Sequence[Verdict], pick: Callable[[Verdict], Iterable[Group]]
) -> list[Shared]:
    """Groups of several chips, each with the chips that share it; those of most operations first.

    Args:
        verdicts: one a chip.
        pick: which of its groups.
    """
    found: dict[tuple[str, str, str, int], dict[str, list[str]]] = {}
    for v in verdicts:
        for g in pick(v):
            chips = found.setdefault((g.type, g.text, g.instead, len(g.names)), {})
            chips.setdefault(g.label, []).append(v.chip.name)
    rows = [Shared(*key, chips) for key, chips in found.items()]
    return sorted(rows, key=lambda r: -r.number)


_DENSE = {'fp16': ', as the engine computes', 'fp32': ''}
_STREAMS = {
    True: 'read as stored on',
    False: 'expanded to fp16 first, which saves only disk, on',
    None: 'not told of by the guide on',
}


def stored_words(verdicts: Sequence[Verdict]) -> Iterator[str]:
    """One line for each way in which weights are stored: where that saves time, too."""
    forms: dict[tuple[str, int], dict[Optional[bool], list[str]]] = {}
    for v in verdicts:
        for s in v.stored:
            answers = forms.setdefault((s.form, s.tensors), {})
            answers.setdefault(s.streams, []).append(f'{v.chip.name} ({s.label})')
    for (form, tensors), answers in forms.items():
        number = counted(tensors, 'weight')
        if form in _DENSE:
            yield f'{number} in {form}{_DENSE[form]}'
            continue
        told = (f'{_STREAMS[streams]} {", ".join(chips)}' for streams, chips in answers.items())
        yield f'{number}, {form}: {"; ".join(told)}'


def to_dict(program: Program, verdicts: Sequence[Verdict], each: bool = False) -> dict[str, Any]:
    """The verdicts on a program as JSON has them; ``each`` adds every operation."""
    return {
        'file': program.path.name,
        'format': program.format,
        'chips': [v.to_dict(each) for v in verdicts],
    }
