"""What a checkpoint's pickle may ask for is an inert :class:`Admitted`.

Nothing imports or looks up a name that a file asks for. Every admitted name is
a row of a table (see ``pickle_names``); the row is an object that no opcode
can call except through the checked function of ours that stands in for it.
"""
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Optional

import numpy as np
import torch

from mmpretrain_mobileone_ext.errors import CheckpointError

ALLOWED = ('tensors, storages, parameters, dtypes, devices, plain containers '
           "and values, numpy arrays and scalars, mmengine's HistoryBuffer")
_KEY_TYPES = (str, bytes, int, float, bool, complex, type(None), torch.dtype,
              torch.device, torch.Size)


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


def refused(what: str) -> CheckpointError:
    """The error for anything a pickle asks for that is not admitted."""
    # repr keeps line breaks and control characters of a hostile name out.
    return CheckpointError(f'refuses to load: the pickle asks for '
                           f'{what[:200]!r}; allowed are {ALLOWED}')


def require(condition: bool, what: str) -> None:
    """Refuse ``what`` unless ``condition`` holds.

    Raises:
        CheckpointError: Naming what the pickle asks for.
    """
    if not condition:
        raise refused(what)


def is_plain_key(key: Any, depth: int = 4) -> bool:
    """Whether hashing ``key`` runs built-in code only, at bounded depth."""
    if type(key) in (tuple, frozenset):
        return depth > 0 and all(is_plain_key(k, depth - 1) for k in key)
    return type(key) in _KEY_TYPES or (isinstance(key, np.generic)
                                       and key.dtype.kind in 'biufcSU')


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse dict keys and set members that are not plain values."""
    for key in keys:
        require(is_plain_key(key), f'a key of type {type(key).__name__}')


def is_sizes(value: Any) -> bool:
    """Whether ``value`` is a sequence of non-negative integers."""
    return type(value) in (tuple, list, torch.Size) and all(
        type(item) is int and item >= 0 for item in value)
