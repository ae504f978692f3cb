"""What is exported: the network of a config and checkpoint, and its labels.

Weights come from a file and labels from up to four places, all written by others:
:func:`load_source` takes only weights that fit and are finite, and :func:`choose_labels` only
labels that agree wherever they are known.
"""

from __future__ import annotations

import copy
import os
import re
import unicodedata
from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union
from urllib.parse import urlsplit

from mmengine.config import Config
from mmengine.runner import CheckpointLoader
from mmengine.runner.checkpoint import load_state_dict
from mmpretrain.registry import MODELS
from torch import nn

from ..checkpoints.class_names import ClassNames, check_consistent, check_related, checkpoint_names
from ..checkpoints.download import shown
from ..coreai import folded
from ..errors import CheckpointError, ExportError, MobileOneExtError
from ..models import DeployableClassifier
from ..models.loading.program import CORE_ML_KEY
from ..models.loading.state_dict import MMPRETRAIN, check_dtypes, check_finite, recognize, translate
from ..models.quantization import fit_quantizers
from ..utils.config import in_scope, read_config, types_by_name
from ..utils.files import PathLike, file_sha256
from ..utils.machine import untouched_rng
from ..utils.text import one_line

#: Controls and separators of lines, paragraphs and pages.
_NO_TEXT = ('Cc', 'Zl', 'Zp')
_BRANCHES = re.compile(r'\.branch_(conv_list|scale|norm|3x3|1x1)\.')


@dataclass(frozen=True)
class Source:
    """What is exported.

    Attributes:
        model: own copy of the network as loaded; eval mode, float32, CPU. For features only its
            backbone's weights are the checkpoint's.
        config: None for a module that does not know its own.
        config_name: file name of the config, or the model's class.
        classes: class names the checkpoint brings, if any.
        checkpoint: file name of the checkpoint, if any.
        sha256: of the checkpoint file, where it is a local one.
        quantized: coreai-opt's preset, where it has trained the network; a converter then takes the
            integers from it.
    """

    model: nn.Module
    config: Optional[Config]
    config_name: str
    classes: Optional[tuple[str, ...]] = None
    checkpoint: Optional[str] = None
    sha256: Optional[str] = None
    quantized: str = ''


def load_source(
    config: Union[PathLike, Config, nn.Module],
    checkpoint: Optional[PathLike],
    cfg_options: Optional[Mapping[str, Any]] = None,
    outputs: str = 'class',
    format: str = 'mlprogram',
) -> Source:
    """Build the model and load the checkpoint, branches or folded.

    Args:
        config: config file, ``Config``, or a network that is built.
        checkpoint: anything mmengine loads; None: a module's own weights.
        cfg_options: dotted keys to values, merged into the config.
        outputs: 'class' needs a classifier; for 'features' anything with a ``backbone``, or a bare
            backbone, will do, and the checkpoint has to fit the backbone only.
        format: of the file that is made of it; a network that coreai-opt quantized is for one.

    Raises:
        ExportError: the config is unreadable or describes no such network, or weights are not
            finite.
        CheckpointError: the checkpoint is unsafe or does not fit.
    """
    loaded = _read_checkpoint(checkpoint)
    model, cfg, name = _network(config, loaded, cfg_options)
    if getattr(model, 'artifact', None) is not None:
        raise ExportError(
            f'{name}: a Core ML file is loaded in place of the network; there is nothing to export'
        )
    path = shown(str(checkpoint))
    how = folded.Prepared.of(loaded or {})
    quantizer = None if how is None else folded.rebuild(model, how)
    if outputs == 'features':
        _load_backbone(model, loaded, path)
    else:
        _load_classifier(model, loaded, name, path)
    _check_finite(model, name, outputs)
    if quantizer is not None:
        model = folded.finalize(quantizer, format)
    local = checkpoint is not None and Path(checkpoint).is_file()
    return Source(
        model=model.cpu().float().eval(),
        config=cfg,
        config_name=name,
        classes=checkpoint_names((loaded or {}).get('meta'))
        or checkpoint_names(dict(dataset_meta=getattr(model, '_dataset_meta', None))),
        checkpoint=None
        if checkpoint is None
        else Path(urlsplit(path).path if '://' in path else path).name,
        sha256=file_sha256(str(checkpoint)) if local else None,
        quantized=how.preset if how else '',
    )


