"""MIL operations that trade samples for space (``tensor_transformation``)."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor

from ..errors import ProgramError
from .op_registry import op


@op('space_to_batch')
def space_to_batch(
    x: Tensor,
    block_shape: Sequence[int],
    paddings: Sequence[Sequence[int]],
) -> Tensor:
    """(n, C, H, W), padded with 0, to (n b c, C, H / b, W / c).

    Args:
        block_shape (Sequence[int]): b and c. The place in a block varies
            slowest in the new first dimension.
        paddings (Sequence[Sequence[int]]): (before, after) for H and W.

    Raises:
        ProgramError: If the padded sizes are no multiples of the block's.
    """
    (top, bottom), (left, right) = paddings
    x = F.pad(x, [left, right, top, bottom])
    n, channels, height, width = x.shape
    b, c = _block(block_shape)
    if height % b or width % c:
        raise ProgramError(
            f'space_to_batch: the padded size {height} x {width} cannot be '
            f'divided into blocks of {b} x {c}'
        )
    parts = x.reshape(n, channels, height // b, b, width // c, c)
    moved = parts.permute(3, 5, 0, 1, 2, 4)
    return moved.reshape(b * c * n, channels, height // b, width // c)


@op('batch_to_space')
def batch_to_space(
    x: Tensor, block_shape: Sequence[int], crops: Sequence[Sequence[int]]
) -> Tensor:
    """Inverse of ``space_to_batch``: (before, after) cut off instead.

    Raises:
        ProgramError: If the first dimension is no multiple of b c.
    """
    total, channels, height, width = x.shape
    b, c = _block(block_shape)
    if total % (b * c):
        raise ProgramError(
            f'batch_to_space: {total} samples cannot be divided into blocks '
            f'of {b} x {c}'
        )
    parts = x.reshape(b, c, total // (b * c), channels, height, width)
    spread = parts.permute(2, 3, 4, 0, 5, 1)
    whole = spread.reshape(-1, channels, height * b, width * c)
    (top, bottom), (left, right) = crops
    return F.pad(whole, [-left, -right, -top, -bottom])


def _block(block_shape: Sequence[int]) -> tuple[int, int]:
    b, c = block_shape
    if min(b, c) < 1:
        raise ProgramError(
            f'block_shape is {list(block_shape)}; allowed: two sizes >= 1'
        )
    return b, c
