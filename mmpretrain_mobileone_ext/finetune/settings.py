"""Fit a recipe to an image folder: data, classes, weights, epochs."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from ..errors import MobileOneExtError
from .folder import ImageFolder
from .image_list import image_list

_SPLITS = ('train', 'val', 'test')


def finetune_config(recipe: Config, folder: ImageFolder, work_dir: Path, *,
                    weights: Optional[str] = None,
                    frozen_stages: Optional[int] = None,
                    epochs: Optional[int] = None) -> Config:
    """The recipe's config, made to train on ``folder``.

    Writes ``train.txt`` and ``test.txt`` into ``work_dir``: the images with
    their labels, so that every later run sees the same split.

    Args:
        recipe: any classification config with an image backbone; it is left
            as it is.
        folder: the data.
        work_dir: existing folder.
        weights: checkpoint to start from, path or URL; the recipe's
            ``load_from`` when None. Its head may have other classes.
        frozen_stages: of the backbone; the recipe's when None.
        epochs: the recipe's when None; schedules are stretched with it.

    Raises:
        MobileOneExtError: the recipe lacks what has to be set.
    """
    cfg = copy.deepcopy(recipe)
    _check(cfg)
    _set_data(cfg, folder, work_dir)
    _set_classes(cfg, len(folder.classes))
    if weights is not None:
        cfg.load_from = weights
    if frozen_stages is not None:
        cfg.model.backbone.frozen_stages = frozen_stages
    if epochs is not None:
        _set_epochs(cfg, epochs)
    return cfg


def _check(cfg: Config) -> None:
    lacking = [f'{s}_dataloader' for s in _SPLITS
               if not cfg.get(f'{s}_dataloader')]
    model = cfg.get('model') or {}
    lacking += [f'model.{part}' for part in ('backbone', 'head')
                if not isinstance(model.get(part), dict)]
    if lacking:
        raise MobileOneExtError(f'{cfg.filename}: no recipe to fine-tune '
                                f'with, it lacks {", ".join(lacking)}')


def _set_data(cfg: Config, folder: ImageFolder, work_dir: Path) -> None:
    lists = {name: (work_dir / f'{name}.txt').resolve()
             for name in ('train', 'test')}
    for name, path in lists.items():
        path.write_bytes(image_list(getattr(folder, name)))
    for split in _SPLITS:
        loader = cfg[f'{split}_dataloader']
        loader.dataset = dict(
            type='CustomDataset',
            data_root='',
            data_prefix=str(folder.root.resolve()),
            ann_file=str(lists['train' if split == 'train' else 'test']),
            metainfo=dict(classes=list(folder.classes)),
            pipeline=_pipeline(loader.dataset))


def _pipeline(dataset: Any) -> Any:
    while 'pipeline' not in dataset and 'dataset' in dataset:
        dataset = dataset['dataset']
    return dataset['pipeline']


def _set_classes(cfg: Config, count: int) -> None:
    cfg.model.head.num_classes = count
    for holder in (cfg, cfg.model):
        if isinstance(holder.get('data_preprocessor'), dict):
            holder['data_preprocessor']['num_classes'] = count
    scored = [cfg.model.head]
    for split in ('val', 'test'):
        given = cfg[f'{split}_evaluator']
        scored += given if isinstance(given, (list, tuple)) else [given]
    for part in scored:
        if 'topk' in part:
            ranks = part['topk']
            ranks = [ranks] if isinstance(ranks, int) else ranks
            part['topk'] = tuple(k for k in ranks if k <= count)


def _set_epochs(cfg: Config, epochs: int) -> None:
    before = cfg.train_cfg.get('max_epochs')
    if before is None or epochs < 1:
        raise MobileOneExtError(
            f'epochs={epochs} must be 1 or more' if before else
            f'{cfg.filename} does not count in epochs; set its train_cfg')
    cfg.train_cfg.max_epochs = epochs
    schedules = cfg.get('param_scheduler') or []
    schedules = schedules if isinstance(schedules, list) else [schedules]
    for schedule in schedules:
        _stretch(schedule, epochs, before)
    # What has no epoch left goes: the warm-up may last all of a short run.
    cfg.param_scheduler = [s for s in schedules
                           if s.get('begin', 0) < s.get('end', epochs)]


def _stretch(schedule: dict, epochs: int, before: int) -> None:
    if not schedule.get('by_epoch', True):
        return
    for key in ('begin', 'end', 'T_max', 'milestones'):
        value = schedule.get(key)
        if isinstance(value, (int, float)):
            schedule[key] = _scaled(value, epochs, before)
        elif value:
            schedule[key] = [_scaled(v, epochs, before) for v in value]


def _scaled(value: float, epochs: int, before: int) -> int:
    return 0 if value == 0 else max(1, round(value * epochs / before))
