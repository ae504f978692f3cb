"""What torch is doing around a unit, asked on every version from 2.1 on."""
from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor
from torch.nn.modules import module as torch_module

__all__ = [
    'autocast_dtype', 'has_global_hooks', 'is_compiling', 'is_exporting',
    'is_functorch_wrapped_tensor'
]

_GLOBAL_HOOKS = ('_global_backward_pre_hooks', '_global_backward_hooks',
                 '_global_forward_pre_hooks', '_global_forward_hooks')


def autocast_dtype(x: Tensor) -> Optional[torch.dtype]:
    """Type that autocast gives a convolution of x; None: x keeps its own."""
    device = x.device.type
    if x.dtype == torch.float64:
        return None
    if hasattr(torch.amp, 'is_autocast_available'):
        on = (torch.amp.is_autocast_available(device)
              and torch.is_autocast_enabled(device))
        return torch.get_autocast_dtype(device) if on else None
    # torch < 2.5
    if device == 'cpu':
        on, dtype = (torch.is_autocast_cpu_enabled(),
                     torch.get_autocast_cpu_dtype())
    else:
        on = device == 'cuda' and torch.is_autocast_enabled()
        dtype = torch.get_autocast_gpu_dtype()
    return dtype if on else None


def has_global_hooks() -> bool:
    """Whether hooks are registered for all modules at once."""
    return any(getattr(torch_module, name) for name in _GLOBAL_HOOKS)


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces."""
    if hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return torch._dynamo.is_compiling()  # torch < 2.3


def is_exporting() -> bool:
    """Whether torch.export traces; torch < 2.7 does not tell."""
    asked = getattr(torch.compiler, 'is_exporting', None)
    return asked is not None and asked()
