"""Pointwise (1x1) convolution: its patches are its pixels."""
from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from .patches import OutputGrad, PatchConv

#: Pixels whose products are summed in the tensor's own type.
_CHUNK = 2048


class PointwiseConv(PatchConv):
    """1x1, stride 1, one group, on matrices (pixels, channels).

    Images in channels_last are such matrices without a copy.
    """

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        rows = pixel_rows(x)
        sums = rows.new_zeros(rows.shape[1], dtype=torch.float64)
        gram = rows.new_zeros(rows.shape[1], rows.shape[1],
                              dtype=torch.float64)
        for chunk in rows.split(_CHUNK):
            sums += chunk.sum(0)
            _add_gram(gram, chunk)
        half = gram.shape[0] // 2
        gram[half:, :half] = gram[:half, half:].t()
        return sums[None], gram[None]

    def weight_grad(self, x: Tensor, grad: OutputGrad,
                    weight: Tensor) -> tuple[Tensor, Tensor]:
        kernel = torch.zeros_like(weight).flatten(1)
        bias = weight.new_zeros(weight.shape[0])
        for pixels, dy in _chunks(x, grad):
            kernel.addmm_(dy.t(), pixels)
            bias += dy.sum(0)
        return kernel.view_as(weight), bias

    def input_grad(self, x: Tensor, grad: OutputGrad, weight: Tensor,
                   products: Tensor, sums: Tensor) -> Tensor:
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        products, sums = products[0].to(x.dtype), sums.to(x.dtype)
        weight = weight.flatten(1)
        moved = pixel_rows(dx).split(_CHUNK)
        for out, (pixels, dy) in zip(moved, _chunks(x, grad)):
            torch.addmm(sums, pixels, products, out=out)
            out.addmm_(dy, weight)
        return dx


def _chunks(x: Tensor, grad: OutputGrad) -> Iterator[tuple[Tensor, Tensor]]:
    """Pixels of x with the gradients to the convolution's outputs there.

    The gradients share memory: one chunk is to be used before the next.
    """
    pixels, dys = (pixel_rows(t).split(_CHUNK) for t in (x, grad.dy))
    if grad.active is None:
        yield from zip(pixels, dys)
        return
    buffer = torch.empty_like(dys[0])
    for own, dy, active in zip(pixels, dys,
                               pixel_rows(grad.active).split(_CHUNK)):
        yield own, torch.ops.aten.threshold_backward.grad_input(
            dy, active, 0, grad_input=buffer[:len(dy)])


def pixel_rows(x: Tensor) -> Tensor:
    """Images (N, C, H, W) as (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def _add_gram(gram: Tensor, rows: Tensor) -> None:
    """Add ``rows^T rows``, all but its lower left quarter."""
    half = rows.shape[1] // 2
    left, right = rows[:, :half], rows[:, half:]
    gram[:half] += left.t() @ rows
    gram[half:, half:] += right.t() @ right
