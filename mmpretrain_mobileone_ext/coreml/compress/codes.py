"""What a stored weight consists of, in numbers that any file format can write."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Union

import numpy as np


@dataclass(frozen=True, eq=False)
class Integers:
    """Scaled integers: (codes - zero) * scale.

    Attributes:
        codes: int8, of the weight's shape (O, I, ...).
        scale: (O, blocks, 1, ...) in the weight's dtype; a block is a run of input channels.
        zero: int8, of the shape of ``scale``.
        bits: of a code, 4 or 8.
    """

    codes: np.ndarray
    scale: np.ndarray
    zero: np.ndarray
    bits: int

    def values(self) -> np.ndarray:
        """float64, of the weight's shape."""
        run = self.codes.shape[1] // self.scale.shape[1]
        scale, zero = (np.repeat(a.astype(np.float64), run, 1) for a in (self.scale, self.zero))
        return (self.codes - zero) * scale


@dataclass(frozen=True, eq=False)
class Indices:
    """An index for each weight into the table of its group of output channels.

    Attributes:
        indices: uint8, of the weight's shape (O, I, ...).
        tables: (groups, 2**bits) in the weight's dtype.
        bits: of an index, 1 to 8.
    """

    indices: np.ndarray
    tables: np.ndarray
    bits: int

    def values(self) -> np.ndarray:
        """float64, of the weight's shape."""
        rows = self.indices.reshape(len(self.tables), -1)
        found = np.take_along_axis(self.tables.astype(np.float64), rows.astype(np.intp), 1)
        return found.reshape(self.indices.shape)


@dataclass(frozen=True, eq=False)
class Masked:
    """Zeros are not stored.

    Attributes:
        mask: bool, of the weight's shape: what is stored.
        kept: the weight; where ``mask`` is False its numbers mean nothing.
    """

    mask: np.ndarray
    kept: Encoded

    def values(self) -> np.ndarray:
        """float64, of the weight's shape."""
        kept = self.kept
        whole = kept.astype(np.float64) if isinstance(kept, np.ndarray) else kept.values()
        return np.where(self.mask, whole, 0)


#: An array is a weight as it is.
Encoded = Union[np.ndarray, Integers, Indices, Masked]


def integers(values: np.ndarray, bits: int, block: int, symmetric: bool) -> Integers:
    """Round to equidistant numbers with a scale for each run of ``block`` input channels.

    A scale is rounded up to the dtype of ``values``, and codes are rounded for that scale: the
    error is half of it at most, in fp16 too.

    Args:
        values: fp16 or fp32 (O, I, ...).
        bits: 4 or 8.
        block: a divisor of I.
        symmetric: zero is code 0; else the numbers reach from the least to the largest value, and
            zero is among them.
    """
    top, channels = 2 ** (bits - 1), values.shape[1]
    blocks = values.astype(np.float64).reshape(len(values), channels // block, -1)
    low, high = np.minimum(blocks.min(2), 0), np.maximum(blocks.max(2), 0)
    steps: int = 2 * top - 1
    if symmetric:
        high = np.maximum(high, -low)
        low, steps = -high, steps - 1
    scale = _rounded_up((high - low) / steps, values.dtype)
    exact = scale.astype(np.float64)
    zero = np.zeros(scale.shape) if symmetric else np.round(-top - low / exact)
    least = 1 - top if symmetric else -top
    codes = np.clip(np.round(blocks / exact[..., None]) + zero[..., None], least, top - 1)
    shape = (*scale.shape, *(1,) * (values.ndim - 2))
    return Integers(
        codes.astype(np.int8).reshape(values.shape),
        scale.reshape(shape),
        zero.astype(np.int8).reshape(shape),
        bits,
    )


def _rounded_up(exact: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """In ``dtype``, not less than ``exact``; 1 where that is 0."""
    found = exact.astype(dtype)
    found = np.where(found < exact, np.nextafter(found, dtype.type(np.inf)), found)
    return np.where(found > 0, found, 1).astype(dtype)
