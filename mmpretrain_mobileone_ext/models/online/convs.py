"""Convolutions with the moments of their patches, and gradients by way of both.

:class:`PatchConv` serves every unit by torch's operators and is the oracle. :class:`DepthwiseConv`
and :class:`PointwiseConv` compute the same faster, by compiled kernels and by matrix products.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ..spec import UnitSpec
from .batch_fold import PatchSums, is_half
from .kernels import call, has_kernels_for

_TAPS = 9  # of a depthwise kernel
#: Large temporaries are made for so many bytes at a time: fresh memory costs more than the
#: arithmetic on it.
_CHUNK_BYTES = 8 << 20
#: oneDNN's convolution (torch 2.14.1, AVX2) rounds as a matrix product does up to so many channels;
#: with 256 its error is 1.4 times as large.
_EXACT_CONV = 128
#: Pixels of a chunk of a matrix.
_CHUNK = 2048
#: Pixels whose products are summed in the tensor's own type: so many, and more of many pixels,
#: where errors average.
_SUM_CHUNK, _MOST_SUM_CHUNK = 512, 2048
#: The same of the depthwise kernels: kSumPixels of packed.h.
_TILE = 32
#: Pixels from which a typical one is taken.
_SAMPLE = 64


@dataclass(frozen=True)
class OutputGrad:
    """Gradient to a convolution's output, or to the ReLU after it.

    Attributes:
        dy: (N, C_out, H_out, W_out).
        active: the ReLU's output, or None: dy counts where it is above 0.
    """

    dy: Tensor
    active: Optional[Tensor] = None

    def of(self, images: slice) -> OutputGrad:
        """The part of some of the images."""
        return OutputGrad(self.dy[images], None if self.active is None else self.active[images])

    def to(self, dtype: torch.dtype) -> OutputGrad:
        """Both in another type, in channels_last."""
        layout, active = torch.channels_last, self.active
        if active is not None:
            active = active.to(dtype, memory_format=layout)
        return OutputGrad(self.dy.to(dtype, memory_format=layout), active)

    def masked(self) -> Tensor:
        """Gradient to the convolution's output."""
        if self.active is None:
            return self.dy
        return torch.ops.aten.threshold_backward(self.dy, self.active, 0)


