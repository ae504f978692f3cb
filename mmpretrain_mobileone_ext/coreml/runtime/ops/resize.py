"""MIL image resizing (``iOS15.image_resizing``, ``iOS17.image_resizing``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, Optional, Union

import numpy as np
import torch
from torch import Tensor

from ....errors import ProgramError
from .registry import op

_Positions = Callable[[Tensor, int, int], Tensor]


# One division of whole numbers each: a position on the grid, or half way
# between two, comes out exact.
def _strict_align_corners(i: Tensor, n_in: int, n_out: int) -> Tensor:
    return i * (n_in - 1) / max(n_out - 1, 1)


def _align_corners(i: Tensor, n_in: int, n_out: int) -> Tensor:
    if n_out == 1:
        return i + (n_in - 1) / 2
    return _strict_align_corners(i, n_in, n_out)


def _default(i: Tensor, n_in: int, n_out: int) -> Tensor:
    return i * n_in / n_out


def _offset_corners(i: Tensor, n_in: int, n_out: int) -> Tensor:
    return (2 * i + 1) * max(1, n_in - 1) / (2 * n_out)


def _unalign_corners(i: Tensor, n_in: int, n_out: int) -> Tensor:
    return ((2 * i + 1) * n_in - n_out) / (2 * n_out)


# MIL's sampling modes: output index to position on the input grid.
_SAMPLING: dict[str, _Positions] = {
    'STRICT_ALIGN_CORNERS': _strict_align_corners,
    'ALIGN_CORNERS': _align_corners,
    'DEFAULT': _default,
    'OFFSET_CORNERS': _offset_corners,
    'UNALIGN_CORNERS': _unalign_corners,
}


def _linear(x: Tensor, axis: int, n_out: int, mode: str) -> Tensor:
    """Resample one axis linearly at the positions of a sampling mode."""
    n_in = x.shape[axis]
    position = _positions(x, axis, n_out, mode)
    low = position.floor()
    shape = [1] * x.dim()
    shape[axis] = n_out
    weight = (position - low).to(torch.float32).reshape(shape)
    before = x.index_select(axis, low.long())
    after = x.index_select(axis, (low.long() + 1).clamp(max=n_in - 1))
    return before + (after - before) * weight


def _positions(x: Tensor, axis: int, n_out: int, mode: str) -> Tensor:
    n_in = x.shape[axis]
    i = torch.arange(n_out, dtype=torch.float64, device=x.device)
    return _SAMPLING[mode](i, n_in, n_out).clamp(0, n_in - 1)


def _rounded(x: Tensor, axis: int, n_out: int, mode: str) -> Tensor:
    """Resample one axis at the pixel nearest to each position."""
    # Half way between two pixels MIL does not say which. The lower one
    # repeats pixels evenly where a size is doubled.
    index = torch.ceil(_positions(x, axis, n_out, mode) - 0.5).long()
    return x.index_select(axis, index)


def _nearest(x: Tensor, axis: int, n_out: int) -> Tensor:
    """Resample one axis at ``floor(i * n_in / n_out)``."""
    index = torch.arange(n_out, device=x.device) * x.shape[axis] // n_out
    return x.index_select(axis, index)


@op('upsample_nearest_neighbor')
def upsample_nearest_neighbor(
    x: Tensor, scale_factor_height: float = 1, scale_factor_width: float = 1
) -> Tensor:
    """Repeat pixels; sizes become ``floor(size * scale)``."""
    height = _scaled(x.shape[-2], scale_factor_height)
    width = _scaled(x.shape[-1], scale_factor_width)
    return resize_nearest_neighbor(x, height, width)


def _scaled(size: int, scale: float) -> int:
    """``floor(size * scale)`` in fp32, as sizes in a file are computed."""
    return math.floor(np.float32(size) * np.float32(scale))


@op('resize_nearest_neighbor')
def resize_nearest_neighbor(x: Tensor, target_size_height: int, target_size_width: int) -> Tensor:
    """Nearest neighbor to a target size; ``x`` is (..., H, W)."""
    rows = _nearest(x, x.dim() - 2, target_size_height)
    return _nearest(rows, x.dim() - 1, target_size_width)


@op('upsample_bilinear')
def upsample_bilinear(
    x: Tensor,
    scale_factor_height: float = 1,
    scale_factor_width: float = 1,
    align_corners: bool = True,
    half_pixel_centers: Optional[bool] = None,
) -> Tensor:
    """Bilinear interpolation; sizes become ``floor(size * scale)``.

    Raises:
        ProgramError: If both ``align_corners`` and ``half_pixel_centers``.
    """
    if align_corners and half_pixel_centers:
        raise ProgramError(
            'upsample_bilinear: align_corners and half_pixel_centers exclude each other'
        )
    half = not align_corners
    if half_pixel_centers is not None:
        half = half_pixel_centers
    centered = 'UNALIGN_CORNERS' if half else 'DEFAULT'
    return resize_bilinear(
        x,
        _scaled(x.shape[-2], scale_factor_height),
        _scaled(x.shape[-1], scale_factor_width),
        'STRICT_ALIGN_CORNERS' if align_corners else centered,
    )


@op('resize_bilinear')
def resize_bilinear(
    x: Tensor,
    target_size_height: int = 1,
    target_size_width: int = 1,
    sampling_mode: str = 'DEFAULT',
) -> Tensor:
    """Bilinear interpolation to a target size; ``x`` is (..., H, W).

    Raises:
        ProgramError: If ``sampling_mode`` is unknown.
    """
    if sampling_mode not in _SAMPLING:
        raise ProgramError(
            f'sampling_mode {sampling_mode!r} is unknown; allowed: {", ".join(_SAMPLING)}'
        )
    rows = _linear(x, x.dim() - 2, target_size_height, sampling_mode)
    return _linear(rows, x.dim() - 1, target_size_width, sampling_mode)


@op('resize')
def resize(
    x: Tensor,
    shape: Union[Sequence[int], Tensor],
    resized_dims: int,
    interpolation_mode: str = 'LINEAR',
    sampling_mode: str = 'DEFAULT',
) -> Tensor:
    """Resize the last ``resized_dims`` dimensions; size 0 keeps one.

    ``NEAREST_NEIGHBOR`` takes the pixel that is nearest to a position, so 2
    to 3 pixels are [a, b, b], as in Apple's own test of the operation;
    ``resize_nearest_neighbor`` takes the one before it.

    Raises:
        ProgramError: If a mode is unknown.
    """
    if interpolation_mode not in _INTERPOLATION:
        raise ProgramError(
            f'resize: interpolation_mode {interpolation_mode!r} is unknown; '
            f'allowed: {", ".join(_INTERPOLATION)}'
        )
    if sampling_mode not in _SAMPLING:
        raise ProgramError(
            f'resize: sampling_mode {sampling_mode!r} is unknown; allowed: {", ".join(_SAMPLING)}'
        )
    resample = _INTERPOLATION[interpolation_mode]
    targets = list(shape)[len(shape) - resized_dims :]
    for axis, target in enumerate(targets, x.dim() - resized_dims):
        x = resample(x, axis, int(target) or x.shape[axis], sampling_mode)
    return x


_INTERPOLATION = {'LINEAR': _linear, 'NEAREST_NEIGHBOR': _rounded}
