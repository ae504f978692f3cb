"""What happens to an image before the network, read from the config."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import cv2
import numpy as np
from mmcv.transforms import LoadImageFromFile as _LoadImageFromFile
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import nn

from ..errors import ExportError, MobileOneExtError
from ..registry import CHILDREN
from ..utils.checks import integer

HEIC_SUFFIXES = ('.heic', '.heif', '.hif')


@CHILDREN['TRANSFORMS'].register_module()
class LoadImageFromFile(_LoadImageFromFile):
    """mmcv's loader, that reads HEIC as well and can keep what it has decoded.

    OpenCV has no decoder for HEIC. Such files are read through Pillow and ``pillow-heif``, upright
    and to the same array (H, W, 3), BGR, uint8; all others are left to mmcv. It has mmcv's name, in
    this package's scope (``mmpretrain_mobileone_ext.LoadImageFromFile``), so that whoever reads a
    pipeline knows what comes out of it.

    Args:
        short_edge: larger images are shrunk until their shorter side has so many pixels, by
            averaging areas; None: as they are. It is the same whether an image was kept or not.
        keep_bytes: of decoded images that each process keeps in memory; what is beyond them is
            decoded each time.
        kwargs: of mmcv's loader.

    Raises:
        SpecError: a wrong argument.
        MobileOneExtError: a HEIC file, and ``pillow-heif`` is not installed.
    """

    def __init__(self, *, short_edge: Optional[int] = None, keep_bytes: int = 0, **kwargs: Any):
        super().__init__(**kwargs)
        if short_edge is not None:
            integer('LoadImageFromFile: short_edge', short_edge, 1)
        self.short_edge = short_edge
        self.keep_bytes = integer('LoadImageFromFile: keep_bytes', keep_bytes)
        self._kept: dict[str, np.ndarray] = {}
        self._kept_bytes = 0

    def transform(self, results: dict) -> Optional[dict]:
        """Load ``results['img_path']``, as mmcv's loader does."""
        path = str(results['img_path'])
        if path not in self._kept:
            found = self._load(results, path)
            if found is None or not (self.short_edge or self.keep_bytes):
                return found
            image = _shrunk(found['img'], self.short_edge)
            self._keep(path, image)
            if path not in self._kept:
                return _with_image(found, image)
        # What follows may write into it.
        return _with_image(results, self._kept[path].copy())

    def _load(self, results: dict, path: str) -> Optional[dict]:
        if not path.lower().endswith(HEIC_SUFFIXES):
            return super().transform(results)
        _open_heic()
        reader = copy.copy(self)
        reader.imdecode_backend = 'pillow'
        return super(LoadImageFromFile, reader).transform(results)

    def _keep(self, path: str, image: np.ndarray) -> None:
        if self._kept_bytes + image.nbytes <= self.keep_bytes:
            self._kept[path] = image
            self._kept_bytes += image.nbytes


