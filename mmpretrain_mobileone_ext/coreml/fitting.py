"""Which of an input's allowed shapes a value has."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Optional

import numpy as np
from PIL import Image
from torch import Tensor

from ..errors import ProgramError
from .graph import Feature
from .images import upright_size


def fitted(feature: Feature, shape: tuple[int, ...]) -> Feature:
    """The input as if ``shape`` were the only one it takes.

    Raises:
        ProgramError: If the input does not take ``shape``; lists what it
            takes.
    """
    if not feature.allows(shape):
        raise ProgramError(
            f'input {feature.name!r} has shape {tuple(shape)}; the model '
            f'takes {feature.allowed}'
        )
    return replace(feature, shape=tuple(shape), shapes=(), ranges=())


def fitted_to_image(feature: Feature, value: Any) -> Feature:
    """As :func:`fitted`, for anything that may be given as an image.

    Values that are no images, and inputs of one size, are left to
    :func:`.images.to_tensor`.
    """
    shape = _image_shape(feature, value)
    if shape is None or not feature.is_flexible:
        return feature
    return fitted(feature, shape)


def _image_shape(feature: Feature, value: Any) -> Optional[tuple[int, ...]]:
    channels = feature.shape[1]
    if isinstance(value, Tensor):
        return tuple(value.shape)
    if isinstance(value, Image.Image):
        return (1, channels, *upright_size(value))
    if isinstance(value, np.ndarray) and value.ndim in (2, 3):
        return (1, channels, *value.shape[:2])
    return None
