"""Let the data loaders of a recipe read an image folder."""
from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable

from mmengine.config import Config

from ..coreml.preprocess import step_name
from ..engine.heic_loading import HEIC_SUFFIXES
from ..errors import MobileOneExtError
from .folder import ImageFolder
from .image_list import image_list

SPLITS = ('train', 'val', 'test')
_LOADER = 'LoadImageFromFile'
_LOADER_HEIC = 'mmpretrain_mobileone_ext.LoadImageFromFile'

Steps = Sequence[Mapping[str, Any]]


def check_data(recipe: Config) -> None:
    """Refuse data sets that cannot be replaced by an image folder.

    Raises:
        MobileOneExtError: names the loader and what is wrong with it.
    """
    for split in SPLITS:
        _replaced(recipe, split, lambda steps: dict(pipeline=steps))


def loading_steps(recipe: Config, paths: Iterable[str]) -> list[dict]:
    """The different steps with which the pipelines begin, for ``paths``.

    Raises:
        MobileOneExtError: as :func:`check_data`.
    """
    reads_heic = _has_heic(paths)
    found: list[dict] = []

    def note(steps: Steps) -> dict:
        first = dict(_reading(steps, reads_heic)[0])
        found.extend([first] if first not in found else [])
        return {}

    for split in SPLITS:
        _replaced(recipe, split, note)
    return found


def set_data(cfg: Config, folder: ImageFolder, work_dir: Path) -> None:
    """Replace the data sets; wrappers such as ``RepeatDataset`` stay.

    Writes ``train.txt`` and ``test.txt`` into ``work_dir``. A data set that
    is one of several (``ConcatDataset``) takes the place of all, if they are
    read alike.

    Raises:
        MobileOneExtError: as :func:`check_data`.
    """
    reads_heic = _has_heic(p for p, _ in (*folder.train, *folder.test))
    lists = {name: (work_dir / f'{name}.txt').resolve()
             for name in ('train', 'test')}
    for name, path in lists.items():
        path.write_bytes(image_list(getattr(folder, name)))
    for split in SPLITS:
        ann_file = str(lists['train' if split == 'train' else 'test'])
        described = dict(
            type='CustomDataset',
            data_root='',
            data_prefix=str(folder.root.resolve()),
            ann_file=ann_file,
            metainfo=dict(classes=list(folder.classes)))
        cfg[f'{split}_dataloader'].dataset = _replaced(
            cfg, split, partial(_with_steps, described, reads_heic))


def _with_steps(described: dict, reads_heic: bool, steps: Steps) -> dict:
    return dict(described, pipeline=_reading(steps, reads_heic))


def _has_heic(paths: Iterable[str]) -> bool:
    return any(p.lower().endswith(HEIC_SUFFIXES) for p in paths)


def _reading(steps: Steps, reads_heic: bool) -> Steps:
    if not reads_heic:
        return steps
    return [dict(s, type=_LOADER_HEIC) if step_name(s) == _LOADER else s
            for s in steps]


def _replaced(cfg: Config, split: str,
              new: Callable[[Steps], dict]) -> dict:
    """A split's data set with ``new(pipeline)`` inside its wrappers."""
    try:
        return _inner_replaced(cfg[f'{split}_dataloader'].get('dataset'), new)
    except MobileOneExtError as error:
        raise MobileOneExtError(f'{cfg.filename}: {split}_dataloader: '
                                f'{error}') from None


def _inner_replaced(dataset: Any, new: Callable[[Steps], dict]) -> dict:
    if not isinstance(dataset, Mapping):
        raise MobileOneExtError('it has no data set')
    name = step_name(dataset)
    if name == 'KFoldDataset':
        raise MobileOneExtError(
            f'{name} splits the data again, which the folder has split; '
            'take it out of the recipe')
    if dataset.get('datasets'):
        parts = [_inner_replaced(d, new) for d in dataset['datasets']]
        if any(part != parts[0] for part in parts):
            raise MobileOneExtError(
                f'the parts of {name} are read in different ways, and the '
                'folder is one data set; leave one of them')
        return parts[0]
    if 'dataset' in dataset:
        return dict(dataset, dataset=_inner_replaced(dataset['dataset'], new))
    return new(_checked(dataset.get('pipeline'), name))


def _checked(steps: Any, name: str) -> Steps:
    if not steps or step_name(steps[0]) != _LOADER:
        first = f'begins with {step_name(steps[0])}' if steps else 'is empty'
        raise MobileOneExtError(
            f'the pipeline of {name} {first}, where a folder of images needs '
            f'{_LOADER}')
    return steps