def _shrunk(image: np.ndarray, short_edge: Optional[int]) -> np.ndarray:
    height, width = image.shape[:2]
    if short_edge is None or min(height, width) <= short_edge:
        return image
    factor = short_edge / min(height, width)
    size = (max(1, round(width * factor)), max(1, round(height * factor)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _with_image(results: dict, image: np.ndarray) -> dict:
    results.update(img=image, img_shape=image.shape[:2], ori_shape=image.shape[:2])
    return results


def _open_heic() -> None:
    """Teach Pillow, in this process; data loaders have their own."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise MobileOneExtError('HEIC needs pillow-heif: pip install pillow-heif') from error
    register_heif_opener()


#: Data sets of mmpretrain that yield arrays without loading a file.
_ARRAY_ORDER = {'CIFAR10': 'RGB', 'CIFAR100': 'RGB'}
#: Steps after which pixels are no integers 0 to 255 any more.
_FLOAT_STEPS = ('Normalize', 'ToTensor', 'ConvertImageDtype', 'LinearTransformation')
#: Steps from arrays to PIL images or tensors.
_LEAVE_ARRAYS = ('ToPIL', 'NumpyToPIL', 'ToPILImage', 'PILToTensor')
_SWAP = {'RGB': 'BGR', 'BGR': 'RGB'}


@dataclass(frozen=True)
class Preprocessing:
    """Normalization and layout that are baked into the program.

    Attributes:
        channels: of the input, C.
        size: (H, W) in pixels.
        mean, std: one a channel, in the network's order, in units of pixel values 0 to 255; 0 and 1
            where nothing is normalized.
        flips: whether the data's channels are reversed for the network.
        layout: 'RGB', 'BGR' or 'GRAYSCALE'; None: not known, not an image.
    """

    channels: int
    size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    flips: bool
    layout: Optional[str]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """(1, C, H, W)."""
        return (1, self.channels, *self.size)

    @property
    def bytes(self) -> int:
        """Of one image of 8-bit pixels."""
        return self.channels * self.size[0] * self.size[1]


def read_preprocessing(
    preprocessor: nn.Module, channels: int, size: tuple[int, int], data_order: Optional[str]
) -> Preprocessing:
    """Take over a ``ClsDataPreprocessor``.

    Args:
        preprocessor: the model's.
        channels, size: C and (H, W) of the images.
        data_order: 'RGB' or 'BGR', the order in which the test pipeline yields channels; None when
            it is not known.

    Raises:
        ExportError: something in it cannot be baked into a program.
    """
    if not isinstance(preprocessor, ClsDataPreprocessor):
        raise ExportError(
            f'data_preprocessor is a {type(preprocessor).__name__}; only '
            "mmpretrain's ClsDataPreprocessor can be baked in"
        )
    divisor = preprocessor.pad_size_divisor
    if divisor > 1 and any(side % divisor for side in size):
        raise ExportError(
            f'data_preprocessor pads {size} images to multiples of pad_size_divisor={divisor}, '
            'which cannot be baked in; choose an image size that needs no padding'
        )
    mean, std = [0.0], [1.0]
    if preprocessor._enable_normalize:
        mean = preprocessor.mean.flatten().tolist()
        std = preprocessor.std.flatten().tolist()
    flips = bool(preprocessor.to_rgb) and channels == 3
    return Preprocessing(
        channels=channels,
        size=size,
        mean=_per_channel('mean', mean, channels),
        std=_checked_std(_per_channel('std', std, channels)),
        flips=flips,
        layout=_layout(channels, flips, data_order),
    )


def _per_channel(name: str, values: Sequence[float], channels: int) -> tuple[float, ...]:
    if len(values) not in (1, channels):
        raise ExportError(
            f'data_preprocessor has {len(values)} values of {name} for '
            f'{channels}-channel images; 1 or {channels} can be baked in'
        )
    return tuple(values) if len(values) == channels else tuple(values) * channels


def _checked_std(std: tuple[float, ...]) -> tuple[float, ...]:
    if not all(0 < s < float('inf') for s in std):
        raise ExportError(f'data_preprocessor has std={std}; every value must be positive')
    return std


def _layout(channels: int, flips: bool, data_order: Optional[str]) -> Optional[str]:
    if channels == 1:
        return 'GRAYSCALE'
    if channels != 3 or data_order is None:
        return None
    return _SWAP[data_order] if flips else data_order


def step_name(step: Mapping[str, Any]) -> str:
    """``'mmpretrain.CenterCrop'`` -> ``'CenterCrop'``."""
    return type_name(step).split('/')[-1].split('.')[-1]


def type_name(described: Mapping[str, Any]) -> str:
    """The ``type`` of a step or a data set, a class or its name, as text."""
    kind = described.get('type', '')
    return kind if isinstance(kind, str) else getattr(kind, '__name__', '')


def check_pipeline(steps: Sequence[Mapping[str, Any]]) -> None:
    """Refuse a test pipeline that normalizes by itself.

    Raises:
        ExportError: names the step.
    """
    for step in steps:
        if step_name(step) in _FLOAT_STEPS:
            raise ExportError(
                f'the test pipeline has a {step_name(step)} step; normalization is baked in from '
                'data_preprocessor only, so move it there'
            )


def data_order(steps: Sequence[Mapping[str, Any]], dataset_type: str = '') -> Optional[str]:
    """Channel order of color images after the test pipeline, if known.

    mmcv decodes to BGR whatever the backend, unless ``channel_order`` says otherwise.
    """
    order = _ARRAY_ORDER.get(dataset_type.split('.')[-1])
    for step in steps:
        name = step_name(step)
        if name == 'LoadImageFromFile':
            order = str(step.get('channel_order', 'bgr')).upper()
        swaps = (name in ('ToPIL', 'NumpyToPIL') and step.get('to_rgb')) or (
            name in ('ToNumpy', 'PILToNumpy') and step.get('to_bgr')
        )
        if swaps and order is not None:
            order = _SWAP.get(order)
    return order if order in _SWAP else None


def resized(steps: Sequence[Mapping[str, Any]], size: Optional[tuple[int, int]]) -> list[Any]:
    """The steps with one at their end that resizes to (H, W), if needed.

    It is torchvision's where images are PIL's or tensors by then.
    """
    if size is None or size == pipeline_size(steps):
        return [*steps]
    packs = [i for i, s in enumerate(steps) if step_name(s).startswith('Pack')]
    at = packs[0] if packs else len(steps)
    resize = (
        dict(type='Resize', scale=(size[1], size[0]))
        if _yields_arrays(steps[:at])
        else dict(type='torchvision/Resize', size=list(size))
    )
    return [*steps[:at], resize, *steps[at:]]


def _yields_arrays(steps: Sequence[Mapping[str, Any]]) -> bool:
    found = True
    for step in steps:
        name = step_name(step)
        if name in ('ToNumpy', 'PILToNumpy'):
            found = True
        elif name in _LEAVE_ARRAYS:
            found = False
    return found


class _Size(NamedTuple):
    """What is known of images after some steps.

    Attributes:
        size: (H, W), or None.
        least: of the shorter side, where it is known.
        varies: the step after which sizes differ; '' where none does.
    """

    size: Optional[tuple[int, int]] = None
    least: Optional[int] = None
    varies: str = ''


def pipeline_size(steps: Sequence[Mapping[str, Any]]) -> Optional[tuple[int, int]]:
    """(H, W) after a test pipeline, where its steps say it.

    None after a step that keeps the ratio of the sides, unless a crop follows that fits into every
    image.
    """
    return _after(steps).size


def varying_step(steps: Sequence[Mapping[str, Any]]) -> Optional[str]:
    """The step after which images of one data set differ in size."""
    return _after(steps).varies or None


def _after(steps: Sequence[Mapping[str, Any]]) -> _Size:
    known = _Size()
    for step in steps:
        known = _next(known, step)
    return known


def _next(known: _Size, step: Mapping[str, Any]) -> _Size:
    name, least = step_name(step), _ratio_kept(step)
    if least is not None:
        return _Size(None, least, name)
    size = _step_size(step)
    if size is None:
        return known
    if name == 'CenterCrop' and not (_is_torchvision(step) or step.get('auto_pad')):
        return _cropped(known, size)
    return _Size(size, min(size))


def _cropped(known: _Size, size: tuple[int, int]) -> _Size:
    """A crop of mmcv takes what there is of an image that is smaller."""
    if known.size is not None:
        fitting = (min(known.size[0], size[0]), min(known.size[1], size[1]))
        return _Size(fitting, min(fitting))
    if known.least is not None and known.least < max(size):
        return _Size(None, min(known.least, *size), 'CenterCrop')
    return _Size(size, min(size))


def _ratio_kept(step: Mapping[str, Any]) -> Optional[int]:
    """The shorter side after a step that keeps the ratio; 0 if unknown."""
    name, given = step_name(step), step.get('size', 0)
    if name == 'ResizeEdge':
        short = step.get('edge', 'short') == 'short'
        return int(step.get('scale') or 0) if short else 0
    if name != 'Resize':
        return None
    if _is_torchvision(step):
        return given if isinstance(given, int) else None
    return 0 if step.get('keep_ratio') else None


def _is_torchvision(step: Mapping[str, Any]) -> bool:
    return 'torchvision/' in type_name(step)


def _step_size(step: Mapping[str, Any]) -> Optional[tuple[int, int]]:
    name = step_name(step)
    if _is_torchvision(step):
        sizes = {'CenterCrop': 'size', 'Resize': 'size'}
        return _pair(step.get(sizes.get(name, '')))
    if name in ('CenterCrop', 'EfficientNetCenterCrop'):
        return _flipped(_pair(step.get('crop_size')))
    return _flipped(_pair(step.get('scale'))) if name == 'Resize' else None


def _pair(value: Any) -> Optional[tuple[int, int]]:
    if isinstance(value, int):
        return value, value
    if isinstance(value, (list, tuple)) and len(value) == 1:
        return _pair(value[0])
    if isinstance(value, (list, tuple)) and len(value) == 2:
        return int(value[0]), int(value[1])
    return None


def _flipped(pair: Optional[tuple[int, int]]) -> Optional[tuple[int, int]]:
    """mmcv states (W, H)."""
    return None if pair is None else (pair[1], pair[0])
