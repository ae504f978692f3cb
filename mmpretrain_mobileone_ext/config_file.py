"""Configs as the tools read them: every type by its name.

In a new-style config (``with read_base():``) a ``type`` is the class itself.
MMPretrain's ``get_model`` and whoever compares types expect text, and text is
what a config is written as. So types become dotted names, which mmengine's
registries resolve, where a config comes in.
"""
from __future__ import annotations

import types
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Union

from mmengine.config import Config, ConfigDict


def read_config(path: Union[str, Path]) -> Config:
    """``Config.fromfile``, old style or new, with types by name."""
    return types_by_name(Config.fromfile(str(path)))


def types_by_name(config: Config) -> Config:
    """The config itself, or a copy in which no ``type`` is a class.

    Args:
        config: is left as it is. Other values that are classes stay; so do
            types that cannot be imported, such as a function's own.
    """
    values = config._cfg_dict
    if not _has_classes(values):
        return config
    kept = {key: values[key] for key in values
            if key not in config._imported_names}
    return Config(_named(kept), cfg_text=config.text,
                  filename=config.filename,
                  env_variables=config.env_variables)


def unwrapped(dataset: Any) -> list[Any]:
    """The configs of data sets inside wrappers, which may hold several.

    Args:
        dataset: of a loader; ``ConcatDataset``, ``RepeatDataset`` and the
            like keep theirs under ``datasets`` or ``dataset``.
    """
    inner = [] if 'pipeline' in dataset else \
        dataset.get('dataset') or dataset.get('datasets')
    if not inner:
        return [dataset]
    several = inner if isinstance(inner, (list, tuple)) else [inner]
    return [part for one in several for part in unwrapped(one)]


def _has_classes(value: Any) -> bool:
    if isinstance(value, Mapping):
        return any(_is_named(key, item) or _has_classes(item)
                   for key, item in value.items())
    return isinstance(value, (list, tuple)) and any(map(_has_classes, value))


def _named(value: Any) -> Any:
    if isinstance(value, Mapping):
        return ConfigDict({
            key: f'{item.__module__}.{item.__qualname__}'
            if _is_named(key, item) else _named(item)
            for key, item in value.items()})
    if type(value) in (list, tuple):
        return type(value)(map(_named, value))
    return value


def _is_named(key: Any, value: Any) -> bool:
    """Whether it is a type that a name can stand for; keys may be dotted."""
    return str(key).rpartition('.')[2] == 'type' and \
        isinstance(value, (type, types.FunctionType)) and \
        value.__module__ != '__main__' and '<' not in value.__qualname__
