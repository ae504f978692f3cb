"""Configs as this package finds, reads and writes them.

Importing this module changes three things in mmengine and MMPretrain:

- ``mmpretrain_mobileone_ext::name`` finds our configs. mmengine knows only packages of a table of
  its own and asks ``pkg_resources`` for their folder, which is wrong for editable installs; with
  a module in that table it uses the module's folder, where ``.mim/configs`` lies. In a clone
  ``.mim`` holds symbolic links. Where git cannot make them, as on Windows by default, they are
  small text files (and in an unpacked source distribution there are none): mmengine is then told
  to use the root folder.
- ``Config.pretty_text`` and ``Config.dump`` write what reads back as the same. mmengine replaces
  ``{{$NAME:default}}``, ``{{ fileDirname }}`` and ``{{_base_.x}}`` in a config's *text* and writes
  keys and some values without quotes: a class name, a path or an option that holds such text
  would be expanded, or run, when the file is read again. Here every string is a literal that
  holds no ``{{``, and every other value is one that reads back as itself, or it is refused.
- ``list_models``, ``get_model('mobileone-ext-s0_8xb32_in1k', pretrained=True)`` and
  ``inference_model`` know our models.

In a new-style config (``with read_base():``) a ``type`` is the class itself. MMPretrain's
``get_model`` and whoever compares types expect text, so :func:`read_config` replaces classes by
their dotted names, which mmengine's registries resolve.
"""

from __future__ import annotations

import copy
import keyword
import operator
import os
import re
import types
import unicodedata
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Optional, Union

import mmengine
import numpy as np
import torch
import yaml
from mmengine.config import Config, ConfigDict, utils
from mmengine.registry import DefaultScope
from mmengine.utils import check_file_exist
from mmpretrain.apis.model import ModelHub
from yapf.yapflib.yapf_api import FormatCode

from ..errors import SpecError
from .files import MIM
from .text import one_line

_NAME = 'mmpretrain_mobileone_ext'
#: What every name of ours begins with.
PREFIX = 'mobileone-ext-'
_OPENING = re.compile(r'\{(?=\{)')
_STYLE = dict(
    based_on_style='pep8',
    blank_line_before_nested_class_or_def=True,
    split_before_expression_after_opening_paren=True,
)
#: What mmengine's Config or its reader keeps for itself at the top level.
_RESERVED = ('_base_', '_deprecation_', 'filename', 'text', 'pretty_text', 'env_variables')
#: What the text below calls: a variable of that name would hide it.
_CALLED = ('bytearray', 'complex', 'dict', 'float', 'frozenset', 'range', 'set', 'slice')

# mmengine looks beside the file of the module that it finds here.
utils.MODULE2PACKAGE.setdefault(_NAME, f'{_NAME}.registry')


def _find_in(home: Path) -> None:
    """Let mmengine find our bases under ``home``, others as ever."""
    known = Config._get_cfg_path

    def find(cfg_path: str, filename: str) -> tuple[str, Optional[str]]:
        scope, colons, name = cfg_path.partition('::')
        if not colons or scope != _NAME:
            return known(cfg_path, filename)
        found = str(home / 'configs' / name)
        check_file_exist(found)
        return found, scope

    setattr(Config, '_get_cfg_path', staticmethod(find))  # noqa: B010


if MIM.name != '.mim':
    _find_in(MIM)


def config_text(config: Config) -> str:
    """A config as Python, formatted as mmengine does.

    Dicts and sets are sorted. A path is written as its text, a class, a function or a
    ``torch.dtype`` as its dotted name, a NumPy number as Python's.

    Raises:
        SpecError: a value, or a key of the top level, that a config file cannot hold.
    """
    lines = [f'{_variable(key)}={_literal(value, key)}' for key, value in _sorted(config.to_dict())]
    text = '\n'.join(lines)
    if not config._format_python_code:
        return text
    try:
        return FormatCode(text, style_config=dict(_STYLE))[0]
    except Exception as error:
        name = config.filename or 'the config'
        raise SpecError(
            f'{name} cannot be written as Python: {one_line(str(error), 200)}'
        ) from error


