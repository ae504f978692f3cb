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

import functools
from collections.abc import Sequence
from typing import Any, Optional

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
_FAR = 2.0**100  # beyond all sums


def lane_sum(lanes: Tensor) -> Tensor:
    """Sums over the last but one dimension as the engine adds its lanes.

    Args:
        lanes: (..., n, m) fp32, finite or infinite: fp16 numbers or products of two. Of the m sums
            side by side, numbers are fetched in a row.

    Returns:
        Tensor: (..., m) fp32, not rounded further.
    """
    return _tiles(lanes).sum(-2)


def product_sum(lanes: Tensor) -> Tensor:
    """As :func:`lane_sum`, but a partial sum that reaches 2^15 is infinite from then on.

    Two of either sign give NaN. Partial sums are those of whole tiles, in the order of lanes, which
    is an assumption of ours.
    """
    partial = _tiles(lanes).cumsum(-2)
    # An infinite number added to any other stays.
    high = _infinite(partial.amax(-2))
    return partial[..., -1, :] + high - _infinite(-partial.amin(-2))


def _infinite(partial: Tensor) -> Tensor:
    """Infinite from 2^15 on, else 0."""
    return torch.where(partial < PORT, 0.0, torch.inf)


def _tiles(lanes: Tensor) -> Tensor:
    """Sums of four lanes each, of the last ones of fewer: (..., n / 4, m)."""
    return _Tiles.apply(lanes)


class _Tiles(torch.autograd.Function):
    """As :func:`_tiles`, which takes a batch as it is: bits are viewed, for which torch's vmap has
    no rule in every version."""

    @staticmethod
    def forward(lanes: Tensor) -> Tensor:
        count = lanes.shape[-2]
        left = count % _LANES
        whole = lanes.narrow(-2, 0, count - left).unflatten(-2, (-1, _LANES)).unbind(-2)
        last = lanes.narrow(-2, count - left, left).unsqueeze(-2).unbind(-3)
        parts = [functools.reduce(_add, tile) for tile in (whole, last) if tile and tile[0].numel()]
        # Without lanes, one tile of 0.
        return torch.cat(parts, -2) if parts else lanes.sum(-2, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: the engine has no gradients."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[int], lanes: Tensor) -> Any:
        return _Tiles.apply(lanes.movedim(in_dims[0], 0)), 0


def _add(a: Tensor, b: Tensor) -> Tensor:
    """``a + b`` of 12 digits each."""
    larger = torch.maximum(_exponent(a), _exponent(b)).view(torch.float32)
    # Infinite numbers stay what they are where the shift is finite.
    shift = larger.mul_(_SHIFT).clamp(max=_FAR)
    return (a + shift).sub_(shift).add_((b + shift).sub_(shift))


def _exponent(x: Tensor) -> Tensor:
    """The bits of 2^e: they are in the order of these numbers."""
    return x.view(torch.int32).bitwise_and(_EXPONENT)


def flattened(x: Tensor, axes: Sequence[int]) -> Tensor:
    """``x`` as (lanes, others): all of ``axes``, and all else."""
    kept = [axis for axis in range(x.dim()) if axis not in axes]
    return x.permute(*axes, *kept).flatten(0, len(axes) - 1).unsqueeze(-1).flatten(1)


def settled(
    total: Tensor, bias: Optional[Tensor], doubled: bool = False, flushes: bool = False
) -> Tensor:
    """A sum of products as it leaves the engine, plus a bias.

    Args:
        total: fp32; overwritten.
        bias: to broadcast against it, fp16 numbers in fp32.
        doubled: the sum is twice what it is, so that it leaves fp16 where it should be infinite:
            from 2^15 on. No digit is lost by that; denormals have one more.
        flushes: sums below fp16's normal numbers are 0.

    Returns:
        Tensor: fp32; of fp16 numbers, but for the sum with the bias, which is to be rounded.
    """
    factor = 2.0 if doubled else 1.0
    rounded = total.copy_(total.half())
    if flushes:
        rounded = F.hardshrink(rounded, factor * _DENORMAL)
    if bias is not None:
        return torch.add(bias, rounded, alpha=1 / factor)
    return rounded.mul_(1 / factor) if doubled else rounded
