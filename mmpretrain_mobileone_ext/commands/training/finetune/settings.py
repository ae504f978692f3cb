"""Fit a recipe to an image folder: data, classes, weights, epochs."""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Callable, Optional

from mmengine.config import Config
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS

from ....errors import MobileOneExtError
from ....models import MobileOneBlock
from ....models.preprocessing import HEIC_SUFFIXES, step_name
from ....utils.config import in_scope
from ....utils.machine import untouched_rng
from ....utils.text import counted
from .folder import ImageFolder, image_list

SPLITS = ('train', 'val', 'test')
_LOADER = 'LoadImageFromFile'
#: Reads HEIC, and can keep what is decoded.
LOADER = 'mmpretrain_mobileone_ext.LoadImageFromFile'

_COUNT, _RANKS = 'num_classes', 'topk'
_RANK_OF_SCORE = re.compile(r'(.*/top)(\d+)')
_SWITCH, _LAST_STAGE = 'DeploySwitchHook', 'after_train'
Steps = Sequence[Mapping[str, Any]]


def finetune_config(
    recipe: Config,
    folder: ImageFolder,
    work_dir: Path,
    *,
    weights: Optional[str] = None,
    frozen_stages: Optional[int] = None,
    epochs: Optional[int] = None,
) -> Config:
    """The recipe's config, made to train on ``folder``.

    Writes ``train.txt`` and ``test.txt`` into ``work_dir``: the images with their labels, so that
    every later run sees the same split. The run ends with the folded file: ``DeploySwitchHook`` is
    added where the recipe has none, and taken out where the network has nothing to fold.

    Args:
        recipe: any classification config with an image backbone; it is left as it is.
        folder: the data.
        work_dir: existing folder.
        weights: checkpoint to start from, path or URL; the recipe's ``load_from`` when None. Its
            head may have other classes.
        frozen_stages: of the backbone; the recipe's when None.
        epochs: the recipe's when None; schedules are stretched with it.

    Raises:
        MobileOneExtError: the recipe lacks what has to be set.
    """
    cfg = copy.deepcopy(recipe)
    check_recipe(cfg)
    set_data(cfg, folder, work_dir)
    set_classes(cfg, len(folder.classes))
    _set_switch(cfg, has_blocks(cfg))
    if weights is not None:
        cfg.load_from = weights
    if frozen_stages is not None:
        cfg.model.backbone.frozen_stages = frozen_stages
    if epochs is not None:
        set_epochs(cfg, epochs)
    return cfg


