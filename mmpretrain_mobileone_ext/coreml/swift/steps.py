"""A test pipeline as values of the Swift enum ``PreprocessingStep``."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Callable, Optional

from ..preprocess import step_name

#: Steps that change no pixel.
SILENT = frozenset(
    ('PackInputs', 'Collect', 'LoadImageFromFile', 'ToPIL', 'ToNumpy',
     'NumpyToPIL', 'PILToNumpy'))
#: mmcv's backend and interpolation to the Swift enum ``Resampling``.
_RESAMPLINGS = {
    **{('pillow', name): f'.pillow(.{name})' for name in
       ('nearest', 'box', 'bilinear', 'hamming', 'bicubic', 'lanczos')},
    ('cv2', 'nearest'): '.openCV(.nearest)',
    ('cv2', 'bilinear'): '.openCV(.linear)',
    ('cv2', 'bicubic'): '.openCV(.cubic)',
}


@dataclass(frozen=True)
class Steps:
    """Steps as Swift expressions.

    Attributes:
        expressions: in order; none where ``missing`` is set.
        missing: the first step that Swift cannot carry out, in words.
    """
    expressions: tuple[str, ...]
    missing: Optional[str] = None


def swift_steps(pipeline: Sequence[Mapping[str, Any]]) -> Steps:
    """Translate the steps of a test pipeline.

    Args:
        pipeline: configs of mmcv's and mmpretrain's transforms.
    """
    expressions = []
    for step in pipeline:
        if step_name(step) in SILENT:
            continue
        expression = _expression(step)
        if expression is None:
            return Steps((), _words(step))
        expressions.append(expression)
    return Steps(tuple(expressions))


def _expression(step: Mapping[str, Any]) -> Optional[str]:
    """None for whatever Swift cannot do exactly as the pipeline does."""
    if '/' in str(step.get('type', '')):
        return None  # torchvision's step of the same name
    known = _KNOWN.get(step_name(step))
    options = {k: v for k, v in step.items() if k not in ('type', '_scope_')}
    try:
        return known(**options) if known else None
    # An option that the function does not have, or no whole number.
    except (TypeError, ValueError):
        return None


def _resize(scale: Any, keep_ratio: bool = False, **how: str) -> Optional[str]:
    resampling = _resampling(**how)
    width, height = _pair(scale)
    if resampling is None:
        return None
    if keep_ratio:
        return (f'.resizeInside(long: {max(width, height)}, '
                f'short: {min(width, height)}, {resampling})')
    return f'.resize(width: {width}, height: {height}, {resampling})'


def _resize_edge(scale: int, edge: str = 'short', **how: str) -> Optional[str]:
    resampling = _resampling(**how)
    if resampling is None or edge not in ('short', 'long', 'width', 'height'):
        return None
    return f'.resizeEdge(.{edge}, pixels: {_whole(scale)}, {resampling})'


def _center_crop(crop_size: Any) -> str:
    width, height = _pair(crop_size)
    return f'.centerCrop(width: {width}, height: {height})'


def _efficientnet_crop(crop_size: int, crop_padding: int = 32,
                       interpolation: str = 'bicubic',
                       backend: str = 'cv2') -> Optional[str]:
    resampling = _resampling(backend, interpolation)
    if resampling is None:
        return None
    return (f'.efficientNetCrop(side: {_whole(crop_size)}, '
            f'padding: {_whole(crop_padding)}, {resampling})')


_KNOWN: dict[str, Callable[..., Optional[str]]] = {
    'Resize': _resize,
    'ResizeEdge': _resize_edge,
    'CenterCrop': _center_crop,
    'EfficientNetCenterCrop': _efficientnet_crop,
}


def _resampling(backend: str = 'cv2',
                interpolation: str = 'bilinear') -> Optional[str]:
    return _RESAMPLINGS.get((backend, interpolation))


def _pair(value: Any) -> tuple[int, int]:
    """(W, H), as mmcv states sizes."""
    if isinstance(value, (list, tuple)):
        width, height = value
        return _whole(width), _whole(height)
    return _whole(value), _whole(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(f'{value!r} is no whole number')
    return int(value)


def _words(step: Mapping[str, Any]) -> str:
    rest = ', '.join(f'{k}={v!r}' for k, v in step.items() if k != 'type')
    return f'{step.get("type", "a step")}({rest})'
