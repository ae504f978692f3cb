"""Which exact form a unit takes on an input."""
from __future__ import annotations

import os
from typing import Union

import torch
from torch import Tensor

from ...errors import SpecError
from .unit import Unit

FORMS = ('branches', 'moments', 'recompute', 'running')
PREFERENCES = ('auto', 'memory', True, False)
Preference = Union[str, bool]


def check_preference(value: Preference) -> Preference:
    """Return ``online_reparam`` if it is allowed.

    Raises:
        SpecError: naming what is.
    """
    if value not in PREFERENCES or isinstance(value, int) \
            and not isinstance(value, bool):
        raise SpecError(f'online_reparam={value!r}; allowed are '
                        f'{", ".join(map(repr, PREFERENCES))}')
    return value


def choose_form(unit: Unit, x: Tensor, preference: Preference) -> str:
    force = os.environ.get('FORCE')
    if force:
        d = dict(kv.split('=') for kv in force.split(','))
        k = ('stem' if unit.spec.groups == 1 and unit.spec.kernel_size > 1 else 'pw' if unit.spec.kernel_size==1 else f'dw{unit.spec.stride}')
        return d.get(k, 'branches')
    return 'moments'
