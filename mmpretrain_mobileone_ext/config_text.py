r"""The text of a config in which every value stays data.

mmengine replaces ``{{$NAME:default}}``, ``{{ fileDirname }}`` and
``{{_base_.x}}`` in a config's *text*, before it parses it, and writes keys
and some values without quotes. A class name, a path or an option that holds
such text would thus be expanded, or run, when the file is read again. Here
every string is a literal that holds no ``{{`` and every other value is one
that reads back as itself, or it is refused.

Importing this module makes ``Config.pretty_text`` and ``Config.dump`` write
so: mmengine's Runner writes configs too, into work dirs and checkpoints.
"""
from __future__ import annotations

import keyword
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
from mmengine.config import Config
from yapf.yapflib.yapf_api import FormatCode

from .errors import SpecError

_OPENING = re.compile(r'\{(?=\{)')
_STYLE = dict(
    based_on_style='pep8',
    blank_line_before_nested_class_or_def=True,
    split_before_expression_after_opening_paren=True)
#: What mmengine's Config or its reader keeps for itself at the top level.
_RESERVED = ('_base_', '_deprecation_', 'filename', 'text', 'pretty_text',
             'env_variables')
#: What the text below calls: a variable of that name would hide it.
_CALLED = ('bytearray', 'complex', 'dict', 'float', 'frozenset', 'range',
           'set', 'slice')


def config_text(config: Config) -> str:
    """A config as Python, formatted as mmengine does.

    Dicts and sets are sorted. A path is written as its text, a class, a
    function or a ``torch.dtype`` as its dotted name, a NumPy number as
    Python's.

    Raises:
        SpecError: a value, or a key of the top level, that a config file
            cannot hold.
    """
    lines = [f'{_variable(key)}={_literal(value, key)}'
             for key, value in _sorted(config.to_dict())]
    text = '\n'.join(lines)
    if not config._format_python_code:
        return text
    try:
        return FormatCode(text, style_config=dict(_STYLE))[0]
    except Exception as error:
        reason = ' '.join(str(error).split())[:200]
        raise SpecError(
            f'{config.filename or "the config"} cannot be written as Python: '
            f'{reason}') from error


def dump_config(config: Config,
                file: Optional[Union[str, Path]] = None) -> Optional[str]:
    """Write a config; its suffix says how. In place of ``Config.dump``.

    Args:
        config: what is written.
        file: ``.py``, ``.json``, ``.yaml`` or ``.yml``; None returns the
            text, in the format of the config's own file.

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
        text = _OPENING.sub(r'\\u007b', mmengine.dump(
            config.to_dict(), file_format=kind))
    else:
        raise SpecError(f'{name}: a config is written as .py, .json, .yaml '
                        'or .yml')
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
        raise SpecError(f'{text!r} holds half of a surrogate pair, which '
                        'YAML cannot; write the config as .py or .json')
    style = '"' if '{{' in text else None
    return dumper.represent_scalar('tag:yaml.org,2002:str', text, style)


_Dumper.add_representer(str, _yaml_text)


def _variable(key: Any) -> str:
    """A key of the top level: the name of a variable."""
    name = isinstance(key, str) and key.isidentifier() and \
        not keyword.iskeyword(key) and not key.startswith('__') and \
        unicodedata.normalize('NFKC', key) == key
    if not name or key in (*_RESERVED, *_CALLED):
        raise SpecError(
            f'the config has a top-level key {key!r}; allowed are names of '
            'Python variables that neither begin with "__" nor are one of '
            f'{", ".join((*_RESERVED, *_CALLED))}')
    return key


def _literal(value: Any, where: str) -> str:
    """Python that evaluates to ``value``; ``where`` is its dotted key."""
    if isinstance(value, dict):
        return _dict(value, where)
    if isinstance(value, (list, tuple)):
        items = ''.join(f'{_literal(item, f"{where}.{index}")},\n'
                        for index, item in enumerate(value))
        return f'[\n{items}]' if isinstance(value, list) else f'(\n{items})'
    if isinstance(value, (set, frozenset)):
        items = ', '.join(sorted(_literal(item, where) for item in value))
        return f'{"set" if isinstance(value, set) else "frozenset"}([{items}])'
    return _scalar(value, where)


def _dict(values: Mapping[Any, Any], where: str) -> str:
    pairs = [(key, _literal(value, f'{where}.{key}'))
             for key, value in _sorted(values)]
    if all(_is_argument(key) for key in values):
        return 'dict(' + ',\n'.join(f'\n{k}={v}' for k, v in pairs) + ')'
    return 'dict({' + ',\n'.join(
        f'{_literal(k, where)}: {v}' for k, v in pairs) + '})'


def _is_argument(key: Any) -> bool:
    """Whether ``dict(key=...)`` has this key; Python normalizes others."""
    return isinstance(key, str) and key.isascii() and key.isidentifier() \
        and not keyword.iskeyword(key) and key != '__debug__'


def _sorted(values: Mapping[Any, Any]) -> Iterable[tuple[Any, Any]]:
    return sorted(values.items(),
                  key=lambda pair: (str(pair[0]), type(pair[0]).__name__))


def _scalar(value: Any, where: str) -> str:
    if isinstance(value, (str, os.PathLike)):
        text = os.fspath(value)
        kind: Any = bytes if isinstance(text, bytes) else str
        return _quoted(kind, text)
    if isinstance(value, (types.FunctionType, type, torch.dtype)):
        return _quoted(str, _dotted(value, where))
    if value is None or value is Ellipsis or isinstance(value, bool):
        return repr(value)
    if isinstance(value, np.generic) and \
            not isinstance(value.item(), np.generic):
        return _scalar(value.item(), where)
    for kind, written in _WRITTEN.items():
        if isinstance(value, kind):
            return written(value)
    raise SpecError(f'{where} is {_short(value)}, a {type(value).__name__}; '
                    'a config file holds text, numbers, None, booleans, '
                    'lists, tuples, sets and dicts')


def _quoted(kind: Any, text: Union[str, bytes]) -> str:
    # A backslash in a repr stands for itself only if doubled, so that the
    # brace behind it starts anew.
    return _OPENING.sub(r'\\x7b', kind.__repr__(text))


def _dotted(value: Any, where: str) -> str:
    if isinstance(value, torch.dtype):
        return str(value)
    name = f'{value.__module__}.{value.__qualname__}'
    if '<' in name:  # <lambda>, <locals>
        raise SpecError(f'{where} is {_short(value)}, which no other process '
                        'can import')
    return name


def _float(value: float) -> str:
    text = float.__repr__(value)
    return text if text[-1].isdigit() else f"float('{text}')"


def _short(value: Any) -> str:
    text = ' '.join(repr(value).split())
    return text if len(text) <= 80 else f'{text[:77]}...'


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