def check_recipe(cfg: Config) -> None:
    """Refuse a config that no image folder can be fine-tuned with.

    Raises:
        MobileOneExtError: names what it lacks, or what does not fit.
    """
    lacking = [
        f'{split}_{part}'
        for split in SPLITS
        for part in ('dataloader', 'evaluator')
        if (split, part) != ('train', 'evaluator') and not cfg.get(f'{split}_{part}')
    ]
    lacking += [] if cfg.get('train_cfg') else ['train_cfg']
    model = cfg.get('model') or {}
    lacking += [
        f'model.{part}' for part in ('backbone', 'head') if not isinstance(model.get(part), dict)
    ]
    if lacking:
        raise MobileOneExtError(
            f'{cfg.filename}: no recipe to fine-tune with, it lacks {", ".join(lacking)}'
        )
    check_data(cfg)
    saving = (cfg.get('default_hooks') or {}).get('checkpoint', {})
    if saving is None or saving.get('save_last') is False:
        raise MobileOneExtError(
            f'{cfg.filename}: default_hooks.checkpoint does not save the '
            'last checkpoint, which is the one to export'
        )


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

    Writes ``train.txt`` and ``test.txt`` into ``work_dir``. A data set that is one of several
    (``ConcatDataset``) takes the place of all, if they are read alike.

    Raises:
        MobileOneExtError: as :func:`check_data`.
    """
    reads_heic = _has_heic(p for p, _ in (*folder.train, *folder.test))
    lists = {name: (work_dir / f'{name}.txt').resolve() for name in ('train', 'test')}
    for name, path in lists.items():
        path.write_bytes(image_list(getattr(folder, name)))
    for split in SPLITS:
        ann_file = str(lists['train' if split == 'train' else 'test'])
        described = dict(
            type='CustomDataset',
            data_root='',
            data_prefix=str(folder.root.resolve()),
            ann_file=ann_file,
            metainfo=dict(classes=list(folder.classes)),
        )
        cfg[f'{split}_dataloader'].dataset = _replaced(
            cfg, split, partial(_with_steps, described, reads_heic)
        )


def _with_steps(described: dict, reads_heic: bool, steps: Steps) -> dict:
    return dict(described, pipeline=_reading(steps, reads_heic))


def _has_heic(paths: Iterable[str]) -> bool:
    return any(p.lower().endswith(HEIC_SUFFIXES) for p in paths)


def _reading(steps: Steps, reads_heic: bool) -> Steps:
    if not reads_heic:
        return steps
    return [dict(s, type=LOADER) if step_name(s) == _LOADER else s for s in steps]


def _replaced(cfg: Config, split: str, new: Callable[[Steps], dict]) -> dict:
    """A split's data set with ``new(pipeline)`` inside its wrappers."""
    try:
        return _inner_replaced(cfg[f'{split}_dataloader'].get('dataset'), new)
    except MobileOneExtError as error:
        raise MobileOneExtError(f'{cfg.filename}: {split}_dataloader: {error}') from None


def _inner_replaced(dataset: Any, new: Callable[[Steps], dict]) -> dict:
    if not isinstance(dataset, Mapping):
        raise MobileOneExtError('it has no data set')
    name = step_name(dataset)
    if name == 'KFoldDataset':
        raise MobileOneExtError(
            f'{name} splits the data again, which the folder has split; take it out of the recipe'
        )
    if dataset.get('datasets'):
        parts = [_inner_replaced(d, new) for d in dataset['datasets']]
        if any(part != parts[0] for part in parts):
            raise MobileOneExtError(
                f'the parts of {name} are read in different ways, and the '
                'folder is one data set; leave one of them'
            )
        return parts[0]
    if 'dataset' in dataset:
        return dict(dataset, dataset=_inner_replaced(dataset['dataset'], new))
    return new(_checked(dataset.get('pipeline'), name))


def _checked(steps: Any, name: str) -> Steps:
    if not steps or step_name(steps[0]) != _LOADER:
        first = f'begins with {step_name(steps[0])}' if steps else 'is empty'
        raise MobileOneExtError(
            f'the pipeline of {name} {first}, where a folder of images needs {_LOADER}'
        )
    return steps


def set_classes(cfg: Config, count: int) -> None:
    """Set numbers of classes and drop ranks that so few classes lack.

    Args:
        cfg: changed: its model, evaluators, and the scores that hooks and schedules watch.
        count: of classes.
    """
    _set_where_taken(cfg, count)
    for key in ('model', 'data_preprocessor', 'val_evaluator', 'test_evaluator'):
        _fit(cfg.get(key), count)
    for key in ('default_hooks', 'custom_hooks', 'param_scheduler'):
        _fit_watched(cfg.get(key), count)


def _set_where_taken(cfg: Config, count: int) -> None:
    """State the number where a recipe leaves it to the default."""
    head = cfg.model.head
    with in_scope(cfg):
        kind = head.get('type')
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if kind is not None and _COUNT in inspect.signature(kind).parameters:
        head[_COUNT] = count
    for holder in (cfg, cfg.model):
        given = holder.get('data_preprocessor')
        name = ClsDataPreprocessor.__name__
        if isinstance(given, dict) and str(given.get('type', name)).endswith(name):
            given[_COUNT] = count


