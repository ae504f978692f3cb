"""From a config and a checkpoint to the torch model that is exported."""
from __future__ import annotations

import copy
import random
import re
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import urlsplit

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS
from torch import nn

from ..class_names import checkpoint_names
from ..config_file import read_config, types_by_name
from ..engine.checkpoint import file_sha256
from ..engine.download import shown
from ..errors import CheckpointError, ExportError, MobileOneExtError
from ..foreign.keys import MMPRETRAIN
from ..foreign.recognize import recognize, translate
from ..models import DeployableClassifier
from ..models.load_values import check_dtypes, check_finite
from ..models.program_path import CORE_ML_KEY

PathLike = Union[str, Path]
_BRANCHES = re.compile(r'\.branch_(conv_list|scale|norm|3x3|1x1)\.')


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        model: own copy of the network as loaded; eval mode, float32, CPU.
            For features only its backbone's weights are the checkpoint's.
        config: None for a module that does not know its own.
        config_name: file name of the config, or the model's class.
        classes: class names the checkpoint brings, if any.
        checkpoint: file name of the checkpoint, if any.
        sha256: of the checkpoint file, where it is a local one.
    """
    model: nn.Module
    config: Optional[Config]
    config_name: str
    classes: Optional[tuple[str, ...]] = None
    checkpoint: Optional[str] = None
    sha256: Optional[str] = None


def load_source(config: Union[PathLike, Config, nn.Module],
                checkpoint: Optional[PathLike],
                cfg_options: Optional[Mapping[str, Any]] = None,
                outputs: str = 'class') -> Source:
    """Build the model and load the checkpoint, branches or folded.

    Args:
        config: config file, ``Config``, or a network that is built.
        checkpoint: anything mmengine loads; None: a module's own weights.
        cfg_options: dotted keys to values, merged into the config.
        outputs: 'class' needs a classifier; for 'features' anything with a
            ``backbone``, or a bare backbone, will do, and the checkpoint has
            to fit the backbone only.

    Raises:
        ExportError: the config is unreadable or describes no such network,
            or weights are not finite.
        CheckpointError: the checkpoint is unsafe or does not fit.
    """
    loaded = _read_checkpoint(checkpoint)
    model, cfg, name = _network(config, loaded, cfg_options)
    if getattr(model, 'artifact', None) is not None:
        raise ExportError(f'{name}: a Core ML file is loaded in place of the '
                          'network; there is nothing to export')
    path = shown(str(checkpoint))
    if outputs == 'features':
        _load_backbone(model, loaded, path)
    else:
        _load_classifier(model, loaded, name, path)
    _check_finite(model, name, outputs)
    local = checkpoint is not None and Path(checkpoint).is_file()
    return Source(
        model=model.cpu().float().eval(),
        config=cfg,
        config_name=name,
        classes=checkpoint_names(
            (loaded or {}).get('meta')) or checkpoint_names(dict(
                dataset_meta=getattr(model, '_dataset_meta', None))),
        checkpoint=None if checkpoint is None else Path(
            urlsplit(path).path if '://' in path else path).name,
        sha256=file_sha256(str(checkpoint)) if local else None)


def _network(
    config: Union[PathLike, Config, nn.Module], loaded: Optional[dict],
    options: Optional[Mapping[str, Any]]
) -> tuple[nn.Module, Optional[Config], str]:
    """The network, nothing loaded yet, its config and its name."""
    if isinstance(config, nn.Module):
        if options:
            raise ExportError('cfg_options need a config, but a module is '
                              'given')
        # mmpretrain.get_model leaves its config in the module.
        return (copy.deepcopy(config), _own_config(config),
                type(config).__name__)
    cfg, name = _read_config(config, options)
    if loaded is None:
        raise ExportError(f'{name}: no checkpoint is given, and without '
                          'one the weights would be random')
    return _build(cfg, name, loaded), cfg, name


def _own_config(model: nn.Module) -> Optional[Config]:
    config = getattr(model, '_config', None)
    return types_by_name(config) if isinstance(config, Config) else config


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Give torch, NumPy and Python their random state back afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def one_line(error: BaseException, limit: int = 300) -> str:
    """An exception as one line of at most ``limit`` characters."""
    return ' '.join(f'{type(error).__name__}: {error}'.split())[:limit]


def _read_config(config: Union[PathLike, Config],
                 options: Optional[Mapping[str, Any]]) -> tuple[Config, str]:
    if isinstance(config, Config):
        cfg = copy.deepcopy(types_by_name(config))
        path: Any = cfg.filename or 'config'
    else:
        path = config
        if not Path(path).is_file():
            raise ExportError(f'{path}: no such config file')
        try:
            cfg = read_config(path)
        # A config is a program: it may raise anything.
        except Exception as error:
            raise ExportError(f'{path}: not a readable config '
                              f'({one_line(error)})') from error
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ExportError(f'cfg_options do not fit {path} '
                          f'({one_line(error)})') from error
    if not isinstance(cfg.get('model'), dict):
        raise ExportError(f'{path}: the config has no model')
    return cfg, Path(path).name


def _build(cfg: Config, name: str, checkpoint: dict) -> nn.Module:
    model = copy.deepcopy(cfg.model)
    # As mmengine's Runner does.
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor',
                         copy.deepcopy(cfg.data_preprocessor))
    # Batch augmentations are for training, and announce themselves.
    model.pop('train_cfg', None)
    keys = checkpoint['state_dict']
    folded = any('.branch_reparam.' in k for k in keys)
    if folded and not any(_BRANCHES.search(k) for k in keys):
        model.get('backbone', model)['deploy'] = True
    try:
        with untouched_rng(), in_scope(cfg):
            return MODELS.build(model)
    except MobileOneExtError:
        raise
    # Constructors of any network in any package run here.
    except Exception as error:
        raise ExportError(f'{name}: the model cannot be built '
                          f'({one_line(error)})') from error


def in_scope(cfg: Config) -> Any:
    """The context in which a config's types are found."""
    return DefaultScope.overwrite_default_scope(
        cfg.get('default_scope') or 'mmpretrain')


