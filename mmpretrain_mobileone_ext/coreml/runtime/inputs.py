"""Values that a program is given, as tensors: images of any kind, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from PIL import ExifTags, Image, ImageOps
from torch import Tensor

from ...errors import ProgramError
from ..program.graph import Feature

_MODES = {'RGB': 'RGB', 'BGR': 'RGB', 'GRAYSCALE': 'L', 'GRAYSCALE_FLOAT16': 'F'}
#: Orientations in which rows and columns change places.
_SIDEWAYS = (5, 6, 7, 8)


def upright(image: Image.Image, mode: str) -> Image.Image:
    """A PIL image as MMPretrain's loader gives the file it was opened from.

    It is turned as its EXIF data say, of 16 bits the upper 8 count, and transparency is dropped,
    all as in OpenCV. Colors of a CMYK JPEG may differ from OpenCV's by one level, and those of a
    transparent TIFF are darker there.

    Args:
        image: of any mode but 32-bit ones, which have no range that could be mapped to 0..255.
        mode: 'RGB', 'L' or 'F', with values 0..255; 'F' takes 'F' too.

    Raises:
        ProgramError: the image has 32-bit values.
    """
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith('I;16'):
        upper = np.asarray(image).astype(np.uint16) >> 8
        image = Image.fromarray(upper.astype(np.uint8))
    if image.mode in ('I', 'F') and image.mode != mode:
        raise ProgramError(
            f'the image has mode {image.mode!r}, 32-bit values of no fixed '
            "range; scale it to 0..255 and convert it to 'L' or 'RGB'"
        )
    # Pillow takes a premultiplied image back to colors by way of these.
    through = {'RGBa': 'RGBA', 'La': 'LA'}.get(image.mode, image.mode)
    return image.convert(through).convert(mode)


def check_shape(feature: Feature, shape: tuple[int, ...]) -> None:
    """Refuse a shape that an input does not take; lists what it takes."""
    if not feature.allows(shape):
        raise ProgramError(
            f'input {feature.name!r} has shape {tuple(shape)}; the model takes {feature.allowed}'
        )


def to_tensor(value: Any, feature: Feature) -> Tensor:
    """Convert one image to the tensor the program starts from.

    Args:
        value (PIL.Image.Image | np.ndarray | Tensor): A PIL image, read as by :func:`upright`; or
            an array (H, W, 3) in RGB order or (H, W), uint8; or a tensor (1, C, H, W) with values
            0..255 in the model's own channel order. The size must be one that the model takes.
        feature (Feature): The image input.

    Returns:
        Tensor: (1, C, H, W), fp32, values 0..255, channels in the model's
        order.

    Raises:
        ProgramError: If the type, the mode, the dtype or the size does not fit.
    """
    shape = _shape_of(value, feature)
    if isinstance(value, Tensor):
        if tuple(value.shape) != shape:
            raise ProgramError(
                f'image {feature.name!r} is a tensor of shape '
                f'{tuple(value.shape)}; the model takes exactly {shape}'
            )
        return value.float()
    if isinstance(value, Image.Image):
        value = np.asarray(upright(value, _MODES[feature.color_layout or '']))
    elif not isinstance(value, np.ndarray):
        raise ProgramError(
            f'image {feature.name!r} is a {type(value).__name__}; allowed: '
            f'PIL image, uint8 array (H, W[, 3]), tensor (1, C, H, W)'
        )
    elif value.dtype != np.uint8:
        raise ProgramError(f'image {feature.name!r} is a {value.dtype} array; allowed: uint8')
    return _planar(value, feature, shape)


def _shape_of(value: Any, feature: Feature) -> tuple[int, ...]:
    """The shape that the model takes, of several the one that fits a value.

    Values that are no images fit any.
    """
    if isinstance(value, Tensor):
        shape = tuple(value.shape)
    elif isinstance(value, Image.Image):
        is_sideways = value.getexif().get(ExifTags.Base.Orientation) in _SIDEWAYS
        size = value.size if is_sideways else (value.height, value.width)
        shape = (1, feature.shape[1], *size)
    elif isinstance(value, np.ndarray) and value.ndim in (2, 3):
        shape = (1, feature.shape[1], *value.shape[:2])
    else:
        return feature.shape
    if not feature.is_flexible:
        return feature.shape
    check_shape(feature, shape)
    return shape


def _planar(array: Any, feature: Feature, shape: tuple[int, ...]) -> Tensor:
    """Planar tensor from (H, W) or (H, W, 3) in RGB order."""
    _, channels, height, width = shape
    expected = (height, width) if channels == 1 else (height, width, 3)
    if array.shape != expected:
        raise ProgramError(
            f'image {feature.name!r} has size (H, W[, C]) = {array.shape}; '
            f'the model takes exactly {expected}'
        )
    pixels = torch.tensor(np.ascontiguousarray(array), dtype=torch.float32)
    planar = pixels.reshape(height, width, channels).permute(2, 0, 1)
    if feature.color_layout == 'BGR':
        planar = planar.flip(0)
    return planar.unsqueeze(0).contiguous()


def to_pil(tensor: Tensor, feature: Feature) -> Image.Image:
    """Inverse of :func:`to_tensor`: a PIL image for Apple's runtime.

    Args:
        tensor (Tensor): (1, C, H, W), values 0..255, model channel order.
        feature (Feature): The image input.

    Returns:
        PIL.Image.Image: Mode RGB, L or F; values rounded to uint8 except
        for mode F.
    """
    planar = tensor[0].flip(0) if feature.color_layout == 'BGR' else tensor[0]
    pixels = planar.permute(1, 2, 0).squeeze(-1).cpu().float()
    if feature.color_layout == 'GRAYSCALE_FLOAT16':
        return Image.fromarray(pixels.numpy())
    rounded = pixels.round().clamp(0, 255).to(torch.uint8)
    return Image.fromarray(rounded.numpy())