class PatchConv:
    """A convolution with what batch statistics of its patches take.

    Tensors are (N, C, H, W) of any strides; patches (G, P) as in :class:`~.batch_fold.PatchSums`,
    taps ordered as in a kernel.

    Args:
        spec: kernel size, stride, padding, dilation and groups.
    """

    #: Whether the pivot is 0 where a mean is no larger than the values' spread: there is little to
    #: gain, and to move images takes a pass over them.
    sparing = False

    def __init__(self, spec: UnitSpec):
        self.spec = spec
        self.geometry = dict(stride=spec.stride, padding=spec.padding, dilation=spec.dilation)

    def output_shape(self, x: Tensor) -> tuple[int, int, int, int]:
        """(N, C_out, H_out, W_out)."""
        n, _, h, w = x.shape
        spec = self.spec
        return n, spec.out_channels, _output_size(h, spec), _output_size(w, spec)

    def count(self, x: Tensor) -> int:
        """Output pixels N * H_out * W_out."""
        n, _, h, w = self.output_shape(x)
        return n * h * w

    def pivot(self, x: Tensor) -> Tensor:
        """A value (C_in,) near each channel's mean: of some pixels spread over the batch.

        It has few digits where they do, so that one value in many pixels, as a ReLU's 0, stays one
        of few digits: its products add up without rounding, of which many alike make a bias.
        """
        pixels = pixel_rows(x)
        step = -(-len(pixels) // _SAMPLE)
        if has_kernels_for(x):
            out = torch.empty_like(pixels[0])
            call('pixel_pivot', x.dtype, pixels, *pixels.shape, step, int(self.sparing), out)
            return out
        some = pixels[::step].double()
        mean = some.mean(0)
        var = (some - mean).square().mean(0)
        unit = (var.sqrt().frexp()[1].double() - 5).exp2()
        rounded = torch.where((some == some[0]).all(0), mean, (mean / unit).round() * unit)
        if self.sparing:
            rounded = torch.where(mean.square() <= var, 0, rounded)
        return rounded.to(x.dtype)

    def sums(self, x: Tensor, pivot: Tensor) -> PatchSums:
        """Sums over the patches around a pivot (C_in,) of x's type.

        Patches are 0 outside the image, so that there minus the pivot is summed.
        """
        sums = x.new_zeros(self.spec.groups, self.spec.taps, dtype=torch.float64)
        products = sums.new_zeros(*sums.shape, self.spec.taps)
        for _, patches in self._patches(x, pivot):
            sums += patches.sum(3).sum(0, dtype=torch.float64)
            for part in patches.split(_SUM_CHUNK, 3):
                products += torch.matmul(part, part.transpose(2, 3)).sum(0, dtype=torch.float64)
        return PatchSums(self.count(x), sums, products, pivot, _SUM_CHUNK)

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, pivot: Tensor) -> Tensor:
        """The folded convolution, and a ReLU where one follows.

        In half precision of x minus the pivot, to which the bias then belongs: in few digits a
        large mean leaves nothing of small differences.
        """
        geometry = dict(self.geometry, groups=self.spec.groups)
        if is_half(x.dtype):
            x = padded_around(x.to(pivot.dtype), pivot, self.spec.padding).to(x.dtype)
            geometry['padding'] = 0
        out = F.conv2d(x, weight, bias, **geometry)
        return out.relu_() if relu else out

    def weight_grad(
        self, x: Tensor, grad: OutputGrad, weight: Tensor, pivot: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Gradients to the folded kernel, in its shape, and to the bias.

        The kernel's is that of a convolution of patches around the pivot (C_in,): plain patches'
        would be more by the pivot times the bias's.
        """
        kernel = torch.zeros_like(weight)
        bias = weight.new_zeros(len(weight), dtype=torch.float64)
        for images in image_chunks(grad.dy):
            around = padded_around(x[images], pivot, self.spec.padding)
            own = OutputGrad(grad.of(images).masked())
            kernel += self._conv_backward(around, own, weight, [False, True, False], padding=0)[1]
            bias += own.dy.sum((0, 2, 3), dtype=torch.float64)
        return kernel, bias

    def input_grad(
        self,
        x: Tensor,
        grad: OutputGrad,
        weight: Tensor,
        products: Tensor,
        sums: Tensor,
        pivot: Tensor,
    ) -> Tensor:
        """Gradient to x through the convolution and through the moments.

        Args:
            products: (G, P, P) symmetric; twice the gradient to the sums of products.
            sums: (G, P), gradient to the sums.
            pivot: around which both are.
        """
        dx, _, _ = self._conv_backward(x, grad, weight, [True, False, False])
        products, sums = products.to(x.dtype), sums.to(x.dtype)
        for images, patches in self._patches(x, pivot):
            moved = torch.matmul(products, patches).add_(sums.unsqueeze(2))
            dx[images] += F.fold(
                moved.flatten(1, 2), x.shape[2:], self.spec.kernel_size, **self.geometry
            )
        return dx

    def _patches(self, x: Tensor, pivot: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of images and their patches (n, G, P, H_out * W_out) around the pivot."""
        spec = self.spec
        for images in image_chunks(x, spec.kernel_size**2 / spec.stride**2):
            around = padded_around(x[images], pivot, spec.padding)
            unfolded = F.unfold(around, spec.kernel_size, spec.dilation, stride=spec.stride)
            yield images, unfolded.unflatten(1, (spec.groups, -1))

    def _conv_backward(
        self,
        x: Tensor,
        grad: OutputGrad,
        weight: Tensor,
        mask: list[bool],
        padding: Optional[int] = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        spec = self.spec
        return torch.ops.aten.convolution_backward(
            grad.masked(),
            x,
            weight,
            [spec.out_channels],
            [spec.stride] * 2,
            [spec.padding if padding is None else padding] * 2,
            [spec.dilation] * 2,
            False,
            [0, 0],
            spec.groups,
            mask,
        )


def padded_around(x: Tensor, pivot: Tensor, padding: int) -> Tensor:
    """x (N, C, H, W), padded with zeros, minus ``pivot`` (C,)."""
    if padding:
        return F.pad(x, [padding] * 4).sub_(pivot[:, None, None])
    return x - pivot[:, None, None]


def mean_patch(spec: UnitSpec, x: Tensor) -> Tensor:
    """The mean (G, P), float64, of the patches that a unit reads of x (N, C, H, W)."""
    image = x.mean(0, keepdim=True, dtype=torch.float64)
    taps = F.unfold(image, spec.kernel_size, spec.dilation, spec.padding, spec.stride)
    return taps.mean(2).view(spec.groups, -1)


def image_chunks(x: Tensor, growth: float = 1) -> Iterator[slice]:
    """Cut a batch into parts that take few MB, ``growth`` times x's bytes."""
    bytes_of_image = x[0].numel() * x.element_size() * growth
    size = max(1, int(_CHUNK_BYTES / bytes_of_image))
    for first in range(0, len(x), size):
        yield slice(first, first + size)


def _output_size(size: int, spec: UnitSpec) -> int:
    reach = spec.dilation * (spec.kernel_size - 1) + 1
    return (size + 2 * spec.padding - reach) // spec.stride + 1


def has_depthwise_kernels(spec: UnitSpec, x: Tensor) -> bool:
    """Whether the compiled kernels exist and do this unit on this input."""
    return spec.is_depthwise and spec.kernel_size == 3 and spec.dilation == 1 and has_kernels_for(x)


class DepthwiseConv(PatchConv):
    """3x3, padding 1, any stride; tensors are brought to channels_last."""

    def sums(self, x: Tensor, pivot: Tensor) -> PatchSums:
        out = torch.empty(x.shape[1], (_TAPS + 1) * _TAPS, dtype=torch.float64)
        self._call('moments', x, _pixels(x), pivot, out)
        products, sums = out.split([_TAPS**2, _TAPS], 1)
        products = products.unflatten(1, (_TAPS, _TAPS))
        return PatchSums(self.count(x), sums, products, pivot, _TILE)

    def weight_grad(
        self, x: Tensor, grad: OutputGrad, weight: Tensor, pivot: Tensor
    ) -> tuple[Tensor, Tensor]:
        out = torch.empty(_TAPS + 1, x.shape[1], dtype=torch.float64)
        self._call('weight_grad', x, _pixels(x), pivot, _pixels(grad.dy), _pixels(grad.active), out)
        return out[:_TAPS].t().reshape(weight.shape), out[_TAPS]

    def input_grad(
        self,
        x: Tensor,
        grad: OutputGrad,
        weight: Tensor,
        products: Tensor,
        sums: Tensor,
        pivot: Tensor,
    ) -> Tensor:
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        moves = torch.cat([products.flatten(1), sums], 1).double()
        of_output = (_pixels(grad.dy), _pixels(grad.active), weight.contiguous(), moves)
        self._call('input_grad', x, _pixels(x), pivot, *of_output, _pixels(dx))
        return dx

    def _call(self, name: str, x: Tensor, *args: Optional[Tensor]) -> None:
        """Call a kernel with all ``args``, the last of which it fills."""
        n, c, h, w = x.shape
        stride = self.spec.stride
        sizes = (n, h, w, c, stride, (h - 1) // stride + 1, (w - 1) // stride + 1)
        shape = (ctypes.c_int64 * 8)(*sizes, torch.get_num_threads())
        *given, out = args
        call(name, x.dtype, *given, shape, out)


def _pixels(x: Optional[Tensor]) -> Optional[Tensor]:
    """Images (N, C, H, W) as contiguous (N, H, W, C)."""
    return None if x is None else x.permute(0, 2, 3, 1).contiguous()


class PointwiseConv(PatchConv):
    """1x1, stride 1, one group, on matrices (pixels, channels).

    A skip branch puts one large number into each row of the weight. A product would round it again
    with every channel that is added after it, so where kernels exist diagonals are kept out of
    products.
    """

    sparing = True

    def sums(self, x: Tensor, pivot: Tensor) -> PatchSums:
        rows = pixel_rows(x)
        channels = rows.shape[1]
        gram = rows.new_zeros(channels, channels, dtype=torch.float64)
        moments = gram.new_zeros(2, channels)
        run = min(max(_SUM_CHUNK, 8 * math.isqrt(len(rows))), _MOST_SUM_CHUNK)
        parts = chunks(rows, most=run)
        centred = _Centred(parts[0][0], pivot)
        for (chunk,) in parts:
            _add_gram(gram, centred.summed(chunk, moments))
        half = channels // 2
        gram[half:, :half] = gram[:half, half:].t()
        gram.diagonal().copy_(moments[1])
        return PatchSums(len(rows), moments[:1], gram[None], pivot, run)

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor, relu: bool, pivot: Tensor) -> Tensor:
        if not has_kernels_for(x):
            return super().conv(x, weight, bias, relu, pivot)
        rows, skip = pixel_rows(x), self.spec.has_skip
        matrix, diagonal = weight.flatten(1), torch.zeros_like(bias)
        if skip:
            matrix, diagonal = _apart(matrix)
        y = _product(x, matrix)
        given = (y, rows if skip else None, torch.stack([torch.ones_like(bias), diagonal, bias]))
        call('pixel_normalize', y.dtype, *given, int(relu), *size_for_kernels(y), y)
        return y.view(len(x), *x.shape[2:], -1).permute(0, 3, 1, 2)

    def weight_grad(
        self, x: Tensor, grad: OutputGrad, weight: Tensor, pivot: Tensor
    ) -> tuple[Tensor, Tensor]:
        kernel = torch.zeros_like(weight).flatten(1)
        bias = torch.zeros_like(kernel[:, 0], dtype=torch.float64)
        parts = chunks(pixel_rows(x), *_rows(grad), most=_CHUNK)
        buffer, centred = torch.empty_like(parts[0][1]), _Centred(parts[0][0], pivot)
        for pixels, dy, active in parts:
            dy = _masked_and_summed(dy, active, buffer, bias)
            kernel.addmm_(dy.t(), centred.of(pixels))
        return kernel.view_as(weight), bias.to(weight.dtype)

    def input_grad(
        self,
        x: Tensor,
        grad: OutputGrad,
        weight: Tensor,
        products: Tensor,
        sums: Tensor,
        pivot: Tensor,
    ) -> Tensor:
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        parts = chunks(pixel_rows(dx), pixel_rows(x), *_rows(grad), most=_CHUNK)
        move = _move_with_skip if self.spec.has_skip and has_kernels_for(x) else _move
        move(parts, weight.flatten(1), products[0].to(x.dtype), sums.to(x.dtype), pivot)
        return dx


class _Centred:
    """Chunks of pixels minus a pivot, in memory that the next chunk uses again.

    Args:
        like: the largest chunk.
        pivot: (C,).
    """

    def __init__(self, like: Tensor, pivot: Tensor):
        self._pivot = pivot if bool(pivot.any()) else None
        self._buffer = like if self._pivot is None else torch.empty_like(like)

    def of(self, rows: Tensor) -> Tensor:
        """Rows themselves where the pivot is 0."""
        if self._pivot is None:
            return rows
        return torch.sub(rows, self._pivot, out=self._buffer[: len(rows)])

    def summed(self, rows: Tensor, moments: Tensor) -> Tensor:
        """As :meth:`of`; adds the sums of what is returned, and of its squares, to ``moments``.

        More exact than a product: a skip branch's variance is the difference of the two.
        """
        if not has_kernels_for(rows):
            out = self.of(rows)
            moments += torch.stack([out.sum(0), out.square().sum(0)])
            return out
        out = rows if self._pivot is None else self._buffer[: len(rows)]
        given = (rows, self._pivot, *size_for_kernels(rows))
        call('pixel_moments', rows.dtype, *given, out, moments)
        return out


def pixel_rows(x: Tensor) -> Tensor:
    """Images (N, C, H, W) as (N * H * W, C); no copy in channels_last.

    Contiguous in any case: one image in another layout could be viewed as a matrix of strides (1, H
    * W).
    """
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous()


def chunks(*matrices: Optional[Tensor], most: int) -> list[tuple]:
    """The same pixels of all matrices; None stays None.

    Args:
        most: pixels of a chunk. Chunks are of equal size, but for the last, which may be smaller.
    """
    count = next(len(m) for m in matrices if m is not None)
    size = -(-count // -(-count // most))
    return [
        tuple(None if m is None else m[at : at + size] for m in matrices)
        for at in range(0, count, size)
    ]


def size_for_kernels(pixels: Tensor) -> tuple[int, int, int]:
    """What the kernels of pixels.cpp want to know of a matrix."""
    return (*pixels.shape, torch.get_num_threads())


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """The pixels of x times ``matrix`` (O, C), transposed."""
    if x.shape[1] <= _EXACT_CONV:
        return pixel_rows(F.conv2d(x, matrix[:, :, None, None]))
    return torch.mm(pixel_rows(x), matrix.t())


def _move(
    parts: list[tuple], weight: Tensor, products: Tensor, sums: Tensor, pivot: Tensor
) -> None:
    """Fill the first of each of ``parts``: dx, x, dy and active."""
    buffer, centred = torch.empty_like(parts[0][2]), _Centred(parts[0][1], pivot)
    for dx, x, dy, active in parts:
        torch.addmm(sums, centred.of(x), products, out=dx)
        dx.addmm_(_masked(dy, active, buffer), weight)


def _move_with_skip(
    parts: list[tuple], weight: Tensor, products: Tensor, sums: Tensor, pivot: Tensor
) -> None:
    """As :func:`_move`, with diagonals apart."""
    weight, of_grad = _apart(weight)
    products, of_input = _apart(products)
    ones, zeros = torch.ones_like(of_grad), torch.zeros_like(of_grad)
    # Of gradient, input and 1, in dx and in a copy of the gradient.
    factors = torch.stack([of_grad, of_input, sums.flatten(), ones, zeros, zeros])
    buffer, centred = torch.empty_like(parts[0][0]), _Centred(parts[0][1], pivot)
    for dx, x, dy, active in parts:
        masked, around = buffer[: len(dx)], centred.of(x)
        given = (dy, active, around, around, factors)
        call('pixel_input_grads', dx.dtype, *given, *size_for_kernels(dx), masked, dx)
        dx.addmm_(around, products)
        dx.addmm_(masked, weight)


def _masked(dy: Tensor, active: Optional[Tensor], buffer: Tensor) -> Tensor:
    """A ReLU's gradient, in memory that the next call may use again."""
    if active is None:
        return dy
    return torch.ops.aten.threshold_backward.grad_input(dy, active, 0, grad_input=buffer[: len(dy)])


def _masked_and_summed(
    dy: Tensor, active: Optional[Tensor], buffer: Tensor, sums: Tensor
) -> Tensor:
    """As :func:`_masked`; adds the sum of its pixels to ``sums``."""
    if active is None or not has_kernels_for(dy):
        dy = _masked(dy, active, buffer)
        sums += dy.sum(0)
        return dy
    masked = buffer[: len(dy)]
    call('pixel_mask', dy.dtype, dy, active, *size_for_kernels(dy), masked, sums)
    return masked


def _rows(grad: OutputGrad) -> tuple[Tensor, Optional[Tensor]]:
    return pixel_rows(grad.dy), (None if grad.active is None else pixel_rows(grad.active))


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
