"""Refuse numbers that no trained network has, before they are copied.

torch casts what it loads: int8 and complex numbers become float32 without a
word, and NaN is copied as it is.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CheckpointError

#: What is cast to each other. float8 is not among them: it comes with scales
#: in tensors of their own, without which its numbers are others.
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_LARGEST = {dtype: torch.finfo(dtype).max for dtype in FLOATS}
_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32, torch.int64)
_STATISTICS = ('running_mean', 'running_var')


def check_dtypes(given: Mapping[str, Any], own: Mapping[str, Any],
                 prefix: str = '') -> None:
    """Refuse tensors of another kind of number than the network's.

    Floating-point dtypes from 16 to 64 bits go for each other, and so do
    integers.

    Args:
        given: tensors by key.
        own: of the network; keys that it has not are not looked at.
        prefix: precedes keys in the message.

    Raises:
        CheckpointError: names the key and both dtypes.
    """
    for key, value in given.items():
        mine = own.get(key)
        if not isinstance(value, Tensor) or not isinstance(mine, Tensor):
            continue
        if value.layout != torch.strided:
            raise CheckpointError(f'{prefix}{key} is a {_short(value.layout)} '
                                  'tensor; allowed is a dense one')
        allowed = _kind(mine.dtype)
        if value.dtype not in allowed:
            raise CheckpointError(
                f'{prefix}{key} is {_short(value.dtype)} in the checkpoint '
                f'and {_short(mine.dtype)} in the model; allowed are '
                f'{", ".join(map(_short, allowed))}')


def _kind(dtype: torch.dtype) -> Sequence[torch.dtype]:
    return next((k for k in (FLOATS, _INTEGERS) if dtype in k), (dtype, ))


def _short(value: Any) -> str:
    return str(value).removeprefix('torch.')


def check_finite(module: nn.Module, given: Mapping[str, Any],
                 prefix: str = '') -> None:
    """Refuse weights and running statistics that are NaN or infinite.

    Finite is what is so in the module's own dtype: 1e39 is not in float32.
    Other buffers, such as masks, may hold what they like.

    Args:
        module: gives the names of weights and their dtypes.
        given: tensors by key of the module, of the module's shapes, or its
            own state dict.
        prefix: precedes keys in the message.

    Raises:
        CheckpointError: names the first keys.
    """
    dtypes = {k: p.dtype
              for k, p in module.named_parameters(remove_duplicate=False)}
    dtypes.update({k: b.dtype for k, b in module.named_buffers(
        remove_duplicate=False) if k.endswith(_STATISTICS)})
    bad = [prefix + key for key, dtype in dtypes.items()
           if key in given and not _is_finite(given[key], dtype)]
    if bad:
        more = ', ...' if len(bad) > 3 else ''
        raise CheckpointError(
            f'{len(bad)} of {len(given)} tensors are not finite (they hold '
            f'NaN, infinite or too large numbers): {", ".join(bad[:3])}{more}')


def _is_finite(value: Any, dtype: torch.dtype) -> bool:
    if not isinstance(value, Tensor) or value.is_meta or not value.numel() \
            or value.dtype not in _LARGEST or dtype not in _LARGEST:
        return True
    value, top = value.detach(), _LARGEST[dtype]
    # Any NaN or infinity is left in the sum; this is the quick way.
    if top >= _LARGEST[value.dtype] and math.isfinite(value.sum().item()):
        return True
    if value.dtype in (torch.float16, torch.bfloat16):
        value = value.float()
    low, high = torch.aminmax(value)
    # NaN is neither.
    return -top <= low.item() and high.item() <= top
