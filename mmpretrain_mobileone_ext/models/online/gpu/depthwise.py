"""3x3 depthwise convolutions with the moments of their patches, on a GPU."""

from __future__ import annotations

import functools
from typing import Any, Optional

import torch
import triton
from torch import Tensor

from ..batch_fold import PatchSums
from ..convs import OutputGrad, PatchConv
from . import depthwise_kernels as kernels_of
from .depthwise_input import CLASSES, COEFFICIENTS, column_runs, input_grad, stencils
from .launch import images, pixels, work_dtype, work_type
from .sums import sample_mean

#: Output pixels whose products are summed in float32, by each of a tile's lanes: rounding grows
#: with their number, the sums that have to be kept with its inverse.
_SUM_PIXELS = 128
#: Columns of a part of an image.
_COLUMNS = 64
#: Into how many parts pixels are cut where a marked branch's output is added up: few, as most
#: programs find no mark.
_DIRECT_PARTS = 128
#: Of programs that add up pixels, in any run the same: order decides about rounding.
_TILE = dict(LANES=4, CHANNELS=32, num_warps=4)


class TritonDepthwise(PatchConv):
    """3x3, padding 1, stride 1 or 2; images are brought to channels_last.

    They are in any of float32, bfloat16, float16 and float64; all but the last are computed with in
    float32, and sums over many pixels are in float64.
    """

    def pivot(self, x: Tensor) -> Tensor:
        """A typical value of each channel (C,), in float32 or wider."""
        return sample_mean(pixels(x))

    def sums(  # type: ignore[override]
        self, x: Tensor, pivot: Tensor
    ) -> PatchSums:
        """Sums (C, 9) and products (C, 9, 9) of patches around the pivot."""
        parts = self._sum_parts('moments', x, kernels_of.MOMENTS, pixels(x), pivot)
        both = parts.index_select(0, _symmetric(x.device)).t()
        products, sums = both.split([81, 9], 1)
        return PatchSums(self.count(x), sums, products.unflatten(1, (9, 9)), pivot)

    def conv(
        self, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, pivot: Optional[Tensor] = None
    ) -> Tensor:
        """The folded convolution of x itself, whatever the pivot, and a ReLU where one follows."""
        sizes = self._sizes(x)
        out = torch.empty(len(x), *sizes[4:6], x.shape[1], dtype=x.dtype, device=x.device)
        strips = triton.cdiv(sizes[5], _COLUMNS)

        def grid(meta: dict) -> tuple[int]:
            rows = triton.cdiv(sizes[0], meta['LANES'])
            return (rows * strips * triton.cdiv(sizes[3], meta['CHANNELS']),)

        kernels_of.conv[grid](
            *(pixels(x), weight.contiguous(), bias, out, *sizes, _COLUMNS),
            STRIDE=self.spec.stride,
            RELU=relu,
            WORK=work_type(x),
        )
        return images(out)

    def weight_grad(
        self, x: Tensor, grad: OutputGrad, weight: Tensor, pivot: Optional[Tensor] = None
    ) -> tuple[Tensor, Tensor]:
        """Gradients to the folded kernel, in its shape, and to the bias, in float64.

        With a pivot the former is that to the kernel of ``x - pivot``: what the folding needs is
        their distance from the bias's times the patches' mean, which then are no large numbers.
        """
        given = (pixels(x), *_rows(grad), pivot)
        masked = dict(MASKED=grad.active is not None)
        sums = self._sum_parts('weight_grad', x, kernels_of.GRADS, *given, **masked)
        return sums[:9].t().reshape(weight.shape), sums[9]

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

        Args:
            products: (C, 9, 9) symmetric; twice the gradient to the sums of products.
            sums: (C, 9), gradient to the sums.
        """
        _, h, w, c, *outputs = self._sizes(x)
        stride, rows = self.spec.stride, len(x) * h
        runs = column_runs(w, stride, _COLUMNS, x.device)
        dx = torch.empty(len(x), h, w, c, dtype=x.dtype, device=x.device)

        def grid(meta: dict) -> tuple[int]:
            blocks = triton.cdiv(rows, meta['LANES']) * triton.cdiv(c, meta['CHANNELS'])
            return (blocks * len(runs),)

        input_grad[grid](
            *(pixels(x), *_rows(grad), weight.contiguous()),
            *(self._stencils(x, products, sums), pivot, dx, runs),
            *(len(runs), rows, h, w, c, *outputs),
            STRIDE=stride,
            MASKED=grad.active is not None,
            WORK=work_type(x),
        )
        return images(dx)

    def _stencils(self, x: Tensor, products: Tensor, sums: Tensor) -> Tensor:
        channels = x.shape[1]
        shape = CLASSES, CLASSES, COEFFICIENTS, channels
        table = torch.empty(shape, dtype=work_dtype(x), device=x.device)
        stencils[(CLASSES**2 * triton.cdiv(channels, 64),)](
            *(products.double().contiguous(), sums.double().contiguous(), table, channels),
            STRIDE=self.spec.stride,
            CHANNELS=64,
        )
        return table

    def direct_moments(self, x: Tensor, pivot: Tensor, kernels: Tensor, direct: Tensor) -> Tensor:
        """Sums of z and of z^2 (2, J, C) in float64, z of kernels on ``x - pivot``.

        Args:
            kernels: (J, C, 9) of all branches.
            direct: (J, C) bool; elsewhere the sums are 0, and nothing is computed.
        """
        given = (pixels(x), pivot, kernels.contiguous(), direct.contiguous())
        sums = self._sum_rows(kernels_of.direct_moments, x, (2, *direct.shape), given)
        return torch.where(direct, sums, 0)

    def direct_grads(
        self,
        x: Tensor,
        grad: OutputGrad,
        pivot: Tensor,
        kernels: Tensor,
        direct: Tensor,
        mean: Tensor,
    ) -> Tensor:
        """Sums of gradient times ``z - mean`` (J, C) in float64.

        Args:
            kernels, direct: as for :meth:`direct_moments`.
            mean: (J, C) float64, of z.
        """
        given = (
            *(pixels(x), *_rows(grad), pivot, kernels.contiguous(), direct.contiguous()),
            mean.double().contiguous(),
        )
        masked = dict(MASKED=grad.active is not None)
        sums = self._sum_rows(kernels_of.direct_grads, x, direct.shape, given, **masked)
        return torch.where(direct, sums, 0)

    def _sum_rows(
        self, kernel: Any, x: Tensor, shape: tuple, given: tuple, **options: Any
    ) -> Tensor:
        """Run a kernel for marked branches and channels; the sum of its parts, of ``shape``."""
        sizes = self._sizes(x)
        of_part = max(_TILE['LANES'], triton.cdiv(sizes[0], _DIRECT_PARTS))
        count = triton.cdiv(sizes[0], of_part)
        parts = torch.empty(count, *shape, dtype=torch.float64, device=x.device)
        grid = (count * triton.cdiv(x.shape[1], _TILE['CHANNELS']), shape[-2])
        kernel[grid](
            *(*given, parts, *sizes, of_part, sizes[5]), STRIDE=self.spec.stride, **_TILE, **options
        )
        return parts.sum(0)

    def _sum_parts(self, name: str, x: Tensor, values: int, *given: Any, **options: Any) -> Tensor:
        """Run a kernel that adds up parts of the output pixels; their sums (values, C)."""
        sizes = self._sizes(x)
        rows, width = sizes[0], sizes[5]
        columns = min(width, _COLUMNS)
        of_part = _TILE['LANES'] * max(1, _SUM_PIXELS // columns)
        count = triton.cdiv(rows, of_part) * triton.cdiv(width, columns)
        parts = torch.empty(count, values, x.shape[1], dtype=work_dtype(x), device=x.device)
        grid = (count * triton.cdiv(x.shape[1], _TILE['CHANNELS']),)
        getattr(kernels_of, name)[grid](
            *(*given, parts, *sizes, of_part, columns),
            STRIDE=self.spec.stride,
            WORK=work_type(x),
            **_TILE,
            **options,
        )
        return parts.sum(0, dtype=torch.float64)

    def _sizes(self, x: Tensor) -> tuple[int, ...]:
        """Output rows of all images, H, W, C, H_out and W_out."""
        (n, c, h, w), stride = x.shape, self.spec.stride
        h_out, w_out = (h - 1) // stride + 1, (w - 1) // stride + 1
        return n * h_out, h, w, c, h_out, w_out


def _rows(grad: OutputGrad) -> tuple[Tensor, Tensor]:
    """Gradient and what masks it, which nobody reads where nothing does."""
    dy = pixels(grad.dy)
    return dy, dy if grad.active is None else pixels(grad.active)


@functools.lru_cache(maxsize=16)
def _symmetric(device: torch.device) -> Tensor:
    """Where 9 x 9 products and 9 taps lie among the :data:`kernels_of.MOMENTS`."""
    place = torch.zeros(9, 9, dtype=torch.int64)
    upper = torch.triu_indices(9, 9)
    place[upper[0], upper[1]] = place[upper[1], upper[0]] = torch.arange(45)
    with torch.inference_mode(False):  # it is kept for training too
        return torch.cat([place.flatten(), torch.arange(45, 54)]).to(device)
