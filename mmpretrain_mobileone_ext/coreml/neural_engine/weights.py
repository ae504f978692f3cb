"""Which stored forms of weights reach the engine as they are stored (chapters 7 and 25).

A form that streams is decoded by the engine, so that fewer bytes cross its memory. Any other is
expanded to fp16 before: it makes a smaller file and no faster layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, Optional

import numpy as np

from ..program.graph import Operation, Packed
from ..runtime.engine.chips import (
    BYTES,
    DECODED,
    MEASURED,
    PREDICTED,
    TIERS,
    UNKNOWN,
    Chip,
    weakest,
)
from .view import numbers

#: Below this a constant is a parameter, not a weight.
_FEWEST = 64
#: First tier on which a form streams, and the engines on which both sides of that were measured.
_SINCE = {
    'constexpr_affine_dequantize': ('A14', ('H13', 'H14', 'H17')),
    'constexpr_sparse_to_dense': ('A13', ('H13', 'H14', 'H17')),
    'constexpr_lut_to_dense': ('A13', ('H13', 'H17')),
    'constexpr_blockwise_shift_scale': ('A15', ('H13', 'H14', 'H17')),
    'constexpr_sparse_blockwise_shift_scale': ('A15', ()),
    'constexpr_lut_to_sparse': ('A15', ()),
}
_BLOCKWISE = ('constexpr_blockwise_shift_scale', 'constexpr_sparse_blockwise_shift_scale')


class Weight(NamedTuple):
    """A constant tensor of an operation.

    Attributes:
        parameter: of the MIL operation, 'weight' of a ``conv``.
        forms: ``constexpr_*`` operations that it is stored with; none: dense.
        bits: of an index or a number as stored; None: the file's reader does not tell.
        size: numbers in it.
        stored_bytes: in the file; None: the reader does not tell.
        streams: whether its stored form crosses the engine's memory; None: the guide does not say.
            True of dense ones, which are read as fp16.
        label: how that is known.
    """

    parameter: str
    forms: tuple[str, ...]
    bits: Optional[int]
    size: int
    stored_bytes: Optional[int]
    streams: Optional[bool]
    label: str

    @property
    def moved_bytes(self) -> Optional[int]:
        """Bytes that the engine reads for it; None where that is unknown."""
        if not self.forms or self.streams is False:
            return self.size * BYTES
        return self.stored_bytes if self.streams else None


def weights_of(op: Operation, chip: Chip) -> tuple[Weight, ...]:
    """The constant tensors of an operation, as the chip's engine reads them."""
    return tuple(_weights(op, chip))


def _weights(op: Operation, chip: Chip) -> Iterator[Weight]:
    compressed: Mapping[str, str] = op.attributes.get('compressed', {})
    packed: Mapping[str, Packed] = op.attributes.get('packed', {})
    for name, value in op.inputs.items():
        if not isinstance(value, np.ndarray) or value.size < _FEWEST:
            continue
        if name not in compressed:
            yield _dense(name, value, 'layer' not in op.attributes, chip)
            continue
        lies = packed.get(name, Packed((compressed[name],)))
        bits, stored = lies.bits or None, lies.bytes or None
        streams, label = _all_stream(lies.forms, bits, chip)
        if streams and _is_strided(op):
            streams, label = False, weakest(DECODED, chip.sureness)
        yield Weight(name, lies.forms, bits, value.size, stored, streams, label)


def _is_strided(op: Operation) -> bool:
    """Ch. 25: what streams has steps of 1 and no dilation."""
    return any(
        name in op.inputs and set(numbers(op, name, (0,))) != {1}
        for name in ('strides', 'dilations')
    )


def _dense(name: str, value: np.ndarray, is_typed: bool, chip: Chip) -> Weight:
    """Layers of a ``neuralnetwork`` are read as fp32, however they are stored."""
    bits = 8 * value.itemsize if is_typed else None
    stored = value.nbytes if is_typed else None
    return Weight(name, (), bits, value.size, stored, True, chip.sureness)


def _all_stream(
    forms: tuple[str, ...], bits: Optional[int], chip: Chip
) -> tuple[Optional[bool], str]:
    """A chain streams where all of it does."""
    answers = [_streams(form, bits, chip) for form in forms]
    for wanted in (False, None):
        found = [label for streams, label in answers if streams is wanted]
        if found:
            return wanted, weakest(*found)
    return True, weakest(*(label for _, label in answers))


def _streams(form: str, bits: Optional[int], chip: Chip) -> tuple[Optional[bool], str]:
    if form not in _SINCE:
        return None, UNKNOWN
    if chip.tier == TIERS[0]:
        # The master switch comes with the A13.
        return False, PREDICTED
    since, measured = _SINCE[form]
    later = TIERS.index(chip.tier) >= TIERS.index(since)
    label = MEASURED if chip.engine[:3] in measured else DECODED
    if later and form == 'constexpr_lut_to_dense':
        return _palette(bits, chip)
    if later and form in _BLOCKWISE and bits != 8:
        return None, UNKNOWN
    return later, weakest(label, chip.sureness)


def _palette(bits: Optional[int], chip: Chip) -> tuple[Optional[bool], str]:
    """Indices of 4 bits were measured; the compiler's checks tell of some others."""
    if bits == 4:
        label = MEASURED if chip.engine[:3] in ('H13', 'H17') else DECODED
        return True, weakest(label, chip.sureness)
    if bits == 8:
        return True, weakest(DECODED, chip.sureness)
    if bits in (1, 2) or (bits in (3, 6) and chip.tier == 'A13'):
        return False, weakest(DECODED, chip.sureness)
    return None, UNKNOWN
