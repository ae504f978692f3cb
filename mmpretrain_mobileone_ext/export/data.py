"""Images for the verification: the config's test split, or noise."""

from __future__ import annotations

import copy
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from torch import Tensor

from ..checkpoints.class_names import ClassNames, data_set_names, names_of
from ..errors import ExportError
from ..models.preprocessing import (
    check_pipeline,
    data_order,
    pipeline_size,
    resized,
    type_name,
    varying_step,
)
from ..utils.config import in_scope, unwrapped
from ..utils.machine import untouched_rng
from ..utils.text import one_line

_CHUNK = 32
_NOISE_IMAGES = 16


@dataclass(frozen=True)
class TestSplit:
    """The test split as the config describes it, built or not.

    Attributes:
        steps: test pipeline, as plain dicts; empty where there is none.
        dataset: None when nothing may be read or a module is exported.
        names: every list of class names that the data set has, its own before those of its folders;
            its class's when it is not built.
        data_order: 'RGB' or 'BGR', the order after the pipeline, or None.
    """

    __test__ = False  # not a test case, whatever pytest thinks of its name

    steps: tuple[dict, ...] = ()
    dataset: Optional[Any] = field(default=None, repr=False)
    names: tuple[ClassNames, ...] = ()
    data_order: Optional[str] = 'BGR'

    @property
    def size(self) -> Optional[tuple[int, int]]:
        """(H, W) the steps state, or None."""
        return pipeline_size(self.steps)

    @property
    def classes(self) -> Optional[tuple[str, ...]]:
        """Class names of the data set, or None."""
        return self.names[0].names if self.names else None

    @property
    def labels(self) -> list[tuple[str, tuple[str, ...]]]:
        """All of ``names``, with where they are from in a word or two."""
        return [
            ('folders of the test split' if i else 'data set', n.names)
            for i, n in enumerate(self.names)
        ]

    @property
    def no_size(self) -> str:
        """Why the steps do not state a size, in words."""
        step = varying_step(self.steps)
        if step is None:
            return 'the image size is not in the test pipeline'
        return (
            f'after {step}, the last step of the test pipeline that '
            'changes the size, it varies from image to image'
        )


def open_split(
    cfg: Optional[Config], image_size: Optional[tuple[int, int]], read: bool
) -> TestSplit:
    """Describe the test split, and build its data set where ``read``.

    Args:
        cfg: None for a module without a config; mmpretrain's convention, BGR data, then holds.
        image_size: where it differs from the pipeline's, a step that resizes to it is added at the
            end.
        read: build the data set.

    Raises:
        ExportError: there is no test split, or it cannot be built.
    """
    if cfg is None:
        return TestSplit()
    loader = cfg.get('test_dataloader') or {}
    described = copy.deepcopy(loader.get('dataset'))
    if described is None and read:
        raise ExportError(
            'the config has no test_dataloader; give --verify-data none and the class labels'
        )
    parts = unwrapped(described or {})
    for part in parts:
        part['pipeline'] = _pipeline(part, cfg, image_size)
    order = _common_order(parts)
    dataset = _built(described, cfg) if read else None
    return TestSplit(
        steps=tuple(parts[0]['pipeline']),
        dataset=dataset,
        names=_names(parts[0], dataset),
        data_order=order,
    )


def _pipeline(part: Any, cfg: Config, size: Optional[tuple[int, int]]) -> list[dict]:
    steps = [dict(step) for step in part.get('pipeline') or cfg.get('test_pipeline') or []]
    check_pipeline(steps)
    return resized(steps, size)


def _common_order(parts: Sequence[Any]) -> Optional[str]:
    """'RGB' or 'BGR' after the pipeline, None where it is not known.

    Raises:
        ExportError: data sets of one split disagree.
    """
    orders = [data_order(part['pipeline'], type_name(part)) for part in parts]
    if len(set(orders)) > 1:
        shown = ', '.join(
            f'{type_name(part)}: {order or "unknown"}' for part, order in zip(parts, orders)
        )
        raise ExportError(
            f'the data sets of the test split yield different orders of channels ({shown}); give '
            'all the same pipeline'
        )
    return orders[0]


def _built(described: Any, cfg: Config) -> Any:
    try:
        with untouched_rng(), in_scope(cfg):
            dataset = DATASETS.build(described)
            if hasattr(dataset, 'full_init'):
                dataset.full_init()
            count = len(dataset)
    # Readers of any data set in any package run here.
    except Exception as error:
        raise ExportError(
            f'the test split of the config cannot be read ({one_line(error)}); give --verify-data '
            'none to do without it'
        ) from error
    if count == 0:
        raise ExportError(
            'the test split of the config is empty; give --verify-data none to do without it'
        )
    return dataset


