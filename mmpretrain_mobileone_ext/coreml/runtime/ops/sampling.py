"""MIL resizing, and sampling of images at computed places (``image_resizing``).

A place is a number on an axis whose pixels have their centers at 0, 1, ...
"""

from __future__ import annotations

import functools
import math
from typing import Any, Callable, Optional

import numpy as np
import torch
from torch import Tensor

from ....errors import ProgramError
from .registry import op
from .shared import Sizes, along, choice, numbers

# Beyond any image; further out, a coordinate would not fit an integer.
_FAR = 2.0**24
_BOXES = tuple(
    f'{kind}_{first}_FIRST' for kind in ('CORNERS', 'CENTER_SIZE') for first in ('HEIGHT', 'WIDTH')
)

# MIL's sampling modes: the place of pixel i of n on an axis from 0 to last. One division of whole
# numbers each: a place on the grid, or half way between two, comes out exact.
_SAMPLING: dict[str, Callable[[Tensor, Tensor, int], Tensor]] = {
    'STRICT_ALIGN_CORNERS': lambda i, last, n: i * last / max(n - 1, 1),
    'ALIGN_CORNERS': lambda i, last, n: i * last / (n - 1) if n > 1 else i + last / 2,
    'DEFAULT': lambda i, last, n: i * (last + 1) / n,
    'OFFSET_CORNERS': lambda i, last, n: (2 * i + 1) * last.clamp(min=1) / (2 * n),
    'UNALIGN_CORNERS': lambda i, last, n: ((2 * i + 1) * (last + 1) - n) / (2 * n),
}


def _places(last: Tensor, count: int, mode: str) -> Tensor:
    """Places of ``count`` pixels on an axis from 0 to ``last``."""
    i = torch.arange(count, dtype=last.dtype, device=last.device)
    found = choice('sampling_mode', mode, _SAMPLING)(i, last, count)
    return torch.minimum(found.clamp(min=0), last)


