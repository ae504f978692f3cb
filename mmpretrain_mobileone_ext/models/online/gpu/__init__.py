"""Units on NVIDIA GPUs, by Triton kernels.

Importing this package imports no triton, which wheels for Windows, macOS and CPUs may lack; asking
:func:`patch_conv` or :func:`folding` does. Whoever runs what these give holds :func:`on_device`.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Optional

import torch
from torch import Tensor

from ...spec import UnitSpec
from ..batch_fold import Folding
from ..convs import PatchConv

_OLDEST = (3, 3)  # kernels keep tuples of tensors through loops
_CAPABILITY = (8, 0)  # bfloat16, float64 sums of a fair speed
_DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


def available(x: Tensor) -> bool:
    """Whether the kernels run where x is, in its type."""
    return (
        x.is_cuda
        and x.dtype in _DTYPES
        and torch.version.hip is None
        and torch.cuda.get_device_capability(x.device) >= _CAPABILITY
        and _has_triton()
    )


def on_device(x: Tensor) -> AbstractContextManager:
    """Kernels start on the current device; this makes x's current."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()


def patch_conv(spec: UnitSpec) -> Optional[PatchConv]:
    """The convolution of a unit with its moments; None: there are no kernels for such a unit."""
    if spec.is_pointwise:
        from .pointwise import TritonPointwise

        return TritonPointwise(spec)
    if _is_small_depthwise(spec):
        from .depthwise import TritonDepthwise

        return TritonDepthwise(spec)
    return None


def folding(spec: UnitSpec, eps: Sequence[float]) -> Optional[Folding]:
    """The folding of a unit; None where :func:`patch_conv` is."""
    if spec.is_pointwise:
        from .pointwise_fold import TritonPointwiseFolding

        return TritonPointwiseFolding(spec, eps)
    if _is_small_depthwise(spec):
        from .depthwise_fold import TritonDepthwiseFolding

        return TritonDepthwiseFolding(spec, eps)
    return None


def _is_small_depthwise(spec: UnitSpec) -> bool:
    return (
        spec.is_depthwise and spec.kernel_size == 3 and spec.dilation == 1 and spec.stride in (1, 2)
    )


@functools.cache
def _has_triton() -> bool:
    try:
        version = importlib.import_module('triton').__version__
    except Exception:  # whatever a half-installed one raises
        return False
    return tuple(int(part) for part in version.split('.')[:2]) >= _OLDEST
