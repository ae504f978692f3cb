"""Feature extractors: what a backbone returns, without neck and head.

They serve detectors and segmenters of OpenMMLab as they serve classifiers:
whatever has a ``backbone``, or is one.
"""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Optional

import torch
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from mmpretrain.models.utils import ClsDataPreprocessor
from torch import Tensor, nn

from ..errors import ExportError
from .export_model import Prepared, prepare_net
from .export_source import backbone_of, one_line
from .preprocess import Preprocessing, read_preprocessing

Shape = tuple[int, int, int, int]


@dataclass(frozen=True)
class FeatureMap:
    """One output of a feature extractor.

    Attributes:
        name: ``feature_<index>``, the index as in ``out_indices``.
        shape: (C, H, W) for an image of the default size.
    """
    name: str
    shape: tuple[int, ...]


def feature_maps(model: nn.Module, shape: Shape) -> tuple[FeatureMap, ...]:
    """The outputs for images of ``shape`` (N, C, H, W).

    Raises:
        ExportError: the backbone does not run on them, or returns something
            else than one map (N, C, H, W) for each of its ``out_indices``.
    """
    backbone = backbone_of(model)
    try:
        with torch.no_grad():
            found = maps(backbone, torch.zeros(shape))
    except ExportError:
        raise
    # Forward functions of any network run here.
    except Exception as error:
        raise ExportError(
            f'the backbone does not run on images {shape} (N, C, H, W): '
            f'{one_line(error)}') from error
    return tuple(
        FeatureMap(f'feature_{index}', tuple(value.shape[1:]))
        for index, value in zip(_indices(backbone, len(found)), found))


def maps(backbone: nn.Module, x: Tensor) -> tuple[Tensor, ...]:
    """Feature maps (N, C, H, W) of normalized images (N, C, H, W).

    Raises:
        ExportError: the backbone returns something else.
    """
    found = backbone(x)
    values = (found, ) if isinstance(found, Tensor) else found
    if not isinstance(values, (list, tuple)) or not values or not all(
            isinstance(v, Tensor) and v.dim() == 4 for v in values):
        raise ExportError(
            f'{type(backbone).__name__} returns {_kind(found)}; a feature '
            'extractor needs maps (N, C, H, W), in a sequence or alone')
    return tuple(values)


def _kind(value: Any) -> str:
    if isinstance(value, Tensor):
        return str(tuple(value.shape))
    if isinstance(value, (list, tuple)):
        return f'[{", ".join(_kind(v) for v in value)}]'
    return type(value).__name__


def _indices(backbone: nn.Module, count: int) -> list[int]:
    """Stages of the outputs, which backbones return in stage order."""
    given: Any = getattr(backbone, 'out_indices', None)
    if given is None:
        return list(range(count))
    indices = {int(i) for i in ([given] if isinstance(given, int) else given)}
    stages = _count_stages(backbone)
    if stages is not None:
        indices = {i + stages if i < 0 else i for i in indices}
    if len(indices) != count or min(indices) < 0:
        raise ExportError(
            f'{type(backbone).__name__} has out_indices={given!r} and '
            f'returns {count} feature maps; one for each index, 0 or more, '
            'is needed to name them')
    return sorted(indices)


def _count_stages(backbone: nn.Module) -> Optional[int]:
    stages: Any = getattr(backbone, 'num_stages', None)
    if isinstance(stages, int):
        return stages
    stages = getattr(backbone, 'stages', None)
    return len(stages) if hasattr(stages, '__len__') else None


def prepare_features(model: nn.Module, pre: Preprocessing) -> Prepared:
    """Fold branches and 1/std into a copy of the backbone of ``model``.

    Args:
        model: classifier, detector, segmenter or bare backbone; not changed.
        pre: what :func:`feature_preprocessing` gives.

    Raises:
        ExportError: as :func:`feature_maps`.
    """
    names = tuple(m.name for m in feature_maps(model, pre.shape))
    prepared = prepare_net(backbone_of(model), pre, maps)
    return replace(prepared, features=names, run=maps)


