"""1x1 convolutions with the moments of their input, on a GPU."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
import triton
from torch import Tensor

from ..batch_fold import PatchSums
from ..convs import OutputGrad, PatchConv
from . import pointwise_kernels as kernels_of
from .launch import dot_type, images, pixels, work_type
from .sums import sample_mean

#: Of products over pixels: pixels added up in float32, and channels of a tile.
_CHUNK, _BLOCK = 256, 64
#: Programs that one product over pixels is cut into, about; more keep larger GPUs busy, and each
#: keeps a matrix. It decides about rounding, so no GPU has a number of its own.
_PROGRAMS = 512
#: Parts of the pixels where a marked branch's output is added up.
_DIRECT_PARTS = 64
_TILE = dict(PIXELS=32, CHANNELS=64)
#: Columns of a matrix product's operands are a multiple of it.
_ALIGNED = 8


class TritonPointwise(PatchConv):
    """1x1, stride 1, one group; images are brought to channels_last.

    Moments are never computed in plain TF32. Of half precision, a value minus the pivot is a sum of
    two TF32 numbers, whose three largest products are exact; gradients to a float32 weight are
    computed so too, which is as exact as float32.
    """

    def pivot(self, x: Tensor) -> Tensor:
        """A typical value of each channel (C,), in float32 or wider."""
        return sample_mean(pixels(x))

    def sums(  # type: ignore[override]
        self, x: Tensor, pivot: Tensor
    ) -> PatchSums:
        """Sums (1, C) and products (1, C, C) of pixels around the pivot."""
        rows = _rows(x)
        half = x.element_size() < 4
        parts, sums = _outer(
            *(rows, None, pivot, rows, pivot),
            SYMMETRIC=True,
            PRECISION='tf32x3' if half else 'ieee',
            DOT=work_type(x),
            WORK=work_type(x),
        )
        channels = x.shape[1]
        gram = sums.new_empty(channels, channels)
        tiles = triton.cdiv(channels, 32)
        kernels_of.mirror[(tiles**2,)](parts, gram, len(parts), channels, BLOCK=32)
        return PatchSums(len(rows), sums[None], gram[None], pivot)

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, pivot: Optional[Tensor] = None
    ) -> Tensor:
        """The folded convolution of x itself, whatever the pivot, and a ReLU where one follows."""
        rows, matrix, diagonal = _rows(x), weight.flatten(1), None
        if self.spec.has_skip:
            matrix, diagonal = matrix.clone(), matrix.diagonal().contiguous()
            matrix.diagonal().zero_()
        y = torch.mm(rows, matrix.to(x.dtype).t())
        kernels_of.finish[_grid(*y.shape)](
            *(y, rows, diagonal, bias, *y.shape), RELU=relu, WORK=work_type(x), **_TILE
        )
        return images(y.view(len(x), *x.shape[2:], -1))

    def weight_grad(
        self, x: Tensor, grad: OutputGrad, weight: Tensor, pivot: Optional[Tensor] = None
    ) -> tuple[Tensor, Tensor]:
        """Gradients to the folded kernel, in its shape, and to the bias, in float64.

        With a pivot the former is that to the kernel of ``x - pivot``.
        """
        parts, sums = _outer(
            *(_rows(grad.dy), _rows(grad.active), None, _rows(x), pivot),
            SYMMETRIC=False,
            PRECISION='tf32x3' if x.dtype == torch.float32 else 'ieee',
            DOT=dot_type(x),
            WORK=work_type(x),
        )
        return parts.sum(0).view_as(weight), sums

    def input_grad(  # type: ignore[override]
        self,
        x: Tensor,
        grad: OutputGrad,
        weight: Tensor,
        products: Tensor,
        sums: Tensor,
        pivot: Tensor,
    ) -> Tensor:
        """Gradient to x through the convolution and through the moments around the pivot.

        One product of matrices, in which sums are rounded no more than in float32.
        """
        rows, (out, channels) = _rows(x), weight.shape[:2]
        width = triton.cdiv(channels + out + 3, _ALIGNED) * _ALIGNED
        left, right = rows.new_empty(len(rows), width), rows.new_empty(width, channels)
        kernels_of.beside[_grid(len(rows), width)](
            *(rows, pivot, _rows(grad.dy), _rows(grad.active), left),
            *(len(rows), channels, out, width),
            WORK=work_type(x),
            **_TILE,
        )
        given = (products[0].contiguous(), weight.contiguous(), sums.contiguous())
        grid = (triton.cdiv(width, 32) * triton.cdiv(channels, 32),)
        kernels_of.below[grid](*given, right, channels, out, width, BLOCK=32, WORK=work_type(x))
        return images(torch.mm(left, right).view(len(x), *x.shape[2:], -1))

    def direct_moments(
        self, x: Tensor, pivot: Tensor, kernels: Sequence[Any], direct: Tensor
    ) -> Tensor:
        """Sums of z and of z^2 (2, J, O) in float64, z of kernels on ``x - pivot``.

        Args:
            kernels: (O, C, 1, 1) each; None: the identity.
            direct: (J, O) bool; elsewhere the sums are 0, and nothing is computed.
        """
        given = (_rows(x), pivot)
        return self._sum_rows('direct_moments', given, kernels, direct, (2, *direct.shape))

    def direct_grads(
        self,
        x: Tensor,
        grad: OutputGrad,
        pivot: Tensor,
        kernels: Sequence[Any],
        direct: Tensor,
        mean: Tensor,
    ) -> Tensor:
        """Sums of gradient times ``z - mean`` (J, O) in float64.

        Args:
            kernels, direct: as for :meth:`direct_moments`.
            mean: (J, O) float64, of z.
        """
        given = (_rows(x), _rows(grad.dy), _rows(grad.active), pivot)
        return self._sum_rows('direct_grads', given, kernels, direct, direct.shape, mean)

    def _sum_rows(
        self,
        name: str,
        given: tuple,
        kernels: Sequence[Any],
        direct: Tensor,
        shape: Sequence[int],
        *means: Tensor,
    ) -> Tensor:
        """Run a kernel for what is marked; the sum of its parts, of ``shape``."""
        (count, channels), out = given[0].shape, direct.shape[1]
        of_part = max(_TILE['PIXELS'], triton.cdiv(count, _DIRECT_PARTS))
        num_parts = triton.cdiv(count, of_part)
        parts = torch.empty(num_parts, *shape, dtype=torch.float64, device=direct.device)
        matrices = tuple(None if kernel is None else kernel.contiguous() for kernel in kernels)
        getattr(kernels_of, name)[(num_parts * triton.cdiv(out, 16),)](
            *(*given, matrices, direct.view(torch.int8), *means, parts),
            *(count, of_part, channels, out),
            SIZES=tuple(0 if kernel is None else 1 for kernel in kernels),
            LINES=16,
            **_TILE,
        )
        return torch.where(direct, parts.sum(0), 0)


def _rows(x: Any) -> Any:
    """Images (N, C, H, W) as (N * H * W, C); None stays None."""
    return None if x is None else pixels(x).view(-1, x.shape[1])


def _grid(rows: int, columns: int) -> tuple[int]:
    return (triton.cdiv(rows, _TILE['PIXELS']) * triton.cdiv(columns, _TILE['CHANNELS']),)


def _outer(
    left: Tensor,
    active: Optional[Tensor],
    left_pivot: Optional[Tensor],
    right: Tensor,
    pivot: Optional[Tensor],
    **options: Any,
) -> tuple[Tensor, Tensor]:
    """Parts (parts, LEFT, RIGHT) of a product over pixels, and the left one's sums (LEFT,)."""
    (count, down), across = left.shape, right.shape[1]
    tiles = triton.cdiv(down, _BLOCK) * triton.cdiv(across, _BLOCK)
    wanted = max(1, _PROGRAMS // tiles)
    of_part = triton.cdiv(triton.cdiv(count, wanted), _CHUNK) * _CHUNK
    num_parts = triton.cdiv(count, of_part)
    parts = left.new_empty(num_parts, down, across, dtype=torch.float64)
    sums = parts.new_empty(num_parts, down)
    kernels_of.outer[(num_parts * tiles,)](
        *(left, active, left_pivot, right, pivot, parts, sums, count, of_part, down, across),
        CHUNK=_CHUNK,
        STEP=32,
        BLOCK=_BLOCK,
        num_warps=8,
        **options,
    )
    return parts, sums.sum(0)
