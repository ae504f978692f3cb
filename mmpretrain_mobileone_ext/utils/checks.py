"""One check for each kind of option; whoever has options uses these.

Each returns the value, or raises in one line what it is and what is allowed. Types are Python's own
and nothing is converted: ``--cfg-options x=no`` is a text, and every text is true. NumPy's bool and
integers are refused too: a config is written as text and read back, where they are other things.
"""

from __future__ import annotations

import math
import os
from collections.abc import Collection, Mapping, Sequence
from typing import Any, NoReturn, Union

from ..errors import MobileOneExtError, SpecError
from .text import one_line

Error = type[MobileOneExtError]
#: What people write for true and false, and Python takes for a text.
_SWITCH_WORDS = ('yes', 'no', 'on', 'off', 'true', 'false', 'y', 'n')


def refuse(name: str, value: Any, allowed: str, error: Error = SpecError) -> NoReturn:
    """Raise ``error``; ``name`` is the option, after its owner if need be."""
    raise error(f'{name} is {one_line(repr(value), 200)}; allowed: {allowed}')


def boolean(name: str, value: Any, error: Error = SpecError) -> bool:
    """True or False, nothing that merely counts as one."""
    if not isinstance(value, bool):
        refuse(name, value, 'True, False', error)
    return value


def integer(name: str, value: Any, least: int = 0, error: Error = SpecError) -> int:
    """An int >= ``least``; no bool."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        refuse(name, value, f'an integer >= {least}', error)
    return value


def number(
    name: str,
    value: Any,
    least: float = 0.0,
    most: float = math.inf,
    error: Error = SpecError,
    also: str = '',
) -> float:
    """A finite int or float in [least, most]; no bool.

    ``also`` tells what else the caller allows.
    """
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or not (least <= value <= most and math.isfinite(value))
    ):
        span = f'>= {least:g}' if most == math.inf else f'of {least:g} to {most:g}'
        refuse(name, value, f'{also}a finite number {span}', error)
    return value


def one_of(name: str, value: Any, allowed: Collection[str], error: Error = SpecError) -> str:
    """One of some names."""
    if not isinstance(value, str) or value not in allowed:
        refuse(name, value, ', '.join(allowed), error)
    return value


def selection(
    name: str, values: Any, allowed: Collection[str], error: Error = SpecError
) -> tuple[str, ...]:
    """One or more of some names, each once, in a sequence."""
    if (
        isinstance(values, str)
        or not isinstance(values, Sequence)
        or not values
        or any(not isinstance(v, str) or v not in allowed for v in values)
        or len(set(values)) != len(values)
    ):
        refuse(name, values, f'a list of one or more of {", ".join(allowed)}, each once', error)
    return tuple(values)


def text(name: str, value: Any, error: Error = SpecError) -> str:
    """A str, which may be empty."""
    if not isinstance(value, str):
        refuse(name, value, 'a text', error)
    return value


def path(name: str, value: Any, error: Error = SpecError) -> Union[str, os.PathLike[str]]:
    """A path that a file system can hold, as a str or a ``Path``."""
    if (
        not isinstance(value, (str, os.PathLike))
        or not os.fspath(value)
        or not isinstance(os.fspath(value), str)
        or '\0' in os.fspath(value)
    ):
        refuse(name, value, 'a path', error)
    return value


def sequence(name: str, value: Any, error: Error = SpecError) -> Sequence:
    """A list, tuple or range; no text."""
    if not isinstance(value, (list, tuple, range)):
        refuse(name, value, 'a list or tuple', error)
    return value


def mapping(name: str, value: Any, error: Error = SpecError) -> Mapping[str, Any]:
    """A dict with names as keys."""
    if not isinstance(value, Mapping) or any(not isinstance(key, str) for key in value):
        refuse(name, value, 'a dict with names as keys', error)
    return value


def layer_cfg(name: str, value: Any, error: Error = SpecError) -> None:
    """A layer's config or None, with no word in place of a switch.

    The layer is another library's: it takes ``affine='no'`` for true.
    """
    if value is None:
        return
    for key, inner in mapping(name, value, error).items():
        if isinstance(inner, str) and inner.lower() in _SWITCH_WORDS:
            refuse(f'{name}.{key}', inner, 'True, False', error)
