"""MIL sampling of images at computed places (``image_resizing``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, NamedTuple, Optional

import torch
from torch import Tensor

from ....errors import ProgramError
from .registry import op

# Beyond any image; further out, a coordinate would not fit an integer.
_FAR = 2.0**24


class _Padding(NamedTuple):
    """What is read outside of an image."""

    mode: str
    value: float = 0.0


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
        padding_mode (str): ``'constant'`` (``padding_value``), ``'border'``,
            ``'reflection'`` (without the edge) or ``'symmetric'`` (with).
        coordinates_mode (str): ``'unnormalized'``,
            ``'normalized_minus_one_to_one'`` or ``'normalized_zero_to_one'``.
        align_corners (bool): Normalized coordinates count from the centers
            of the outer pixels, otherwise from their edges.

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
    padding = _Padding(padding_mode.lower(), padding_value)
    found = _sampled(x, image, height, width, sampling_mode, padding)
    return found.movedim(0, 1)


@op('affine')
def affine(
    x: Tensor,
    transform_matrix: Tensor,
    output_height: int,
    output_width: int,
    sampling_mode: str,
    padding_mode: str,
    padding_value: float,
    coordinates_mode: str,
    align_corners: bool,
) -> Tensor:
    """``x`` at linearly transformed coordinates, as ``resample``.

    Args:
        x (Tensor): (B, C, H, W).
        transform_matrix (Tensor): (B, 6) or (1, 6), a0, a1, a2, b0, b1, b2:
            ``x' = a0 x + a1 y + a2`` and ``y' = b0 x + b1 y + b2``.

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
    across, down = (_spread(size, x.device) for size in (output_width, output_height))
    place = torch.stack(
        [
            across.expand(output_height, output_width),
            down.unsqueeze(1).expand(output_height, output_width),
            torch.ones(output_height, output_width, device=x.device),
        ],
        -1,
    )
    rows = transform_matrix.float().reshape(-1, 1, 2, 3)
    moved = (rows.unsqueeze(1) * place.unsqueeze(2)).sum(-1)
    return resample(
        x,
        moved.expand(len(x), -1, -1, -1),
        sampling_mode,
        padding_mode,
        padding_value,
        coordinates_mode,
        align_corners,
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
        roi (Tensor | None): Before iOS 17. (N, 1, 4, 1, 1): every box of
            every image; (N, 1, 5, 1, 1): the image's index comes first.
        boxes (Tensor | None): From iOS 17 on, (N, 4).
        box_indices (Tensor | None): (N), the image of each box, else
            0, 1, ...
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
    found = _sampled(
        x, image.reshape(count, -1, 1, 1), down, across, 'bilinear', _Padding('border')
    )
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
    modes = [
        f'{kind}_{first}_FIRST'
        for kind in ('CORNERS', 'CENTER_SIZE')
        for first in ('HEIGHT', 'WIDTH')
    ]
    if mode not in modes:
        raise ProgramError(f'box_coordinate_mode {mode!r} is unknown; allowed: {", ".join(modes)}')
    if mode.endswith('WIDTH_FIRST'):
        boxes = boxes[:, [1, 0, 3, 2]]
    if mode.startswith('CORNERS'):
        return boxes
    center, half = boxes[:, :2], boxes[:, 2:] / 2
    return torch.cat([center - half, center + half], 1)


_Grid = Callable[[Tensor, Tensor, int], Tensor]


def _default(i: Tensor, length: Tensor, count: int) -> Tensor:
    return i * ((length + 1) / count)


def _offset(i: Tensor, length: Tensor, count: int) -> Tensor:
    return (i + 0.5) * (length.clamp(min=1) / count)


def _unaligned(i: Tensor, length: Tensor, count: int) -> Tensor:
    return (i + 0.5) * ((length + 1) / count) - 0.5


def _strict(i: Tensor, length: Tensor, count: int) -> Tensor:
    return i * (length / max(count - 1, 1))


def _aligned(i: Tensor, length: Tensor, count: int) -> Tensor:
    return _strict(i, length, count) if count > 1 else i + length / 2


# As of resize_bilinear, for an interval of Xin - 1 = its length.
_GRIDS: dict[str, _Grid] = {
    'STRICT_ALIGN_CORNERS': _strict,
    'ALIGN_CORNERS': _aligned,
    'DEFAULT': _default,
    'OFFSET_CORNERS': _offset,
    'UNALIGN_CORNERS': _unaligned,
}


def _grid(start: Tensor, end: Tensor, count: int, mode: str) -> Tensor:
    """Places (N, count) between ``start`` and ``end`` (N).

    From the larger to the smaller one, places are mirrored.
    """
    if mode not in _GRIDS:
        raise ProgramError(f'sampling_mode {mode!r} is unknown; allowed: {", ".join(_GRIDS)}')
    if count < 1:
        raise ProgramError(f'a target size is {count}; allowed: >= 1')
    i = torch.arange(count, device=start.device, dtype=torch.float32)
    length = (end - start).abs().unsqueeze(1)
    steps = torch.minimum(_GRIDS[mode](i, length, count).clamp(min=0), length)
    return start.unsqueeze(1) + torch.where((end < start).unsqueeze(1), -steps, steps)


def _spread(count: int, device: torch.device) -> Tensor:
    """``count`` places from -1 to 1; -1 for one, as torch has it."""
    if count < 1:
        raise ProgramError(f'an output size is {count}; allowed: >= 1')
    return torch.linspace(-1, 1, count, device=device)


def _pixels(given: Tensor, size: int, mode: str, align_corners: bool) -> Tensor:
    """Coordinates as places of pixels, 0 the center of the first one."""
    if mode == 'unnormalized':
        return given
    if mode not in ('normalized_minus_one_to_one', 'normalized_zero_to_one'):
        raise ProgramError(
            f'coordinates_mode {mode!r} is unknown; allowed: unnormalized, '
            f'normalized_minus_one_to_one, normalized_zero_to_one'
        )
    part = given if mode == 'normalized_zero_to_one' else (given + 1) / 2
    return part * (size - 1) if align_corners else part * size - 0.5


def _sampled(
    x: Tensor, image: Tensor, height: Tensor, width: Tensor, sampling_mode: str, padding: _Padding
) -> Tensor:
    """``x[image, :, height, width]``, channels first.

    Args:
        x (Tensor): (B, C, H, W).
        image (Tensor): Integer; it, ``height`` and ``width``, in pixels,
            are broadcast to a shape S.

    Returns:
        Tensor: (C, \\*S).
    """
    down = height.nan_to_num(_FAR).clamp(-_FAR, _FAR)
    across = width.nan_to_num(_FAR).clamp(-_FAR, _FAR)
    if sampling_mode == 'nearest':
        return _read(x, image, down.round(), across.round(), padding)
    if sampling_mode != 'bilinear':
        raise ProgramError(
            f'sampling_mode {sampling_mode!r} is unknown; allowed: bilinear, nearest'
        )
    top, left = down.floor(), across.floor()
    lower, right = down - top, across - left
    upper_row = (
        _read(x, image, top, left, padding) * (1 - right)
        + _read(x, image, top, left + 1, padding) * right
    )
    lower_row = (
        _read(x, image, top + 1, left, padding) * (1 - right)
        + _read(x, image, top + 1, left + 1, padding) * right
    )
    return upper_row * (1 - lower) + lower_row * lower


def _read(x: Tensor, image: Tensor, row: Tensor, column: Tensor, padding: _Padding) -> Tensor:
    """Pixels (C, \\*S) at whole rows and columns."""
    count, channels, height, width = x.shape
    inside, (y, z) = _within([row, column], [height, width], padding.mode)
    # Other images do not exist; torch refuses what is beyond all of them.
    known = (image >= 0) & (image < count)
    place = torch.where(known, (image * height + y) * width + z, x.numel())
    flat = x.movedim(1, 0).reshape(channels, -1)
    found = flat.index_select(1, place.reshape(-1))
    found = found.reshape(channels, *place.shape)
    if inside is None:
        return found
    return found.masked_fill(~inside, padding.value)


def _within(
    places: Sequence[Tensor], sizes: Sequence[int], mode: str
) -> tuple[Optional[Tensor], list[Tensor]]:
    """Where an image is read, by axis; and, for a constant, whether."""
    whole = [place.long() for place in places]
    if mode == 'constant':
        row, column = ((i >= 0) & (i < size) for i, size in zip(whole, sizes))
        return row & column, _clamped(whole, sizes)
    if mode == 'border':
        return None, _clamped(whole, sizes)
    if mode == 'reflection':
        return None, [_folded(i, max(size - 1, 1), size - 1) for i, size in zip(whole, sizes)]
    if mode == 'symmetric':
        # Mirrored between pixels: -1 is 0, and size is size - 1.
        twice = (torch.where(i < 0, -1 - i, i) % (2 * size) for i, size in zip(whole, sizes))
        return None, [torch.minimum(i, 2 * size - 1 - i) for i, size in zip(twice, sizes)]
    raise ProgramError(
        f'padding_mode {mode!r} is unknown; allowed: constant, border, reflection, symmetric'
    )


def _clamped(places: Sequence[Tensor], sizes: Sequence[int]) -> list[Tensor]:
    return [i.clamp(0, size - 1) for i, size in zip(places, sizes)]


def _folded(place: Tensor, half: int, last: int) -> Tensor:
    """Mirrored at the first and the last pixel."""
    within = place.abs() % (2 * half)
    return torch.minimum(within, 2 * half - within).clamp(max=last)
