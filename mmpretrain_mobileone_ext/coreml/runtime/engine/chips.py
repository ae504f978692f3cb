"""Chips, the limits of their engines and what their arithmetic does: the only table of them.

Chapters are those of the guide that the package names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple, Optional

from ....errors import SpecError
from ....utils.text import did_you_mean

#: How a fact is known. Measured: on a device, by the guide's author. Decoded: read from the tables
#: of Apple's compiler. Predicted: of a generation that he had neither way, from its neighbors.
#: Unknown: the guide does not say.
MEASURED, DECODED, PREDICTED, UNKNOWN = 'measured', 'decoded', 'predicted', 'unknown'
#: From the surest to the least sure.
LABELS = (MEASURED, DECODED, PREDICTED, UNKNOWN)
GUIDE = 'S. H. Bryngelson, Apple Neural Engine, arXiv 2606.22283'
#: fp16, what the engine computes in.
BYTES = 2


def weakest(*labels: str) -> str:
    """The least sure of several labels; measured if there is none."""
    return max(labels, key=LABELS.index, default=MEASURED)


class Fact(NamedTuple):
    """A figure with how it is known.

    Attributes:
        value: None where there is no such limit.
        label: one of :data:`LABELS`.
        chapter: of the guide.
    """

    value: Optional[int]
    label: str
    chapter: str


class _Limit(NamedTuple):
    """One row: a value for each tier, and the generations in which it was measured."""

    values: tuple[Optional[int], ...]
    chapter: str
    measured: tuple[str, ...] = ()


#: Columns of :data:`LIMITS`: generations whose tables are alike, and of the operations' table.
TIERS = ('before A13', 'A13', 'A14', 'A15', 'A16')
_K = 1024
_MIB = _K * _K

#: Limits by name; sizes count numbers, the working set bytes.
LIMITS: dict[str, _Limit] = {
    # Sizes of a tensor along an axis; one more is refused.
    'width': _Limit((16384, 16384, 16384, 16384, 65536), 'app. A, ch. 17', ('H13', 'H14')),
    'height': _Limit((16384, 16384, 16384, 16384, 65536), 'app. A, ch. 17', ('H13', 'H14')),
    'channels': _Limit((65536,) * 5, 'app. A, ch. 17', ('H13', 'H14')),
    'batch': _Limit((4096, 65536, 65536, 65536, 65536), 'app. A'),
    'depth': _Limit((1, 16384, 16384, 16384, 65536), 'app. A'),
    'rank': _Limit((5,) * 5, 'ch. 4', ('H13',)),
    'transpose': _Limit((0, 16384, 16384, 16384, 65536), 'app. A'),
    # Windows of a convolution with fp16 weights; small: of a transposed one along its strides.
    'kernel width': _Limit((13, 13, 16, 16, 16), 'app. A, ch. 17', ('H13',)),
    'kernel height': _Limit((29, 29, 32, 32, 32), 'app. A, ch. 17', ('H13',)),
    'small kernel width': _Limit((7, 7, 8, 8, 8), 'app. A'),
    'small kernel height': _Limit((15, 15, 16, 16, 16), 'app. A'),
    'average window': _Limit((None, 29, 31, 31, 31), 'app. A'),
    # Beyond these an operation is taken apart, with the same result.
    'group product': _Limit((64, 2048, 2048, 2048, 2048), 'app. A'),
    'reduced axis': _Limit((None, 192, 192, 384, 384), 'app. A'),
    # One more is refused.
    'searched axis': _Limit((None, 2048, 2048, 2048, 2048), 'ch. 17', ('H13',)),
    # Bytes.
    'working set': _Limit((2 * _MIB,) * 5, 'app. A, ch. 12', ('H13',)),
}


class Numerics(NamedTuple):
    """What the arithmetic of one generation does to numbers; values are 1 (it does) or 0.

    Attributes:
        saturates: sums of products that reach 2^15 become infinite.
        flushes: sums of products below fp16's normal numbers become 0.
        slice_overflows: a slice along the last axis that does not start at 0 multiplies by 16 on
            its way, so that magnitudes above 4094 become infinite.
    """

    saturates: Fact
    flushes: Fact
    slice_overflows: Fact


_PORT, _SLICE = 'ch. 3', 'ch. 3, 12, 19 and 35'


def _numerics(flushes: Fact, slice_overflows: Fact, known: str = PREDICTED) -> Numerics:
    return Numerics(Fact(1, known, _PORT), flushes, slice_overflows)


#: By generation of engines. Where the guide does not say, as in the generation before.
NUMERICS: dict[str, Numerics] = {
    'H13': _numerics(Fact(1, MEASURED, _PORT), Fact(1, MEASURED, _SLICE), MEASURED),
    'H14': _numerics(Fact(1, UNKNOWN, _PORT), Fact(1, MEASURED, _SLICE)),
    'H15': _numerics(Fact(1, UNKNOWN, _PORT), Fact(0, DECODED, _SLICE)),
    'H16': _numerics(Fact(1, UNKNOWN, _PORT), Fact(0, DECODED, _SLICE)),
    'H17': _numerics(Fact(0, MEASURED, _PORT), Fact(0, MEASURED, _SLICE)),
    'H18': _numerics(Fact(0, PREDICTED, _PORT), Fact(0, PREDICTED, _SLICE)),
}


@dataclass(frozen=True)
class Chip:
    """A chip as its users name it, and the engine on it.

    Attributes:
        name (str): 'A14', 'M1', 'A17 Pro', ...
        engine (str): target of Apple's compiler: 'H13', ...
        tier (str): column of the tables, one of :data:`TIERS`.
        cores (int): of the engine, as the compiler counts them.
        is_measured (bool): whether the guide calls its facts on this chip measured.
        label (str): how it is known that the chip has this engine.
        chapter (str): of that.
        doubt (str): what speaks against it, '' for nothing.
    """

    name: str
    engine: str
    tier: str
    cores: int
    is_measured: bool
    label: str
    chapter: str
    doubt: str = ''

    def limit(self, name: str) -> Fact:
        """A limit of :data:`LIMITS`, as sure as the chip's engine is.

        Raises:
            KeyError: there is none of that name.
        """
        row = LIMITS[name]
        known = MEASURED if self.engine[:3] in row.measured else DECODED
        return Fact(row.values[TIERS.index(self.tier)], weakest(known, self.sureness), row.chapter)

    @property
    def sureness(self) -> str:
        """The best label that a statement on this chip can have."""
        return MEASURED if self.is_measured else self.label

    @property
    def has_texture_engine(self) -> bool:
        """Samples images in hardware: resize, crop and gather."""
        return TIERS.index(self.tier) >= TIERS.index('A14')

    @property
    def numerics(self) -> Optional[Numerics]:
        """Of its generation, as sure as the chip's engine is; None where the guide has none."""
        known = NUMERICS.get(self.engine[:3])
        if known is None:
            return None
        return Numerics(*(f._replace(label=weakest(f.label, self.sureness)) for f in known))