@torch.no_grad()
def reference_features(
        model: nn.Module, batch: Tensor,
        dtype: torch.dtype = torch.float32) -> tuple[Tensor, ...]:
    """What the program must reproduce, by the model's own preprocessing.

    Args:
        model: as loaded, in eval mode; without a ``data_preprocessor`` the
            pixels go in as they are.
        batch: (N, C, H, W), in the order the data has.
        dtype: of the model's weights.

    Returns:
        Maps (N, C, H, W), in ``dtype``, one for each output name.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None:
        return maps(backbone_of(model), batch.to(dtype))
    # mmsegmentation's takes one image at a time outside of training.
    images = [
        preprocessor({'inputs': batch[i:i + 1]}, False)['inputs'].to(dtype)
        for i in range(len(batch))
    ]
    return maps(backbone_of(model), torch.cat(images))


def feature_network(
    model: nn.Module,
    names: Sequence[str],
    dtype: torch.dtype = torch.float32
) -> Callable[[Tensor], dict[str, Tensor]]:
    """:func:`reference_features` under the names of the outputs.

    Args:
        names: ``Prepared.features``.
        dtype: of the model's weights.
    """

    def network(batch: Tensor) -> dict[str, Tensor]:
        return dict(zip(names, reference_features(model, batch, dtype)))

    return network


def feature_preprocessing(model: nn.Module, channels: int,
                          size: tuple[int, int],
                          data_order: Optional[str]) -> Preprocessing:
    """What is baked in before a backbone, by the ``data_preprocessor``.

    Args:
        model: without one, or with mmengine's plain one, nothing is baked
            in: the program takes what the backbone takes.
        channels, size: C and (H, W) of the images.
        data_order: 'RGB' or 'BGR', None where it is not known. OpenMMLab
            loads BGR: that is assumed for detectors and segmenters.

    Raises:
        ExportError: something in it cannot be baked into a program.
    """
    given = getattr(model, 'data_preprocessor', None)
    if isinstance(given, ClsDataPreprocessor):
        return read_preprocessing(given, channels, size, data_order)
    if given is None or type(given) is BaseDataPreprocessor:
        plain = ClsDataPreprocessor(to_rgb=False)
        return read_preprocessing(plain, channels, size, data_order)
    alike = _as_classifiers(given, size)
    return read_preprocessing(alike, channels, size, data_order or 'BGR')


def _as_classifiers(given: Any, size: tuple[int, int]) -> nn.Module:
    """A detector's or segmenter's preprocessing, as a classifier has it."""
    # mmsegmentation's is no ImgDataPreprocessor, but has the same parts.
    flips = getattr(given, '_channel_conversion',
                    getattr(given, 'channel_conversion', None))
    if not isinstance(given, BaseDataPreprocessor) or flips is None or \
            not hasattr(given, '_enable_normalize'):
        raise ExportError(
            f'data_preprocessor is a {type(given).__name__}; allowed: '
            "mmengine's ImgDataPreprocessor and those of mmpretrain, "
            'mmdetection and mmsegmentation')
    divisor = getattr(given, 'pad_size_divisor', 1)
    if not isinstance(given, ImgDataPreprocessor):
        padding = getattr(given, 'test_cfg', None) or {}
        _check_fixed_size(padding.get('size'), size)
        divisor = padding.get('size_divisor') or 1
    values: dict[str, Any] = {}
    if given._enable_normalize:
        values = dict(mean=given.mean.flatten().tolist(),
                      std=given.std.flatten().tolist())
    return ClsDataPreprocessor(
        to_rgb=bool(flips), pad_size_divisor=divisor, **values)


def _check_fixed_size(fixed: Any, size: tuple[int, int]) -> None:
    if fixed is not None and tuple(fixed) != tuple(size):
        raise ExportError(
            f'data_preprocessor pads images to {tuple(fixed)} (H, W), but '
            f'the program takes {size}; padding cannot be baked in')
