"""How kernels are started: configurations, types, sizes of grids."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

#: Whether kernels are run by Triton's interpreter, on CPU tensors.
INTERPRETED = bool(triton.knobs.runtime.interpret)
_TYPES = {
    torch.float64: tl.float64,
    torch.float32: tl.float32,
    torch.bfloat16: tl.bfloat16,
    torch.float16: tl.float16,
}


def tuned(configs: Sequence[triton.Config], key: Sequence[str]) -> Callable[[Any], Any]:
    """Decorate a kernel: the fastest of ``configs`` for each value of ``key``, by timing.

    Only for kernels whose results no configuration changes: training has to be the same in every
    run. Those that add up pixels have one configuration each. The interpreter takes the first.
    """

    def decorate(kernel: Any) -> Any:
        chosen = configs[:1] if INTERPRETED else configs
        return triton.autotune(list(chosen), key=list(key))(kernel)

    return decorate


def work_type(x: Tensor) -> Any:
    """In which kernels compute: float32 or, for float64, that."""
    return _TYPES[work_dtype(x)]


def dot_type(x: Tensor) -> Any:
    """In which kernels multiply matrices of a tensor's type; the interpreter has no bfloat16."""
    return work_type(x) if INTERPRETED else _TYPES[x.dtype]


def work_dtype(x: Tensor) -> torch.dtype:
    """The same for tensors."""
    return torch.promote_types(x.dtype, torch.float32)


def pixels(x: Tensor) -> Tensor:
    """Images (N, C, H, W) as contiguous (N, H, W, C); no copy in channels_last."""
    return x.permute(0, 2, 3, 1).contiguous()


def images(x: Tensor) -> Tensor:
    """The inverse of :func:`pixels`."""
    return x.permute(0, 3, 1, 2)
