"""What a checkpoint's pickle may ask for is an inert :class:`Admitted`.

Nothing imports or looks up a name that a file asks for. Every admitted name is
a row of a table (see ``pickle_names``); the row is an object that no opcode
can call except through the checked function of ours that stands in for it.
"""
import math
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Optional

import numpy as np
import torch

from mmpretrain_mobileone_ext.errors import CheckpointError

ALLOWED = ('tensors, storages, parameters, dtypes, devices, plain containers '
           "and values, numpy arrays and scalars, mmengine's HistoryBuffer")
_SHOWN = 80
_DIMENSIONS = 64
_NESTS = (tuple, frozenset, torch.Size)
_NAMES = (str, bytes, type(None), torch.dtype, torch.device)
_KEY_NODES = 16
_KEY_BITS = 64


@dataclass(frozen=True, eq=False)
class Admitted:
    """One admitted name: inert, and on purpose not callable itself.

    Args:
        path (str): The dotted name, for messages.
        call (callable, optional): What REDUCE on the name runs.
        new (callable, optional): What NEWOBJ on the name runs.
        factory (type, optional): What it means as a defaultdict's factory.
    """
    path: str
    call: Optional[Callable[..., Any]] = None
    new: Optional[Callable[..., Any]] = None
    factory: Optional[type] = None


def path_of(value: Any) -> str:
    """The dotted name of an admitted stand-in, else the value's type."""
    named = isinstance(value, Admitted)
    return value.path if named else f'an object of {type(value).__name__}'


def brief(value: Any) -> str:
    """A hostile value for a message: cut first, then formatted.

    The text of a few nested tuples that share their members can be longer
    than all memory.
    """
    if type(value) in (tuple, list):
        shown = ', '.join(_brief_item(item) for item in value[:3])
        rest = ', ...' if len(value) > 3 else ''
        return f'({shown}{rest})' if type(value) is tuple else (
            f'[{shown}{rest}]')
    return _brief_item(value)


def _brief_item(value: Any) -> str:
    if type(value) in (str, bytes):
        return repr(value[:_SHOWN])
    is_short = type(value) is int and value.bit_length() <= _KEY_BITS
    if is_short or type(value) in (bool, float, type(None)):
        return repr(value)
    return path_of(value)


def refused(what: str) -> CheckpointError:
    """The error for anything a pickle asks for that is not admitted."""
    # repr keeps line breaks and control characters of a hostile name out.
    return CheckpointError(f'refuses to load: the pickle asks for '
                           f'{what[:200]!r}; allowed are {ALLOWED}')


def require(condition: bool, what: str, *values: Any) -> None:
    """Refuse ``what`` unless ``condition`` holds.

    Args:
        condition (bool): What must hold.
        what (str): What the pickle asks for, ``{}`` where a value goes.
        values: Put in by :func:`brief`, and only if it is refused.

    Raises:
        CheckpointError: Naming what the pickle asks for.
    """
    if not condition:
        shown = what.format(*map(brief, values)) if values else what
        raise refused(shown)


def is_plain_key(key: Any) -> bool:
    """Whether ``key`` can neither run code nor slow a dict down.

    A key has few parts, so that hashing it is quick. It has at most 64 bits
    of numbers, because Python's hashes of numbers, unlike those of text, can
    be foreseen: with more bits than a hash, as many different keys with the
    same hash can be made as one likes, and each is compared with all others.
    """
    if type(key) is str:
        return True
    bits, nodes, rest = 0, 0, [key]
    while rest and nodes < _KEY_NODES and bits <= _KEY_BITS:
        item = rest.pop()
        nodes += 1
        if type(item) not in _NESTS:
            bits += _number_bits(item)
        elif len(item) <= _KEY_NODES:
            rest.extend(item)
        else:
            return False
    return not rest and bits <= _KEY_BITS


def _number_bits(leaf: Any) -> int:
    """Bits of information in a number, none in a name."""
    if type(leaf) in _NAMES or isinstance(leaf, (np.str_, np.bytes_)):
        return 0
    # An extended float's item is the extended float again.
    value = leaf.item() if isinstance(leaf, np.generic) else leaf
    if type(value) in (int, bool):
        return value.bit_length()
    # Each NaN differs from all others, and they may share one hash.
    if type(value) is float and not math.isnan(value):
        return _KEY_BITS
    return _KEY_BITS + 1


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse dict keys and set members that are not plain values."""
    for key in keys:
        if not is_plain_key(key):
            raise refused(f'a key of type {type(key).__name__}')


def is_sizes(value: Any) -> bool:
    """Whether ``value`` is a sequence of a few non-negative 64-bit numbers."""
    return (type(value) in (tuple, list, torch.Size)
            and len(value) <= _DIMENSIONS and all(
                type(item) is int and 0 <= item < 1 << 63 for item in value))
