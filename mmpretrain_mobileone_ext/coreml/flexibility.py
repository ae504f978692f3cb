"""Shapes and ranges that an input of a Core ML file declares."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Shapes = tuple[tuple[int, ...], ...]
Ranges = tuple[tuple[int, int], ...]


def of_image(image: Any, channels: int) -> tuple[Shapes, Ranges]:
    """Read the flexibility of an image.

    Args:
        image (ImageFeatureType): As in Apple's ``FeatureTypes.proto``.
        channels (int): C.

    Returns:
        tuple: Shapes (1, C, H, W), the default first, and the ranges of
        (N, C, H, W); one of both is empty.
    """
    default = (1, channels, image.height, image.width)
    kind = image.WhichOneof('SizeFlexibility')
    if kind == 'enumeratedSizes':
        sizes = image.enumeratedSizes.sizes
        shapes = [(1, channels, s.height, s.width) for s in sizes]
        return _default_first(default, shapes), ()
    if kind == 'imageSizeRange':
        sides = image.imageSizeRange
        height, width = _range(sides.heightRange), _range(sides.widthRange)
        return (), ((1, 1), (channels, channels), height, width)
    return (), ()


def of_array(array: Any) -> tuple[Shapes, Ranges]:
    """As :func:`of_image`, of an ``ArrayFeatureType`` of any rank."""
    default = tuple(array.shape)
    kind = array.WhichOneof('ShapeFlexibility')
    if kind == 'enumeratedShapes':
        shapes = [tuple(s.shape) for s in array.enumeratedShapes.shapes]
        return _default_first(default, shapes), ()
    if kind == 'shapeRange':
        return (), tuple(_range(r) for r in array.shapeRange.sizeRanges)
    return (), ()


def _range(sizes: Any) -> tuple[int, int]:
    return int(sizes.lowerBound), int(sizes.upperBound)


def _default_first(
    default: tuple[int, ...], shapes: Sequence[tuple[int, ...]]
) -> Shapes:
    # Each once, in the order of the file.
    return tuple(dict.fromkeys([default, *shapes] if default else shapes))