def _names(described: Any, dataset: Any) -> tuple[ClassNames, ...]:
    if dataset is not None:
        return tuple(data_set_names(dataset, 'the test split'))
    own = (described.get('metainfo') or {}).get('classes')
    known = (
        DATASETS.get(described.get('type') or '')
        if isinstance(described.get('type'), str)
        else None
    )
    meta = getattr(known, 'METAINFO', None) or {}
    found = names_of(own or described.get('classes') or meta.get('classes'))
    return (ClassNames(found, 'the data set'),) if found else ()


@dataclass(frozen=True)
class Images:
    """Images to compare on.

    Attributes:
        origin: in words, e.g. '100 images of the test split'.
        indices: positions in ``split``, or None for noise.
        shape: (1, C, H, W).
    """

    origin: str
    shape: tuple[int, int, int, int]
    split: Optional[TestSplit] = None
    indices: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.indices) if self.split else _NOISE_IMAGES

    def every_other(self) -> Images:
        """Half of the images of a split, spread over it.

        Raises:
            ExportError: they are noise, or fewer than two.
        """
        if self.split is None or len(self.indices) < 2:
            raise ExportError(f'{self.origin} cannot be halved')
        half = self.indices[::2]
        return replace(self, indices=half, origin=f'every other one of {self.origin}')

    def file_name(self, index: int) -> str:
        """Of the image at a position in the split; '' where it comes from no file."""
        read = getattr(getattr(self.split, 'dataset', None), 'get_data_info', None)
        info = read(index) if read else {}
        return os.path.basename(str(info.get('img_path') or ''))

    def chunks(self) -> Iterator[tuple[Tensor, Optional[Tensor]]]:
        """Yield (N, C, H, W) uint8 in data order, and labels (N,) or None.

        Raises:
            ExportError: an image cannot be read or has another shape.
        """
        if self.split is None:
            yield _noise(self.shape), None
            return
        for start in range(0, len(self.indices), _CHUNK):
            items = [self._item(i) for i in self.indices[start : start + _CHUNK]]
            images = torch.stack([image for image, _ in items])
            labels = [label for _, label in items if label is not None]
            yield images, (torch.tensor(labels) if len(labels) == len(items) else None)

    def _item(self, index: int) -> tuple[Tensor, Optional[int]]:
        image, label = read_sample(self.split, index)
        if tuple(image.shape) != self.shape[1:]:
            raise ExportError(
                f'image {index} of the test split is {tuple(image.shape)} (C, H, W) after the '
                f'pipeline, but the program takes {self.shape[1:]}; add a step that fixes the '
                'size or give --image-size'
            )
        return image, label


def choose_images(
    split: TestSplit, verify_data: Union[int, str], shape: tuple[int, int, int, int]
) -> Images:
    """The images that 'test', 'none' or a number N mean.

    Raises:
        ExportError: 'test' for a module, which has no data set.
    """
    if split.dataset is None:
        if verify_data == 'test':
            raise ExportError(
                "verify_data='test' needs a config with a test split; a module has none"
            )
        return Images(f'{_NOISE_IMAGES} images of seeded noise', shape)
    total = len(split.dataset)
    count = total if verify_data == 'test' else min(int(verify_data), total)
    indices = tuple(i * total // count for i in range(count))
    which = 'all' if count == total else f'{count} of'
    return Images(f'{which} {total} images of the test split', shape, split, indices)


def read_sample(split: Any, index: int) -> tuple[Tensor, Optional[int]]:
    """One image (C, H, W), uint8 in data order, and its single label.

    Raises:
        ExportError: it cannot be read, or is no image of 8-bit pixels.
    """
    try:
        with untouched_rng():
            packed = split.dataset[index]
        image, sample = packed['inputs'], packed.get('data_samples')
    # Readers and transforms of any data set run here.
    except Exception as error:
        raise ExportError(
            f'image {index} of the test split cannot be read ({one_line(error)})'
        ) from error
    if not isinstance(image, Tensor) or image.dim() != 3 or image.dtype != torch.uint8:
        kind = getattr(image, 'dtype', type(image).__name__)
        raise ExportError(
            f'the test pipeline yields {tuple(getattr(image, "shape", ()))} {kind}; (C, H, W) of '
            'uint8 pixels is needed, as a phone has them'
        )
    label = sample.get('gt_label') if sample is not None else None
    if not isinstance(label, Tensor) or label.numel() != 1:
        return image, None
    return image, int(label)


def _noise(shape: tuple[int, int, int, int]) -> Tensor:
    """Blocks of 1 to 32 pixels: fine noise alone looks the same to a net."""
    generator = torch.Generator().manual_seed(0)
    images = []
    for i in range(_NOISE_IMAGES):
        block = 2 ** (i % 6)
        small = [-(-side // block) for side in shape[2:]]
        image = torch.randint(0, 256, (shape[1], *small), generator=generator, dtype=torch.uint8)
        image = image.repeat_interleave(block, 1).repeat_interleave(block, 2)
        images.append(image[:, : shape[2], : shape[3]])
    return torch.stack(images)
