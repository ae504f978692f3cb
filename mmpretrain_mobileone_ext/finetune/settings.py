"""Fit a recipe to an image folder: data, classes, weights, epochs."""
from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, Optional

from mmengine.config import Config

from ..coreml.preprocess import step_name
from ..errors import MobileOneExtError
from .fit_classes import set_classes
from .fit_data import SPLITS, check_data, set_data
from .folder import ImageFolder

_SWITCH, _LAST_STAGE = 'DeploySwitchHook', 'after_train'


def finetune_config(recipe: Config, folder: ImageFolder, work_dir: Path, *,
                    weights: Optional[str] = None,
                    frozen_stages: Optional[int] = None,
                    epochs: Optional[int] = None) -> Config:
    """The recipe's config, made to train on ``folder``.

    Writes ``train.txt`` and ``test.txt`` into ``work_dir``: the images with
    their labels, so that every later run sees the same split. The run ends
    with the folded file: ``DeploySwitchHook`` is added where the recipe has
    none.

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
    check_recipe(cfg)
    set_data(cfg, folder, work_dir)
    set_classes(cfg, len(folder.classes))
    _set_switch(cfg)
    if weights is not None:
        cfg.load_from = weights
    if frozen_stages is not None:
        cfg.model.backbone.frozen_stages = frozen_stages
    if epochs is not None:
        _set_epochs(cfg, epochs)
    return cfg


def check_recipe(cfg: Config) -> None:
    """Refuse a config that no image folder can be fine-tuned with.

    Raises:
        MobileOneExtError: names what it lacks, or what does not fit.
    """
    lacking = [f'{split}_{part}' for split in SPLITS
               for part in ('dataloader', 'evaluator')
               if (split, part) != ('train', 'evaluator')
               and not cfg.get(f'{split}_{part}')]
    lacking += [] if cfg.get('train_cfg') else ['train_cfg']
    model = cfg.get('model') or {}
    lacking += [f'model.{part}' for part in ('backbone', 'head')
                if not isinstance(model.get(part), dict)]
    if lacking:
        raise MobileOneExtError(f'{cfg.filename}: no recipe to fine-tune '
                                f'with, it lacks {", ".join(lacking)}')
    check_data(cfg)
    saving = (cfg.get('default_hooks') or {}).get('checkpoint', {})
    if saving is None or saving.get('save_last') is False:
        raise MobileOneExtError(
            f'{cfg.filename}: default_hooks.checkpoint does not save the '
            'last checkpoint, which is the one to export')


def length(cfg: Config) -> str:
    """How long a config trains, in words."""
    epochs = cfg.train_cfg.get('max_epochs')
    if epochs is None:
        return f'{cfg.train_cfg.get("max_iters")} iterations'
    return f'{epochs} epochs'


def has_switch(cfg: Config) -> bool:
    """Whether a run of a config writes the folded file."""
    return any(_folds(hook) for hook in _switches(cfg))


def _switches(cfg: Config) -> list[Any]:
    hooks = [*(cfg.get('custom_hooks') or ()),
             *(cfg.get('default_hooks') or {}).values()]
    return [h for h in hooks if h and step_name(h) == _SWITCH]


def _folds(hook: Any) -> bool:
    return _LAST_STAGE in hook.get('when', (_LAST_STAGE, ))


def _set_switch(cfg: Config) -> None:
    found = _switches(cfg)
    if not found:
        cfg.custom_hooks = [
            *(cfg.get('custom_hooks') or ()),
            dict(type=_SWITCH, when=('val', _LAST_STAGE))]
    elif not _folds(found[0]):
        found[0]['when'] = (*found[0]['when'], _LAST_STAGE)


def _set_epochs(cfg: Config, epochs: int) -> None:
    before = cfg.train_cfg.get('max_epochs')
    if before is None or epochs < 1:
        raise MobileOneExtError(
            f'epochs={epochs} must be 1 or more' if before else
            f'{cfg.filename} counts in iterations, not in epochs; give '
            '--cfg-options train_cfg.max_iters=N')
    cfg.train_cfg.max_epochs = epochs
    schedules = cfg.get('param_scheduler') or []
    schedules = [schedules] if isinstance(schedules, dict) else schedules
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
