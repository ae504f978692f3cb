"""What differs between generations of the Neural Engine, and how each fact is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from ....errors import ProgramError

#: The chip of an iPhone 12, on which MobileOne's latencies were published.
DEFAULT_CHIP = 'A14'


class Fact(NamedTuple):
    """A property of a chip.

    Attributes:
        holds: whether the chip has it.
        label: 'measured' (by the guide's author, on this generation), 'decoded' (from the
            compiler's tables), 'predicted' (by the author, from a generation he measured) or
            'assumed' (nobody knows; as the generation before it).
    """

    holds: bool
    label: str


@dataclass(frozen=True)
class Chip:
    """One generation of the engine.

    Attributes:
        name: of the iPhone's chip.
        mac: the Mac's chip with the same engine.
        saturates: sums of products that reach 2^15 become infinite (chapter 3).
        flushes: sums of products below fp16's normal numbers become 0 (chapter 3).
        slice_overflows: a slice along the last axis that does not start at 0 multiplies by 16 on
            its way, so that values above 4094 become infinite (chapters 3, 12, 19 and 35).
    """

    name: str
    mac: str
    saturates: Fact
    flushes: Fact
    slice_overflows: Fact


_MEASURED = Fact(True, 'measured')
_PREDICTED, _ASSUMED = Fact(True, 'predicted'), Fact(True, 'assumed')

#: The engine of A17 Pro and M5 is the second one that was measured; later ones add no operation.
CHIPS = (
    Chip('A13', 'M1', _MEASURED, _MEASURED, _MEASURED),
    Chip('A14', 'M2', _PREDICTED, _ASSUMED, _MEASURED),
    Chip('A15', 'M3', _PREDICTED, _ASSUMED, Fact(False, 'decoded')),
    Chip('A16', 'M4', _PREDICTED, _ASSUMED, Fact(False, 'decoded')),
    Chip('A17', 'M5', _PREDICTED, Fact(False, 'measured'), Fact(False, 'measured')),
)

#: What a chip may be called.
CHIP_NAMES = tuple(name for chip in CHIPS for name in (chip.name, chip.mac))


def chip_of(name: str) -> Chip:
    """A generation by the name of a chip of it, 'A14' or 'M2'.

    Raises:
        ProgramError: there is none of this name; lists all.
    """
    for chip in CHIPS:
        if name in (chip.name, chip.mac):
            return chip
    raise ProgramError(f'chip is {name!r}; allowed: {", ".join(CHIP_NAMES)}')