def _network(
    config: Union[PathLike, Config, nn.Module],
    loaded: Optional[dict],
    options: Optional[Mapping[str, Any]],
) -> tuple[nn.Module, Optional[Config], str]:
    """The network, nothing loaded yet, its config and its name."""
    if isinstance(config, nn.Module):
        if options:
            raise ExportError('cfg_options need a config, but a module is given')
        # mmpretrain.get_model leaves its config in the module.
        own: Any = getattr(config, '_config', None)
        cfg = types_by_name(own) if isinstance(own, Config) else own
        return copy.deepcopy(config), cfg, type(config).__name__
    cfg, name = _read_config(config, options)
    if loaded is None:
        raise ExportError(
            f'{name}: no checkpoint is given, and without one the weights would be random'
        )
    return _build(cfg, name, loaded), cfg, name


def _read_config(
    config: Union[PathLike, Config], options: Optional[Mapping[str, Any]]
) -> tuple[Config, str]:
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
            raise ExportError(f'{path}: not a readable config ({one_line(error)})') from error
    try:
        cfg.merge_from_dict(dict(options or {}))
    except Exception as error:
        raise ExportError(f'cfg_options do not fit {path} ({one_line(error)})') from error
    if not isinstance(cfg.get('model'), dict):
        raise ExportError(f'{path}: the config has no model')
    return cfg, Path(path).name


def _build(cfg: Config, name: str, checkpoint: dict) -> nn.Module:
    model = copy.deepcopy(cfg.model)
    # As mmengine's Runner does.
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    # Batch augmentations are for training, and announce themselves.
    model.pop('train_cfg', None)
    keys = checkpoint['state_dict']
    is_folded = any('.branch_reparam.' in k for k in keys)
    if is_folded and not any(_BRANCHES.search(k) for k in keys):
        model.get('backbone', model)['deploy'] = True
    try:
        with untouched_rng(), in_scope(cfg):
            return MODELS.build(model)
    except MobileOneExtError:
        raise
    # Constructors of any network in any package run here.
    except Exception as error:
        raise ExportError(f'{name}: the model cannot be built ({one_line(error)})') from error


def _read_checkpoint(checkpoint: Optional[PathLike]) -> Optional[dict]:
    if checkpoint is None:
        return None
    loaded = CheckpointLoader.load_checkpoint(str(checkpoint), map_location='cpu', logger='silent')
    state = loaded.get('state_dict', loaded)
    if CORE_ML_KEY in state:
        raise CheckpointError(
            f'{shown(str(checkpoint))} is a Core ML file '
            'already; export needs a checkpoint of torch'
        )
    state = OrderedDict((re.sub(r'^module\.', '', k), v) for k, v in state.items())
    found = recognize(state)
    if found is not None:
        state = OrderedDict(translate(state, found, MMPRETRAIN))
    kept = {key: loaded[key] for key in (folded.RECORD,) if key in loaded}
    return {'state_dict': state, 'meta': loaded.get('meta', {}), **kept}


def backbone_of(model: nn.Module) -> nn.Module:
    """``model.backbone``, or ``model`` where it has none."""
    found = getattr(model, 'backbone', None)
    return found if isinstance(found, nn.Module) else model


def _load_classifier(model: nn.Module, loaded: Optional[dict], name: str, path: str) -> None:
    kind = type(model).__name__
    if not callable(getattr(model, 'extract_feat', None)):
        raise ExportError(f'{name}: {kind} is no image classifier of mmpretrain')
    if not getattr(model, 'with_head', False):
        raise ExportError(f'{name}: {kind} has no head, so it predicts no classes')
    if loaded is not None:
        _load(model, loaded['state_dict'], path)
    if isinstance(model, DeployableClassifier):
        model.require_trained_head()


def _load_backbone(model: nn.Module, loaded: Optional[dict], path: str) -> None:
    """Fill the backbone; a checkpoint's neck and head do not matter."""
    if loaded is None:
        return
    state, prefix = loaded['state_dict'], 'backbone.'
    inner = OrderedDict((k[len(prefix) :], v) for k, v in state.items() if k.startswith(prefix))
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
        fit_quantizers(model, state, '')
        check_dtypes(state, model.state_dict())
        load_state_dict(model, state, strict=True, logger='silent')
    except CheckpointError as error:
        raise CheckpointError(f'{path}: {error}') from None
    # Strictness is a RuntimeError; hooks of any network run here too.
    except Exception as error:
        raise CheckpointError(
            f'{path}: the checkpoint does not fit {type(model).__name__} ({one_line(error)})'
        ) from error