def _fit(node: Any, count: int) -> None:
    for part in _dicts(node):
        known = part.get(_COUNT)
        # A backbone without a classifier has -1 or 0.
        if isinstance(known, int) and known > 0:
            part[_COUNT] = count
        if isinstance(part.get(_RANKS), (int, list, tuple)):
            part[_RANKS] = _ranks(part[_RANKS], count)


def _ranks(given: Any, count: int) -> tuple[int, ...]:
    ranks = [given] if isinstance(given, int) else given
    return tuple(k for k in ranks if k <= count) or (1,)


def _fit_watched(node: Any, count: int) -> None:
    """A score that is not there any more cannot choose a checkpoint."""
    for part in _dicts(node):
        for key in ('save_best', 'monitor'):
            found = _RANK_OF_SCORE.fullmatch(str(part.get(key)))
            if found and int(found[2]) > count:
                part[key] = f'{found[1]}1'


def _dicts(node: Any) -> list[Any]:
    """All dicts in a config, outer ones first."""
    if isinstance(node, Mapping):
        return [node, *_dicts(list(node.values()))]
    if isinstance(node, (list, tuple)):
        return [part for value in node for part in _dicts(value)]
    return []


def length(cfg: Config) -> str:
    """How long a config trains, in words."""
    epochs = cfg.train_cfg.get('max_epochs')
    if epochs is None:
        return counted(cfg.train_cfg.get('max_iters'), 'iteration')
    return counted(epochs, 'epoch')


def has_switch(cfg: Config) -> bool:
    """Whether a run of a config writes the folded file."""
    return any(_folds(hook) for hook in _switches(cfg))


def _switches(cfg: Config) -> list[Any]:
    hooks = [*(cfg.get('custom_hooks') or ()), *(cfg.get('default_hooks') or {}).values()]
    return [h for h in hooks if h and step_name(h) == _SWITCH]


def _folds(hook: Any) -> bool:
    return _LAST_STAGE in hook.get('when', (_LAST_STAGE,))


def has_blocks(cfg: Config) -> bool:
    """Whether a config's network has blocks to fold; True where it cannot be built.

    The rehearsal says what is wrong with such a one.
    """
    with untouched_rng(), in_scope(cfg):
        try:
            model = MODELS.build(copy.deepcopy(cfg.model))
        # Networks of any package are built here.
        except Exception:
            return True
    return any(isinstance(m, MobileOneBlock) for m in model.modules())


def _set_switch(cfg: Config, folds: bool) -> None:
    found = _switches(cfg)
    if not folds:
        cfg.custom_hooks = [
            hook for hook in cfg.get('custom_hooks') or () if step_name(hook) != _SWITCH
        ]
    elif not found:
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or ()),
            dict(type=_SWITCH, when=('val', _LAST_STAGE)),
        ]
    elif not _folds(found[0]):
        found[0]['when'] = (*found[0]['when'], _LAST_STAGE)


def set_epochs(cfg: Config, epochs: int) -> None:
    """Train so many epochs; schedules are stretched with them.

    Raises:
        MobileOneExtError: fewer than one, or a recipe that counts iterations.
    """
    before = cfg.train_cfg.get('max_epochs')
    if before is None or epochs < 1:
        raise MobileOneExtError(
            f'epochs={epochs} must be 1 or more'
            if before
            else f'{cfg.filename} counts in iterations, not in epochs; give '
            '--cfg-options train_cfg.max_iters=N'
        )
    cfg.train_cfg.max_epochs = epochs
    schedules = cfg.get('param_scheduler') or []
    schedules = [schedules] if isinstance(schedules, dict) else schedules
    for schedule in schedules:
        _stretch(schedule, epochs, before)
    # What has no epoch left goes: the warm-up may last all of a short run.
    cfg.param_scheduler = [s for s in schedules if s.get('begin', 0) < s.get('end', epochs)]


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