def dump_config(config: Config, file: Optional[Union[str, Path]] = None) -> Optional[str]:
    """Write a config; its suffix says how. In place of ``Config.dump``.

    Args:
        config: what is written.
        file: ``.py``, ``.json``, ``.yaml`` or ``.yml``; None returns the text, in the format of the
            config's own file.

    Raises:
        SpecError: as of :func:`config_text`.
    """
    name = str(file or config.filename or '.py')
    kind = name.rpartition('.')[2]
    if kind == 'py':
        text = config_text(config)
    elif kind in ('yaml', 'yml'):
        text = _yaml(config.to_dict())
    elif kind == 'json':
        text = _OPENING.sub(r'\\u007b', mmengine.dump(config.to_dict(), file_format=kind))
    else:
        raise SpecError(f'{name}: a config is written as .py, .json, .yaml or .yml')
    if file is None:
        return text
    Path(file).write_text(text, encoding='utf-8')
    return None


def _yaml(values: dict[str, Any]) -> str:
    # Only between double quotes YAML knows an escape.
    text = mmengine.dump(values, file_format='yaml', Dumper=_Dumper)
    return _OPENING.sub(r'\\x7b', text)


class _Dumper(yaml.Dumper):
    """Puts text that mmengine would replace between double quotes."""


def _yaml_text(dumper: yaml.Dumper, text: str) -> yaml.ScalarNode:
    if any('\ud800' <= character <= '\udfff' for character in text):
        raise SpecError(
            f'{text!r} holds half of a surrogate pair, which '
            'YAML cannot; write the config as .py or .json'
        )
    style = '"' if '{{' in text else None
    return dumper.represent_scalar('tag:yaml.org,2002:str', text, style)


_Dumper.add_representer(str, _yaml_text)


def _variable(key: Any) -> str:
    """A key of the top level: the name of a variable."""
    name = _is_name(key) and not key.startswith('__') and unicodedata.normalize('NFKC', key) == key
    if not name or key in (*_RESERVED, *_CALLED):
        raise SpecError(
            f'the config has a top-level key {key!r}; allowed are names of Python variables that '
            f'neither begin with "__" nor are one of {", ".join((*_RESERVED, *_CALLED))}'
        )
    return key


def _literal(value: Any, where: str) -> str:
    """Python that evaluates to ``value``; ``where`` is its dotted key."""
    if isinstance(value, dict):
        return _dict(value, where)
    if isinstance(value, (list, tuple)):
        items = ''.join(
            f'{_literal(item, f"{where}.{index}")},\n' for index, item in enumerate(value)
        )
        return f'[\n{items}]' if isinstance(value, list) else f'(\n{items})'
    if isinstance(value, (set, frozenset)):
        items = ', '.join(sorted(_literal(item, where) for item in value))
        return f'{"set" if isinstance(value, set) else "frozenset"}([{items}])'
    return _scalar(value, where)


def _dict(values: Mapping[Any, Any], where: str) -> str:
    pairs = [(key, _literal(value, f'{where}.{key}')) for key, value in _sorted(values)]
    if all(_is_argument(key) for key in values):
        return 'dict(' + ',\n'.join(f'\n{k}={v}' for k, v in pairs) + ')'
    return 'dict({' + ',\n'.join(f'{_literal(k, where)}: {v}' for k, v in pairs) + '})'


def _is_argument(key: Any) -> bool:
    """Whether ``dict(key=...)`` has this key; Python normalizes others."""
    return _is_name(key) and key.isascii() and key != '__debug__'


def _is_name(key: Any) -> bool:
    return isinstance(key, str) and key.isidentifier() and not keyword.iskeyword(key)


