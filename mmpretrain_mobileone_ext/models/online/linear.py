"""The sum of a unit's branches, in the form chosen for it."""
from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Optional

import torch
from torch import Tensor

from .choose import Choice, Preference, SmallInputs, choose_form
from .moments_form import moments_form
from .recompute_form import fused_form, recompute_form
from .running_form import running_form
from .torch_state import (
    autocast_dtype,
    is_exporting,
    is_functorch_wrapped_tensor,
)
from .unit import Unit


@torch.compiler.disable
def online_sum(unit: Unit, x: Tensor,
               preference: Preference) -> Optional[Tensor]:
    """Sum of all branches of ``x``, or None where they have to run.

    Under autocast x is brought to its type, and statistics and folding stay
    in float32 or better.
    """
    form = _closer_look(unit, x, preference).form
    if form == 'branches':
        return None
    dtype = autocast_dtype(x)
    x = x.to(dtype or x.dtype, memory_format=torch.channels_last)
    with torch.autocast(x.device.type, enabled=False) if dtype else \
            nullcontext():
        return {'fused': fused_form, 'moments': moments_form,
                'recompute': recompute_form,
                'running': running_form}[form](unit, x)


def planned_form(unit: Unit, x: Tensor, preference: Preference,
                 training: bool) -> Choice:
    """What a unit in this mode does with x, and why."""
    if training and SmallInputs(unit.spec).contain(x, preference):
        return Choice('branches', 'small input')
    return _closer_look(unit, x, preference)


def _closer_look(unit: Unit, x: Tensor, preference: Preference) -> Choice:
    if (_is_plain_tensor(x) and unit.is_plain()
            and _fits(unit.parameters, x, autocast_dtype(x))):
        return choose_form(unit, x, preference)
    return Choice('branches', 'no other form is defined')


def _is_plain_tensor(x: Tensor) -> bool:
    """Whether x is an image batch, and nobody records what runs."""
    return (type(x) in (Tensor, torch.nn.Parameter) and x.dim() == 4
            and x.numel() > 0 and not torch.jit.is_tracing()
            and not is_exporting())


def _fits(params: Sequence[Optional[Tensor]], x: Tensor,
          autocast: Optional[torch.dtype]) -> bool:
    """Whether parameters are where x is, in the type a convolution wants.

    Not so where one, or x, stands for others (``torch.func``): the forms
    have gradients and batches of their own.
    """
    dtype = autocast or x.dtype
    wanted = (torch.float32 if dtype in (torch.float16, torch.bfloat16)
              else dtype)
    return (wanted in (torch.float32, torch.float64)
            and (autocast is not None or dtype == wanted)
            and not is_functorch_wrapped_tensor(x)
            and all(p is None or (p.dtype == wanted and p.device == x.device
                                  and not is_functorch_wrapped_tensor(p))
                    for p in params))