def _places_on(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    last = torch.tensor(x.shape[axis] - 1, dtype=torch.float64, device=x.device)
    return _places(last, count, mode)


def _linear(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    """Resample one axis linearly."""
    place = _places_on(x, axis, count, mode)
    low = place.floor()
    weight = along((place - low).to(torch.float32), axis, x.dim())
    before = x.index_select(axis, low.long())
    after = x.index_select(axis, (low.long() + 1).clamp(max=x.shape[axis] - 1))
    return before + (after - before) * weight


def _rounded(x: Tensor, axis: int, count: int, mode: str) -> Tensor:
    """Resample one axis at the pixel nearest to each place."""
    # Half way between two pixels MIL does not say which. The lower one repeats pixels evenly where
    # a size is doubled.
    index = torch.ceil(_places_on(x, axis, count, mode) - 0.5).long()
    return x.index_select(axis, index)


_INTERPOLATION = {'LINEAR': _linear, 'NEAREST_NEIGHBOR': _rounded}


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
    """The pixel at ``floor(i * size / target)``; ``x`` is (..., H, W)."""
    for axis, count in ((-2, target_size_height), (-1, target_size_width)):
        index = torch.arange(count, device=x.device) * x.shape[axis] // count
        x = x.index_select(axis, index)
    return x


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
    for axis, count in enumerate((target_size_height, target_size_width), x.dim() - 2):
        x = _linear(x, axis, count, sampling_mode)
    return x


@op('resize')
def resize(
    x: Tensor,
    shape: Sizes,
    resized_dims: int,
    interpolation_mode: str = 'LINEAR',
    sampling_mode: str = 'DEFAULT',
) -> Tensor:
    """Resize the last ``resized_dims`` dimensions; size 0 keeps one.

    ``NEAREST_NEIGHBOR`` takes the pixel that is nearest to a position, so 2 to 3 pixels are [a, b,
    b], as in Apple's own test of the operation; ``resize_nearest_neighbor`` takes the one before
    it.

    Raises:
        ProgramError: If a mode is unknown.
    """
    resample = choice('resize: interpolation_mode', interpolation_mode, _INTERPOLATION)
    targets = numbers(shape)[len(shape) - resized_dims :]
    for axis, target in enumerate(targets, x.dim() - resized_dims):
        x = resample(x, axis, target or x.shape[axis], sampling_mode)
    return x


@op('resample')
def resample(
    x: Tensor,
    coordinates: Tensor,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """Values of ``x`` at ``coordinates``.

    Args:
        x (Tensor): (B, C, H, W).
        coordinates (Tensor): (B, H2, W2, 2), (x, y) of every place.
        sampling_mode (str): ``'bilinear'`` or ``'nearest'``.
        padding_mode (str): ``'constant'`` (``padding_value``), ``'border'``, ``'reflection'``
            (without the edge) or ``'symmetric'`` (with).
        coordinates_mode (str): ``'unnormalized'``, ``'normalized_minus_one_to_one'`` or
            ``'normalized_zero_to_one'``.
        align_corners (bool): Normalized coordinates count from the centers of the outer pixels,
            otherwise from their edges.

    Returns:
        Tensor: (B, C, H2, W2).

    Raises:
        ProgramError: If a mode is unknown or shapes do not fit.
    """
    if x.dim() != 4 or coordinates.dim() != 4 or len(x) != len(coordinates):
        raise ProgramError(
            f'x of shape {tuple(x.shape)} and coordinates of shape '
            f'{tuple(coordinates.shape)} do not fit'
        )
    width, height = (
        _pixels(coordinates[..., i].float(), size, coordinates_mode, align_corners)
        for i, size in enumerate((x.shape[3], x.shape[2]))
    )
    image = torch.arange(len(x), device=x.device).reshape(-1, 1, 1)
    read = functools.partial(_read, x, image, padding_mode.lower(), padding_value)
    return _sampled(read, height, width, sampling_mode).movedim(0, 1)


@op('affine')
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    coordinates_mode: str,
    padding_mode: str,
    align_corners: bool,
    **sampling: Any,
) -> Tensor:
    """``x`` at linearly transformed coordinates, as ``resample``.

    Args:
        x (Tensor): (B, C, H, W).
        transform_matrix (Tensor): (B, 6) or (1, 6), a0, a1, a2, b0, b1, b2: ``x' = a0 x + a1 y +
            a2`` and ``y' = b0 x + b1 y + b2``.

    Returns:
        Tensor: (B, C, ``output_height``, ``output_width``).

    Raises:
        ProgramError: If a mode is one that MIL does not have either.
    """
    asked = coordinates_mode.lower(), padding_mode.lower(), align_corners
    if asked != ('normalized_minus_one_to_one', 'constant', True):
        raise ProgramError(
            f'affine with {asked}; allowed: normalized_minus_one_to_one, constant and align_corners'
        )
    down, across = (_spread(size, x.device) for size in (output_height, output_width))
    y, x_place = torch.meshgrid(down, across, indexing='ij')
    place = torch.stack([x_place, y, torch.ones_like(y)], -1)
    rows = transform_matrix.float().reshape(-1, 1, 1, 2, 3)
    moved = (rows * place.unsqueeze(2)).sum(-1)
    return resample(
        x,
        moved.expand(len(x), -1, -1, -1),
        coordinates_mode=coordinates_mode,
        padding_mode=padding_mode,
        align_corners=align_corners,
        **sampling,
    )


@op('crop_resize')
def crop_resize(
    x: Tensor,
    roi: Optional[Tensor] = None,
    boxes: Optional[Tensor] = None,
    box_indices: Optional[Tensor] = None,
    target_height: int = 1,
    target_width: int = 1,
    normalized_coordinates: bool = False,
    spatial_scale: float = 1.0,
    box_coordinate_mode: str = 'CORNERS_HEIGHT_FIRST',
    sampling_mode: str = 'DEFAULT',
    pad_value: float = 0.0,
) -> Tensor:
    """Boxes cut out of images and resized bilinearly.

    Args:
        x (Tensor): (B, C, H, W).
        roi (Tensor | None): Before iOS 17. (N, 1, 4, 1, 1): every box of every image; (N, 1, 5, 1,
            1): the image's index comes first.
        boxes (Tensor | None): From iOS 17 on, (N, 4).
        box_indices (Tensor | None): (N), the image of each box, else 0, 1, ...
        normalized_coordinates (bool): 1 is the center of the last pixel.
        pad_value (float): Value of places outside of an image.

    Returns:
        Tensor: (N, B or 1, C, ``target_height``, ``target_width``); for
        ``boxes`` without the second dimension.

    Raises:
        ProgramError: If a mode is unknown.
    """
    image, corners = _regions(x, roi, boxes, box_indices)
    scale = torch.full((4,), float(spatial_scale), device=x.device)
    if normalized_coordinates:
        height, width = x.shape[2] - 1, x.shape[3] - 1
        scale = scale * torch.tensor([height, width, height, width], device=x.device)
    box = _corners(corners, box_coordinate_mode) * scale
    down = _grid(box[:, 0], box[:, 2], target_height, sampling_mode)
    across = _grid(box[:, 1], box[:, 3], target_width, sampling_mode)
    count = len(corners)
    down = down.reshape(count, 1, -1, 1)
    across = across.reshape(count, 1, 1, -1)
    read = functools.partial(_read, x, image.reshape(count, -1, 1, 1), 'border', 0.0)
    found = _sampled(read, down, across, 'bilinear')
    # Not interpolated with the pixels beside it: as Core ML does it.
    beyond = _beyond(down, x.shape[2]) | _beyond(across, x.shape[3])
    result = found.masked_fill(beyond, pad_value).permute(1, 2, 0, 3, 4)
    return result if boxes is None else result.squeeze(1)


def _beyond(place: Tensor, size: int) -> Tensor:
    """Outside of 0 to ``size`` - 1, by more than coordinates are rounded."""
    rounding = 8 * torch.finfo(torch.float32).eps * size
    return (place < -rounding) | (place > size - 1 + rounding)


def _regions(
    x: Tensor, roi: Optional[Tensor], boxes: Optional[Tensor], box_indices: Optional[Tensor]
) -> tuple[Tensor, Tensor]:
    """Indices of images (N, M), and coordinates (N, 4)."""
    if boxes is not None:
        image = (
            torch.arange(len(boxes), device=x.device) if box_indices is None else box_indices.long()
        )
        return image.unsqueeze(1), boxes.float()
    if roi is None:
        raise ProgramError('crop_resize needs roi or boxes')
    rows = roi.float().reshape(len(roi), -1)
    if rows.shape[1] == 5:
        return rows[:, :1].long(), rows[:, 1:]
    every = torch.arange(len(x), device=x.device)
    return every.expand(len(rows), -1), rows


def _corners(boxes: Tensor, mode: str) -> Tensor:
    """Boxes (N, 4) as top, left, bottom, right."""
    if mode not in _BOXES:
        raise ProgramError(f'box_coordinate_mode {mode!r} is unknown; allowed: {", ".join(_BOXES)}')
    if mode.endswith('WIDTH_FIRST'):
        boxes = boxes[:, [1, 0, 3, 2]]
    if mode.startswith('CORNERS'):
        return boxes
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([center - half, center + half], 1)


def _grid(start: Tensor, end: Tensor, count: int, mode: str) -> Tensor:
    """Places (N, count) between ``start`` and ``end`` (N).

    From the larger to the smaller one, places are mirrored.
    """
    if count < 1:
        raise ProgramError(f'a target size is {count}; allowed: >= 1')
    steps = _places((end - start).abs().unsqueeze(1), count, mode)
    return start.unsqueeze(1) + torch.where((end < start).unsqueeze(1), -steps, steps)


def _spread(count: int, device: torch.device) -> Tensor:
    """``count`` places from -1 to 1; -1 for one, as torch has it."""
    if count < 1:
        raise ProgramError(f'an output size is {count}; allowed: >= 1')
    return torch.linspace(-1, 1, count, device=device)


_COORDINATES: dict[str, Callable[[Tensor], Tensor]] = {
    'unnormalized': lambda given: given,
    'normalized_minus_one_to_one': lambda given: (given + 1) / 2,
    'normalized_zero_to_one': lambda given: given,
}


def _pixels(given: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates as places of pixels, 0 the center of the first one."""
    part = choice('coordinates_mode', mode, _COORDINATES)(given)
    if mode == 'unnormalized':
        return part
    return part * (size - 1) if align_corners else part * size - 0.5


def _sampled(
    read: Callable[[Tensor, Tensor], Tensor], height: Tensor, width: Tensor, sampling_mode: str
) -> Tensor:
    """Values (C, \\*S) at any places.

    Args:
        read (Callable): Values at whole rows and columns.
        height, width (Tensor): In pixels, broadcast to S with the images.
    """
    down, across = (p.nan_to_num(_FAR).clamp(-_FAR, _FAR) for p in (height, width))
    if sampling_mode == 'nearest':
        return read(down.round(), across.round())
    if sampling_mode != 'bilinear':
        raise ProgramError(
            f'sampling_mode {sampling_mode!r} is unknown; allowed: bilinear, nearest'
        )
    top, left = down.floor(), across.floor()
    lower, right = down - top, across - left
    upper_row, lower_row = (
        read(row, left) * (1 - right) + read(row, left + 1) * right for row in (top, top + 1)
    )
    return upper_row * (1 - lower) + lower_row * lower


def _read(
    x: Tensor, image: Tensor, mode: str, outside: float, row: Tensor, column: Tensor
) -> Tensor:
    """Pixels (C, \\*S) of ``x[image]`` at whole rows and columns."""
    count, channels, height, width = x.shape
    place_of = choice('padding_mode', mode, _OUTSIDE)
    y, z = place_of(row.long(), height), place_of(column.long(), width)
    # Other images do not exist; torch refuses what is beyond all of them.
    known = (image >= 0) & (image < count)
    place = torch.where(known, (image * height + y) * width + z, x.numel())
    flat = x.movedim(1, 0).reshape(channels, -1)
    found = flat.index_select(1, place.reshape(-1)).reshape(channels, *place.shape)
    if mode != 'constant':
        return found
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
    return found.masked_fill(~inside, outside)


# Where an axis of n pixels is read at a whole place that may be outside.
_OUTSIDE: dict[str, Callable[[Tensor, int], Tensor]] = {
    'constant': lambda i, n: i.clamp(0, n - 1),
    'border': lambda i, n: i.clamp(0, n - 1),
    'reflection': lambda i, n: _folded(i.abs(), 2 * max(n - 1, 1), 0).clamp(max=n - 1),
    # Mirrored between pixels: -1 is 0, and n is n - 1.
    'symmetric': lambda i, n: _folded(torch.where(i < 0, -1 - i, i), 2 * n, 1),
}


def _folded(place: Tensor, period: int, edge: int) -> Tensor:
    within = place % period
    return torch.minimum(within, period - edge - within)