_OLD = 'the guide leaves engines before the A13 out of its table; these are their floors in ch. 35'
_APPLE = (
    "by Apple's own figures (cores, operations a second) it pairs with the {b}, whose engine is "
    'one generation older: look at {b}, too'
)
_MAP, _FAMILY = 'ch. 34', 'ch. 12'


def _a(name: str, engine: str, tier: str, label: str, doubt: str = '') -> Chip:
    return Chip(name, engine, tier, 4, False, label, _FAMILY, doubt)


def _m(name: str, engine: str, tier: str, cores: int, known: str = MEASURED) -> Chip:
    return Chip(name, engine, tier, cores, known == MEASURED, known, _MAP)


#: By name, the phones' first. The A-series has its engines by the names of compiler targets.
CHIPS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        _a('A12', 'H12', 'before A13', PREDICTED, _OLD),
        _a(
            'A13',
            'H13',
            'A13',
            DECODED,
            "the M1, whose table this is, pairs with the A14 by Apple's own figures: look at A12",
        ),
        _a('A14', 'H14', 'A14', DECODED, _APPLE.format(b='M1')),
        _a('A15', 'H15', 'A15', PREDICTED, _APPLE.format(b='M2')),
        _a('A16', 'H16', 'A16', PREDICTED, _APPLE.format(b='M3')),
        _a('A17 Pro', 'H17', 'A16', DECODED),
        _a('A18', 'H18', 'A16', PREDICTED, 'ch. 35 calls the engine H18 that of the A19'),
        _m('M1', 'H13', 'A13', 4),
        _m('M1 Pro', 'H13g', 'A13', 8, DECODED),
        _m('M1 Max', 'H13g', 'A13', 8),
        _m('M1 Ultra', 'H13g', 'A13', 8, DECODED),
        _m('M2', 'H14', 'A14', 4),
        _m('M2 Pro', 'H14g', 'A14', 8),
        _m('M2 Max', 'H14g', 'A14', 8, DECODED),
        _m('M3', 'H15', 'A15', 4, PREDICTED),
        _m('M3 Pro', 'H15g', 'A15', 8, PREDICTED),
        _m('M3 Max', 'H15g', 'A15', 8, PREDICTED),
        _m('M4', 'H16', 'A16', 4, PREDICTED),
        _m('M4 Pro', 'H16g', 'A16', 8, PREDICTED),
        _m('M4 Max', 'H16g', 'A16', 8, PREDICTED),
        _m('M5', 'H17s', 'A16', 16),
        _m('M5 Pro', 'H17s', 'A16', 16),
        _m('M5 Max', 'H17s', 'A16', 16, DECODED),
    )
}
#: One of each generation that the tables tell apart, phones before Macs.
DEFAULT_CHIPS = ('A13', 'A14', 'A15', 'A16', 'A17 Pro', 'M1')
#: Of an iPhone 12, on which MobileOne's latencies were published.
DEFAULT_CHIP = 'A14'


def find_chip(name: str, error: type[Exception] = SpecError) -> Chip:
    """The chip of a name, however it is capitalized or spaced ('a17pro', 'M1-Max').

    Raises:
        SpecError: the guide says nothing of it; or the kind of ``error`` given.
    """
    known = {_bare(n): chip for n, chip in CHIPS.items()}
    # Nobody calls it otherwise, and the shell cuts names at spaces.
    known['a17'] = CHIPS['A17 Pro']
    if _bare(name) not in known:
        near = did_you_mean(name.upper(), CHIPS)
        if _bare(name).startswith(('iphone', 'ipad', 'mac', 'imac')):
            near = f'; a chip is meant, not a device: an iPhone 12 has the {DEFAULT_CHIP}'
        raise error(f'chip is {name!r}; allowed: {", ".join(CHIPS)}{near}')
    return known[_bare(name)]


def _bare(name: str) -> str:
    return ''.join(c for c in name.casefold() if c.isalnum())
