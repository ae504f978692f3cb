"""Depthwise 3x3 convolution on a CPU, by compiled kernels.

A patch has nine taps a channel. Gradients by way of the moments reach an
input pixel q from every pixel that shares a patch with it, at most two rows
and columns away: a 5x5 stencil that depends on which taps q serves (three of
a row and a column inside; fewer at borders and between strides).
"""
from __future__ import annotations

import ctypes
import functools
import itertools
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ...spec import UnitSpec
from .native import call, has_kernels_for
from .patches import OutputGrad, PatchConv

_TAPS = 9
_STENCIL = 26  # 5x5 coefficients and a constant
_LINE_BYTES = 64  # channels the kernels take at a time


def has_kernels(spec: UnitSpec, x: Tensor) -> bool:
    """Whether the compiled kernels exist and do this unit on this input."""
    return (spec.groups == spec.in_channels == spec.out_channels
            and spec.kernel_size == 3 and spec.dilation == 1
            and has_kernels_for(x))


class DepthwiseConv(PatchConv):
    """3x3, padding 1, any stride; tensors are brought to channels_last."""

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        channels = x.shape[1]
        out = torch.empty((_TAPS + 1) * _TAPS, channels, dtype=torch.float64)
        self._call('moments', x, _pixels(x), out)
        products = out[:_TAPS**2].view(_TAPS, _TAPS, channels)
        return out[_TAPS**2:].t(), products.permute(2, 0, 1)

    def weight_grad(self, x: Tensor, grad: OutputGrad,
                    weight: Tensor) -> tuple[Tensor, Tensor]:
        out = torch.empty(_TAPS + 1, x.shape[1], dtype=torch.float64)
        self._call('weight_grad', x, _pixels(x), _pixels(grad.dy),
                   _pixels(grad.active), out)
        return out[:_TAPS].t().reshape(weight.shape), out[_TAPS]

    def input_grad(self, x: Tensor, grad: OutputGrad, weight: Tensor,
                   products: Tensor, sums: Tensor) -> Tensor:
        masks = _masks(x.shape[2], self.spec.stride), _masks(
            x.shape[3], self.spec.stride)
        matrix, class_of = _stencil_matrix(*masks)
        factors = torch.cat([products.flatten(1), sums], 1)
        stencils = (factors @ matrix.to(factors)).to(x.dtype)
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        self._call('input_grad', x, _pixels(x), _pixels(grad.dy),
                   _pixels(grad.active), _lines(weight.reshape(-1, _TAPS)),
                   _lines(stencils), class_of,
                   stencils.shape[1] // _STENCIL, after=_pixels(dx))
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


def _lines(values: Tensor) -> Tensor:
    """(C, K) as (lines, K, channels of a line), zeros after channel C."""
    line = _LINE_BYTES // values.element_size()
    channels, width = values.shape
    if channels % line:
        values = F.pad(values, (0, 0, 0, -channels % line))
    return values.view(-1, line, width).transpose(1, 2).contiguous()


@functools.cache
def _masks(size: int, stride: int) -> frozenset[int]:
    """Which taps (bits) the positions of an axis serve."""
    outputs = (size - 1) // stride + 1
    return frozenset(
        sum(1 << t for t in range(3)
            if (q + 1 - t) % stride == 0 and q + 1 - t >= 0
            and (q + 1 - t) // stride < outputs) for q in range(size))


@functools.cache
def _stencil_matrix(rows: frozenset[int],
                    cols: frozenset[int]) -> tuple[Tensor, Tensor]:
    """What makes stencils from gradients to products (81) and sums (9).

    Returns:
        Matrix (90, classes * 26), and the class of each pair of masks, at
        ``row mask * 8 + column mask``.
    """
    class_of = torch.zeros(64, dtype=torch.int64)
    columns = []
    for index, (row, col) in enumerate(
            itertools.product(sorted(rows), sorted(cols))):
        class_of[row * 8 + col] = index
        columns.append(_stencil_columns(row, col))
    return torch.cat(columns, 1), class_of


def _stencil_columns(row: int, col: int) -> Tensor:
    columns = torch.zeros((_TAPS + 1) * _TAPS, _STENCIL, dtype=torch.float64)
    for t in range(_TAPS):
        if not (row >> t // 3 & 1 and col >> t % 3 & 1):
            continue
        columns[_TAPS**2 + t, -1] = 1
        for u in range(_TAPS):
            down, right = u // 3 - t // 3 + 2, u % 3 - t % 3 + 2
            columns[t * _TAPS + u, down * 5 + right] = 1
    return columns
