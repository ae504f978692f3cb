"""MIL poolings (coremltools ``mil.ops.defs.iOS15.pool``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import ProgramError
from .op_registry import op
from .ops_conv import Pads, pad_spatial, resolve_pads

_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@op('max_pool')
def max_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Optional[Sequence[int]] = None,
    pad: Optional[Sequence[int]] = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum over each window; padding never wins. ``x`` is (N, C, *D)."""
    strides = strides or [1] * len(kernel_sizes)
    pads = resolve_pads(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _MAX[len(kernel_sizes)]
    if _is_native(pads, kernel_sizes):
        before = [pair[0] for pair in pads]
        return pool(x, kernel_sizes, strides, before, 1, ceil_mode)
    _require_floor(ceil_mode, pads)
    return pool(pad_spatial(x, pads, -math.inf), kernel_sizes, strides)


@op('avg_pool')
def avg_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Optional[Sequence[int]] = None,
    pad: Optional[Sequence[int]] = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean over each window; ``x`` is (N, C, *D).

    With ``exclude_padding_from_average`` the divisor counts the elements
    inside the input only, else the whole window.
    """
    strides = strides or [1] * len(kernel_sizes)
    pads = resolve_pads(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _AVG[len(kernel_sizes)]
    count_padding = not exclude_padding_from_average
    if _is_native(pads, kernel_sizes):
        before = [pair[0] for pair in pads]
        return pool(
            x, kernel_sizes, strides, before, ceil_mode, count_padding
        )
    _require_floor(ceil_mode, pads)
    means = pool(pad_spatial(x, pads), kernel_sizes, strides)
    if count_padding:
        return means
    inside = pad_spatial(torch.ones_like(x), pads)
    return means / pool(inside, kernel_sizes, strides)


@op('l2_pool')
def l2_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Optional[Sequence[int]] = None,
    pad: Optional[Sequence[int]] = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Square root of the sum of squares over each window."""
    means = avg_pool(
        x.square(), kernel_sizes, pad_type, strides, pad, False, ceil_mode
    )
    if not ceil_mode:
        return torch.sqrt(means * math.prod(kernel_sizes))
    raise ProgramError('l2_pool with ceil_mode is not implemented')


def _is_native(pads: Pads, kernel: Sequence[int]) -> bool:
    """Whether torch's pooling accepts the pads: symmetric, <= kernel / 2."""
    return all(
        before == after and 2 * before <= k
        for (before, after), k in zip(pads, kernel)
    )


def _require_floor(ceil_mode: bool, pads: Pads) -> None:
    if ceil_mode:
        raise ProgramError(
            f'pooling with ceil_mode needs symmetric pads of at most half '
            f'the kernel, got (before, after) = {pads}'
        )
