"""Pointwise (1x1) convolution: its patches are its pixels."""
from __future__ import annotations

from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .native import call, has_kernels_for
from .patches import OutputGrad, PatchConv
from .pixels import chunks, pixel_rows, size_for_kernels

#: oneDNN's convolution (torch 2.14.1, AVX2) rounds as a matrix product does
#: up to so many channels; with 256 its error is 1.4 times as large.
_EXACT_CONV = 128
#: Pixels of a chunk.
_CHUNK = 8192
#: Pixels whose products are summed in the tensor's own type: with 8192 their
#: error is three times as large.
_SUM_CHUNK = 2048


class PointwiseConv(PatchConv):
    """1x1, stride 1, one group, on matrices (pixels, channels).

    A skip branch puts one large number into each row of the weight. A
    product would round it again with every channel that is added after it,
    so where kernels exist diagonals are kept out of products.
    """

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = pixel_rows(x)
        channels = rows.shape[1]
        gram = rows.new_zeros(channels, channels, dtype=torch.float64)
        moments = gram.new_zeros(2, channels)
        for (chunk, ) in chunks(rows, most=_SUM_CHUNK):
            _add_gram(gram, chunk)
            _add_moments(moments, chunk)
        half = channels // 2
        gram[half:, :half] = gram[:half, half:].t()
        gram.diagonal().copy_(moments[1])
        return moments[:1], gram[None]

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor,
             relu: bool) -> Tensor:
        if not has_kernels_for(x):
            return super().conv(x, weight, bias, relu)
        rows, skip = pixel_rows(x), self.spec.has_skip
        matrix, diagonal = weight.flatten(1), torch.zeros_like(bias)
        if skip:
            matrix, diagonal = _apart(matrix)
        y = _product(x, matrix)
        call('pixel_normalize', y.dtype, y, rows if skip else None,
             torch.stack([torch.ones_like(bias), diagonal, bias]), int(relu),
             *size_for_kernels(y), y)
        return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)

    def weight_grad(self, x: Tensor, grad: OutputGrad,
                    weight: Tensor) -> tuple[Tensor, Tensor]:
        kernel = torch.zeros_like(weight).flatten(1)
        bias = torch.zeros_like(kernel[:, 0], dtype=torch.float64)
        parts = chunks(pixel_rows(x), *_rows(grad), most=_CHUNK)
        buffer = torch.empty_like(parts[0][1])
        for pixels, dy, active in parts:
            dy = _masked_and_summed(dy, active, buffer, bias)
            kernel.addmm_(dy.t(), pixels)
        return kernel.view_as(weight), bias.to(weight.dtype)

    def input_grad(self, x: Tensor, grad: OutputGrad, weight: Tensor,
                   products: Tensor, sums: Tensor) -> Tensor:
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        parts = chunks(pixel_rows(dx), pixel_rows(x), *_rows(grad),
                       most=_CHUNK)
        move = (_move_with_skip if self.spec.has_skip and has_kernels_for(x)
                else _move)
        move(parts, weight.flatten(1), products[0].to(x.dtype),
             sums.to(x.dtype))
        return dx


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """The pixels of x times ``matrix`` (O, C), transposed."""
    if x.shape[1] <= _EXACT_CONV:
        return pixel_rows(F.conv2d(x, matrix[:, :, None, None]))
    return torch.mm(pixel_rows(x), matrix.t())


def _move(parts: list[tuple], weight: Tensor, products: Tensor,
          sums: Tensor) -> None:
    """Fill the first of each of ``parts``: dx, x, dy and active."""
    buffer = torch.empty_like(parts[0][2])
    for dx, x, dy, active in parts:
        torch.addmm(sums, x, products, out=dx)
        dx.addmm_(_masked(dy, active, buffer), weight)


def _move_with_skip(parts: list[tuple], weight: Tensor, products: Tensor,
                    sums: Tensor) -> None:
    """As :func:`_move`, with diagonals apart."""
    weight, of_grad = _apart(weight)
    products, of_input = _apart(products)
    ones, zeros = torch.ones_like(of_grad), torch.zeros_like(of_grad)
    # Of gradient, input and 1, in dx and in a copy of the gradient.
    factors = torch.stack([of_grad, of_input, sums.flatten(),
                           ones, zeros, zeros])
    buffer = torch.empty_like(parts[0][0])
    for dx, x, dy, active in parts:
        masked = buffer[:len(dx)]
        call('pixel_input_grads', dx.dtype, dy, active, x, x, factors,
             *size_for_kernels(dx), masked, dx)
        dx.addmm_(x, products)
        dx.addmm_(masked, weight)


def _masked(dy: Tensor, active: Optional[Tensor], buffer: Tensor) -> Tensor:
    """A ReLU's gradient, in memory that the next call may use again."""
    if active is None:
        return dy
    return torch.ops.aten.threshold_backward.grad_input(
        dy, active, 0, grad_input=buffer[:len(dy)])


def _masked_and_summed(dy: Tensor, active: Optional[Tensor], buffer: Tensor,
                       sums: Tensor) -> Tensor:
    """As :func:`_masked`; adds the sum of its pixels to ``sums``."""
    if active is None or not has_kernels_for(dy):
        dy = _masked(dy, active, buffer)
        sums += dy.sum(0)
        return dy
    masked = buffer[:len(dy)]
    call('pixel_mask', dy.dtype, dy, active, *size_for_kernels(dy), masked,
         sums)
    return masked


def _rows(grad: OutputGrad) -> tuple[Tensor, Optional[Tensor]]:
    return pixel_rows(grad.dy), (
        None if grad.active is None else pixel_rows(grad.active))


def _apart(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """A square matrix without its diagonal, and the diagonal."""
    rest = matrix.clone()
    rest.diagonal().zero_()
    return rest, matrix.diagonal()


def _add_gram(gram: Tensor, rows: Tensor) -> None:
    """Add ``rows^T rows``, all but its lower left quarter."""
    half = rows.shape[1] // 2
    left, right = rows[:, :half], rows[:, half:]
    gram[:half] += left.t() @ rows
    gram[half:, half:] += right.t() @ right


def _add_moments(moments: Tensor, rows: Tensor) -> None:
    """Add the sums of rows and of their squares, more exact than a product.

    A skip branch's variance is the difference of the two.
    """
    if has_kernels_for(rows):
        call('pixel_moments', rows.dtype, rows, *size_for_kernels(rows),
             moments)
    else:
        moments += torch.stack([rows.sum(0), rows.square().sum(0)])