def _sorted(values: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return sorted(values.items(), key=lambda pair: (str(pair[0]), type(pair[0]).__name__))


def _scalar(value: Any, where: str) -> str:
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        kind: Any = bytes if isinstance(text, bytes) else str
        return _quoted(kind, text)
    if isinstance(value, (types.FunctionType, type, torch.dtype)):
        return _quoted(str, _dotted(value, where))
    if value is None or value is Ellipsis or isinstance(value, bool):
        return repr(value)
    if isinstance(value, np.generic) and not isinstance(value.item(), np.generic):
        return _scalar(value.item(), where)
    for kind, written in _WRITTEN.items():
        if isinstance(value, kind):
            return written(value)
    raise SpecError(
        f'{where} is {one_line(repr(value), 80)}, a {type(value).__name__}; a config file holds '
        'text, numbers, None, booleans, lists, tuples, sets and dicts'
    )


def _quoted(kind: Any, text: Union[str, bytes]) -> str:
    # A backslash in a repr stands for itself only if doubled, so that the brace behind it starts
    # anew.
    return _OPENING.sub(r'\\x7b', kind.__repr__(text))


def _dotted(value: Any, where: str) -> str:
    if isinstance(value, torch.dtype):
        return str(value)
    name = _name_of(value)
    if '<' in name:  # <lambda>, <locals>
        raise SpecError(
            f'{where} is {one_line(repr(value), 80)}, which no other process can import'
        )
    return name


def _float(value: float) -> str:
    text = float.__repr__(value)
    return text if text[-1].isdigit() else f"float('{text}')"


_WRITTEN: dict[type, Any] = {
    int: int.__repr__,
    float: _float,
    complex: lambda v: f'complex({complex.__repr__(v).strip("()")!r})',
    bytes: lambda v: _quoted(bytes, v),
    bytearray: lambda v: f'bytearray({_quoted(bytes, bytes(v))})',
    range: repr,
    slice: lambda v: _parts('slice', v.start, v.stop, v.step),
}


def _parts(name: str, *values: Any) -> str:
    return f'{name}({", ".join(_scalar(v, name) for v in values)})'


setattr(Config, 'pretty_text', property(config_text))  # noqa: B010
setattr(Config, 'dump', dump_config)  # noqa: B010


def read_config(path: Union[str, Path]) -> Config:
    """``Config.fromfile``, old style or new, with types by name."""
    return types_by_name(Config.fromfile(str(path)))


def types_by_name(config: Config) -> Config:
    """The config itself, or a copy in which no ``type`` is a class.

    Args:
        config: is left as it is. Other values that are classes stay; so do types that cannot be
            imported, such as a function's own.
    """
    values = config._cfg_dict
    if _named(values) is values:
        return config
    # A copy throughout: what has no class in it would be shared.
    kept = {key: copy.deepcopy(values[key]) for key in values if key not in config._imported_names}
    return Config(
        _named(kept),
        cfg_text=config.text,
        filename=config.filename,
        env_variables=config.env_variables,
    )


def unwrapped(dataset: Any) -> list[Any]:
    """The configs of data sets inside wrappers, which may hold several.

    Args:
        dataset: of a loader; ``ConcatDataset``, ``RepeatDataset`` and the like keep theirs under
            ``datasets`` or ``dataset``.
    """
    inner = [] if 'pipeline' in dataset else dataset.get('dataset') or dataset.get('datasets')
    if not inner:
        return [dataset]
    several = inner if isinstance(inner, (list, tuple)) else [inner]
    return [part for one in several for part in unwrapped(one)]


def _named(value: Any) -> Any:
    """With names for types; the very object where it has none."""
    if isinstance(value, Mapping):
        pairs = [(k, v, _name_of(v) if _is_named(k, v) else _named(v)) for k, v in value.items()]
        is_same = all(new is old for _, old, new in pairs)
        return value if is_same else ConfigDict({key: new for key, _, new in pairs})
    if type(value) in (list, tuple):
        items = [_named(item) for item in value]
        return value if all(map(operator.is_, items, value)) else type(value)(items)
    return value


def _name_of(kind: Any) -> str:
    return f'{kind.__module__}.{kind.__qualname__}'


def _is_named(key: Any, value: Any) -> bool:
    """Whether it is a type that a name can stand for; keys may be dotted."""
    return (
        str(key).rpartition('.')[2] == 'type'
        and isinstance(value, (type, types.FunctionType))
        and value.__module__ != '__main__'
        and '<' not in value.__qualname__
    )


def register_models() -> None:
    """Add the models of ``model-index.yml``, unless they are there."""
    if not any(name.startswith(PREFIX) for name in ModelHub._models_dict):
        ModelHub.register_model_index(MIM / 'model-index.yml', config_prefix=MIM)


register_models()


def in_scope(cfg: Config) -> Any:
    """The context in which a config's types are found."""
    return DefaultScope.overwrite_default_scope(cfg.get('default_scope') or 'mmpretrain')
