"""Fit all that counts classes in a recipe: network, loss, scores."""
from __future__ import annotations

import inspect
import re
from collections.abc import Mapping
from typing import Any

from mmengine.config import Config
from mmpretrain.models.utils import ClsDataPreprocessor
from mmpretrain.registry import MODELS

from ..coreml.export_source import in_scope

_COUNT, _RANKS = 'num_classes', 'topk'
_RANK_OF_SCORE = re.compile(r'(.*/top)(\d+)')


def set_classes(cfg: Config, count: int) -> None:
    """Set numbers of classes and drop ranks that so few classes lack.

    Args:
        cfg: changed: its model, evaluators, and the scores that hooks and
            schedules watch.
        count: of classes.
    """
    _set_where_taken(cfg, count)
    for key in ('model', 'data_preprocessor', 'val_evaluator',
                'test_evaluator'):
        _fit(cfg.get(key), count)
    for key in ('default_hooks', 'custom_hooks', 'param_scheduler'):
        _fit_watched(cfg.get(key), count)


def _set_where_taken(cfg: Config, count: int) -> None:
    """State the number where a recipe leaves it to the default."""
    head = cfg.model.head
    with in_scope(cfg):
        kind = head.get('type')
        kind = MODELS.get(kind) if isinstance(kind, str) else kind
    if kind is not None and \
            _COUNT in inspect.signature(kind).parameters:
        head[_COUNT] = count
    for holder in (cfg, cfg.model):
        given = holder.get('data_preprocessor')
        name = ClsDataPreprocessor.__name__
        if isinstance(given, dict) and \
                str(given.get('type', name)).endswith(name):
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
    return tuple(k for k in ranks if k <= count) or (1, )


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