@dataclass(frozen=True)
class Labels:
    """Class labels and where they came from.

    Attributes:
        names: in the order of the logits.
        origin: words for the summary, e.g. 'checkpoint'.
    """

    names: tuple[str, ...]
    origin: str


def choose_labels(
    given: Union[str, os.PathLike[str], Sequence[str], None],
    known: Sequence[tuple[str, Optional[Sequence[str]]]],
    num_logits: int,
) -> Labels:
    """Take the given labels, else the first known ones, else numbers.

    Args:
        given: file with one label a line, or the labels.
        known: (origin, labels or None), best first. Labels that occur twice (ImageNet has two
            cranes) get their index appended. All are compared, with given ones too.
        num_logits: outputs of the network.

    Raises:
        ExportError: unreadable, empty, duplicate or too few labels, or lists in which a name stands
            for different labels.
    """
    found = [Labels(tuple(map(str, names)), origin) for origin, names in known if names]
    if given is not None:
        labels = _given(given)
    elif found:
        labels = _distinct(found[0])
    else:
        return Labels(tuple(map(str, range(num_logits))), 'unknown: numbered')
    if len(labels.names) != num_logits:
        raise ExportError(
            f'{len(labels.names)} classes ({labels.origin}) do not fit the '
            f'{num_logits} outputs of the network'
        )
    if given is None:
        check_labels(known)
    else:
        check_labels([(labels.origin, labels.names), *known], may_rename=True)
    return labels


def check_labels(
    known: Sequence[tuple[str, Optional[Sequence[str]]]], may_rename: bool = False
) -> None:
    """Refuse lists in which a name stands for different labels.

    Args:
        known: (origin, labels or None); a checkpoint's first.
        may_rename: whether the first may share no name with the others.

    Raises:
        ExportError: names two lists.
    """
    lists = [
        ClassNames(tuple(map(str, names)), f'classes from {origin}')
        for origin, names in known
        if names
    ]
    check_consistent(lists, ExportError)
    # A data set may call its own folders as it likes.
    if known and known[0][1] and not may_rename:
        check_related(lists[0], lists[1:], ExportError)


def _given(given: Union[str, os.PathLike[str], Sequence[str]]) -> Labels:
    if isinstance(given, (str, os.PathLike)):
        labels = Labels(_read(Path(given)), Path(given).name)
    else:
        labels = Labels(tuple(given), 'given')
    for index, name in enumerate(labels.names, start=1):
        if not isinstance(name, str) or not name.strip():
            raise ExportError(
                f'{labels.origin}: label {index} is {name!r}; '
                'a label must be text, one a line, not empty'
            )
    return _unique(labels)


def _unique(labels: Labels) -> Labels:
    twice = [n for n, count in Counter(labels.names).items() if count > 1]
    if twice:
        raise ExportError(
            f'{labels.origin}: {len(twice)} labels occur more than once, such as {twice[0]!r}'
        )
    return labels


def _read(path: Path) -> tuple[str, ...]:
    try:
        # Line ends become one; nothing else ends a line, as in editors.
        text = path.expanduser().read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise ExportError(f'{path}: cannot read class labels as UTF-8: {reason}') from error
    if not text:
        raise ExportError(f'{path}: the file of class labels is empty')
    lines = text.removesuffix('\n').split('\n')
    for number, line in enumerate(lines, start=1):
        _check_characters(line, f'{path}: line {number}')
    return tuple(line.strip() for line in lines)


def _check_characters(line: str, where: str) -> None:
    if '\0' in line:
        raise ExportError(
            f'{where} holds NUL; save the class labels as UTF-8 text, this may be UTF-16'
        )
    wrong = [c for c in line if c != '\t' and unicodedata.category(c) in _NO_TEXT]
    if wrong:
        raise ExportError(f'{where} holds {wrong[0]!r}, which is no character of a class label')


def _distinct(labels: Labels) -> Labels:
    """Core ML maps labels to probabilities: equal ones would merge."""
    counts = Counter(labels.names)
    names = tuple(
        name if counts[name] == 1 else f'{name} ({index})'
        for index, name in enumerate(labels.names)
    )
    return _unique(Labels(names, labels.origin))
