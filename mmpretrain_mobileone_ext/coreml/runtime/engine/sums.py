"""Sums of products: lanes in tiles of four, a wide register, and the port behind it.

Published (chapters 3 and 20): operands are fp16; lanes are added in tiles of four that are rounded;
tiles are added in a register of fp32's class; what leaves it is rounded to fp16, half to even, and
infinite from 2^15 on; a partial sum that gets there is, too, whatever follows. Bias and scale are
applied in fp16.

How a tile is rounded is a model of ours. Its lanes are added in a row; before each addition both
numbers are rounded, half to even, to 12 binary digits of the larger one. It gives every sum that
was published: see ``tests/coreml/runtime/test_engine_arithmetic.py``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

#: Sums of products are infinite from here on; the fp16 number before it is 32752.
PORT = 2.0**15
#: What rounds to :data:`PORT`: fp16 numbers are 16 apart below it.
PORT_OVERFLOWS = PORT - 8
_DENORMAL = 2.0**-14 - 2.0**-24  # the largest one
_LANES = 4
# A number a is rounded to 12 digits of one of exponent e by adding and subtracting this times 2^e:
# fp32 has 24 digits, and the sum has exponent e + 12.
_SHIFT = 1.5 * 2**12
_EXPONENT = 0x7F800000  # bits of an fp32 number that are its exponent


def lane_sum(lanes: Tensor) -> Tensor:
    """Sum over the last dimension as the engine adds its lanes.

    Args:
        lanes: (..., n) fp32, finite or infinite: fp16 numbers or products of two.

    Returns:
        Tensor: (...,) fp32, not rounded further.
    """
    return _tiles(lanes).sum(-1)


def product_sum(lanes: Tensor) -> Tensor:
    """As :func:`lane_sum`, but a partial sum that reaches 2^15 is infinite from then on.

    Two of either sign give NaN. Partial sums are those of whole tiles, in the order of lanes, which is an assumption of ours.
    """
    partial = _tiles(lanes).cumsum(-1)
    high, low = partial.amax(-1), partial.amin(-1)
    # An infinite number added to any other stays.
    return partial[..., -1] + _infinite(high) - _infinite(-low)


def _infinite(partial: Tensor) -> Tensor:
    """Infinite from 2^15 on, else 0."""
    return torch.where(partial < PORT, 0.0, torch.inf)


def _tiles(lanes: Tensor) -> Tensor:
    """Sums of four lanes each, (..., n / 4)."""
    missing = -lanes.shape[-1] % _LANES
    padded = F.pad(lanes, (0, missing)) if missing else lanes
    total, *others = padded.reshape(*lanes.shape[:-1], -1, _LANES).unbind(-1)
    for lane in others:
        total = _add(total, lane)
    return total


def _add(a: Tensor, b: Tensor) -> Tensor:
    """``a + b`` of 12 digits each."""
    larger = torch.maximum(a.abs(), b.abs())
    bits = larger.view(torch.int32).bitwise_and(_EXPONENT)
    shift = bits.view(torch.float32).mul(_SHIFT)
    # Where the exponent is that of infinity there are no digits.
    shift = torch.where(shift < torch.inf, shift, 0.0)
    return (a + shift).sub_(shift).add_((b + shift).sub_(shift))


def flattened(x: Tensor, axes: Sequence[int]) -> Tensor:
    """``x`` with ``axes`` as one last dimension."""
    kept = [axis for axis in range(x.dim()) if axis not in axes]
    return x.permute(*kept, *axes).flatten(len(kept))


def settled(total: Tensor, bias: Optional[Tensor], saturates: bool, flushes: bool) -> Tensor:
    """A sum of products as it leaves the engine, plus a bias.

    Args:
        total: fp32; overwritten.
        bias: to broadcast against it, fp16 numbers in fp32.
        saturates: infinite from 2^15 on.
        flushes: 0 below fp16's normal numbers.

    Returns:
        Tensor: fp32; of fp16 numbers, but for the sum with the bias, which is to be rounded.
    """
    # Twice 2^15 is where fp16 ends. Numbers lose no digit by that, but for those below the normal
    # ones, which gain one.
    factor = 2.0 if saturates else 1.0
    doubled = total.mul_(factor) if saturates else total
    rounded = doubled.copy_(doubled.half())
    if flushes:
        rounded = F.hardshrink(rounded, factor * _DENORMAL)
    if bias is not None:
        return torch.add(bias, rounded, alpha=1 / factor)
    return rounded.mul_(1 / factor) if saturates else rounded
