"""Run the image steps of a test pipeline itself on an array."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from ...errors import ExportError
from ..preprocess import step_name
from .steps import SILENT


def prepare_photo(pixels: np.ndarray,
                  pipeline: Sequence[Mapping[str, Any]]) -> np.ndarray:
    """What the pipeline makes of a decoded image.

    Args:
        pixels: (H, W, 3) or (H, W), uint8.
        pipeline: configs of its steps; those that load, pack or only
            change the container are passed over.

    Returns:
        np.ndarray: (H', W', 3) or (H', W'), channels in the same order.

    Raises:
        ExportError: a step cannot be built or fails on this image.
    """
    from mmengine.registry import DefaultScope
    from mmpretrain.registry import TRANSFORMS

    results: dict[str, Any] = dict(img=pixels, img_shape=pixels.shape[:2])
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        for step in pipeline:
            if step_name(step) in SILENT:
                continue
            try:
                results = TRANSFORMS.build(_listed_as_tuples(step))(results)
            # Transforms of any package run here.
            except Exception as error:
                reason = ' '.join(str(error).split())
                raise ExportError(
                    f'the step {step_name(step)} of the test pipeline fails '
                    f'on an image of shape {pixels.shape}: '
                    f'{reason}') from error
    return np.asarray(results['img'])


def _listed_as_tuples(step: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no tuples, and mmcv takes sizes as nothing else."""
    return {k: tuple(v) if isinstance(v, list) else v
            for k, v in step.items()}
