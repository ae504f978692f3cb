"""Depthwise 3x3 convolution on a CPU, by compiled kernels."""
from __future__ import annotations

import ctypes
from typing import Optional

import torch
from torch import Tensor

from ...spec import UnitSpec
from .native import call, has_kernels_for
from .patches import OutputGrad, PatchConv

_TAPS = 9


def has_kernels(spec: UnitSpec, x: Tensor) -> bool:
    """Whether the compiled kernels exist and do this unit on this input."""
    return (spec.groups == spec.in_channels == spec.out_channels
            and spec.kernel_size == 3 and spec.dilation == 1
            and has_kernels_for(x))


class DepthwiseConv(PatchConv):
    """3x3, padding 1, any stride; tensors are brought to channels_last."""

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        out = torch.empty(channels, (_TAPS + 1) * _TAPS, dtype=torch.float64)
        self._call('moments', x, _pixels(x), out)
        products, sums = out.split([_TAPS**2, _TAPS], 1)
        return sums, products.unflatten(1, (_TAPS, _TAPS))

    def weight_grad(self, x: Tensor, grad: OutputGrad,
                    weight: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.empty(_TAPS + 1, x.shape[1], dtype=torch.float64)
        self._call('weight_grad', x, _pixels(x), _pixels(grad.dy),
                   _pixels(grad.active), out)
        return out[:_TAPS].t().reshape(weight.shape), out[_TAPS]

    def input_grad(self, x: Tensor, grad: OutputGrad, weight: Tensor,
                   products: Tensor, sums: Tensor) -> Tensor:
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        moves = torch.cat([products.flatten(1), sums], 1).double()
        self._call('input_grad', x, _pixels(x), _pixels(grad.dy),
                   _pixels(grad.active), weight.contiguous(), moves,
                   after=_pixels(dx))
        return dx

    def _call(self, name: str, x: Tensor, *args, after=None) -> None:
        n, c, h, w = x.shape
        stride = self.spec.stride
        shape = (ctypes.c_int64 * 8)(
            n, h, w, c, stride, (h - 1) // stride + 1, (w - 1) // stride + 1,
            torch.get_num_threads())
        *given, last = args if after is None else (*args, after)
        call(name, x.dtype, *given, shape, last)


def _pixels(x: Optional[Tensor]) -> Optional[Tensor]:
    """Images (N, C, H, W) as contiguous (N, H, W, C)."""
    return None if x is None else x.permute(0, 2, 3, 1).contiguous()
