"""Variants held against their config: a misspelt key must not train one network twice."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any, Optional

from mmengine.config import Config
from mmengine.runner import Runner
from mmpretrain.registry import MODELS

from ....errors import SpecError
from ....utils.config import in_scope
from ....utils.text import did_you_mean
from .grid import Trial, canonical

#: What a training reads of a config's top level; everything else there is a variable of the file.
_READ = {*inspect.signature(Runner).parameters, 'auto_scale_lr', 'custom_imports'} | {
    'data_preprocessor'
}


def check_keys(config: Config, trial: Trial) -> None:
    """Refuse an option that would make a new dict, or a new key that its class does not take.

    A new key within a dict of the config that has no class of a model stays allowed, as do new
    arguments of a model's classes and the settings of mmengine's ``Runner``.

    Raises:
        SpecError: names the key, and the nearest one that there is.
    """
    with in_scope(config):
        missing = [key for key in trial.options if not _is_known(config, key.split('.'))]
        if not missing:
            return
        raise SpecError(
            f'variant {trial.variant!r}: the config has no {missing[0]!r}'
            f'{did_you_mean(missing[0], _paths(config))}'
        )


def check_different(configs: Mapping[str, Config]) -> None:
    """Refuse two variants of which a training cannot tell the one from the other.

    Args:
        configs: of the variants by name, with one seed.

    Raises:
        SpecError: names both.
    """
    made: dict[str, str] = {}
    for name, config in configs.items():
        values = config.to_dict()
        read = canonical({key: values[key] for key in values if key in _READ})
        twin = made.setdefault(read, name)
        if twin != name:
            raise SpecError(
                f'variants {twin!r} and {name!r} are the same training: what differs is set to '
                'what the config has, or is a variable that no training reads; seeds repeat a '
                'variant'
            )


def _is_known(config: Config, parts: list[str]) -> bool:
    node: Any = config
    for index, part in enumerate(parts):
        if not isinstance(node, (Mapping, Config)):
            return True  # an index, or what merging refuses by itself
        if part not in node:
            known = _READ if node is config else _arguments(node)
            return index == len(parts) - 1 if known is None else part in known
        node = node[part]
    return True


def _arguments(node: Mapping[str, Any]) -> Optional[set[str]]:
    """Those of a dict's class; None where it has none of a model, or takes any."""
    kind = node.get('type')
    found = MODELS.get(kind) if isinstance(kind, str) else kind
    if not inspect.isclass(found):
        return None
    parameters = inspect.signature(found).parameters
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    return None if takes_any else set(parameters)


def _paths(node: Any, where: str = '') -> Iterator[str]:
    """Dotted keys of a config, with the arguments that its classes take."""
    new = _arguments(node) if where else None
    for key in {**dict.fromkeys(node), **dict.fromkeys(sorted(new or ()))}:
        path = f'{where}.{key}' if where else str(key)
        yield path
        value = node.get(key)
        if isinstance(value, Mapping):
            yield from _paths(value, path)