def _check_classifier(model: nn.Module, name: str) -> None:
    if not callable(getattr(model, 'extract_feat', None)):
        raise ExportError(f'{name}: {type(model).__name__} is no image '
                          'classifier of mmpretrain')
    if not getattr(model, 'with_head', False):
        raise ExportError(f'{name}: {type(model).__name__} has no head, so it '
                          'predicts no classes')


def _read_checkpoint(checkpoint: Optional[PathLike]) -> Optional[dict]:
    if checkpoint is None:
        return None
    loaded = CheckpointLoader.load_checkpoint(
        str(checkpoint), map_location='cpu', logger='silent')
    state = loaded.get('state_dict', loaded)
    if CORE_ML_KEY in state:
        raise CheckpointError(f'{shown(str(checkpoint))} is a Core ML file '
                              'already; export needs a checkpoint of torch')
    state = OrderedDict(
        (re.sub(r'^module\.', '', k), v) for k, v in state.items())
    found = recognize(state)
    if found is not None:
        state = OrderedDict(translate(state, found, MMPRETRAIN))
    return {'state_dict': state, 'meta': loaded.get('meta', {})}


def backbone_of(model: nn.Module) -> nn.Module:
    """``model.backbone``, or ``model`` where it has none."""
    found = getattr(model, 'backbone', None)
    return found if isinstance(found, nn.Module) else model


def _load_classifier(model: nn.Module, loaded: Optional[dict], name: str,
                     path: str) -> None:
    _check_classifier(model, name)
    if loaded is not None:
        _load(model, loaded['state_dict'], path)
    if isinstance(model, DeployableClassifier):
        model.require_trained_head()


def _load_backbone(model: nn.Module, loaded: Optional[dict],
                   path: str) -> None:
    """Fill the backbone; a checkpoint's neck and head do not matter."""
    if loaded is None:
        return
    state, prefix = loaded['state_dict'], 'backbone.'
    inner = OrderedDict((k[len(prefix):], v) for k, v in state.items()
                        if k.startswith(prefix))
    _load(backbone_of(model), inner or state, path)


def _check_finite(model: nn.Module, name: str, outputs: str) -> None:
    """Before conversion, and for networks that check nothing themselves."""
    used = backbone_of(model) if outputs == 'features' else model
    try:
        check_finite(used, used.state_dict())
    except CheckpointError as error:
        raise ExportError(f'{name}: {error}') from None


def _load(model: nn.Module, state: Mapping[str, Any], path: str) -> None:
    try:
        check_dtypes(state, model.state_dict())
        load_state_dict(model, state, strict=True, logger='silent')
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from None
    # Strictness is a RuntimeError; hooks of any network run here too.
    except Exception as error:
        raise CheckpointError(
            f'{path}: the checkpoint does not fit {type(model).__name__} '
            f'({one_line(error)})') from error
