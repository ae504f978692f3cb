"""Patch moments of any convolution, by unfolding: general, and the oracle."""
from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ...spec import UnitSpec

#: Large temporaries are made for so many bytes at a time: fresh memory costs
#: more than the arithmetic on it.
_CHUNK_BYTES = 8 << 20


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
        return OutputGrad(self.dy[images], None if self.active is None
                          else self.active[images])

    def masked(self) -> Tensor:
        """Gradient to the convolution's output."""
        if self.active is None:
            return self.dy
        return torch.ops.aten.threshold_backward(self.dy, self.active, 0)


class PatchConv:
    """A convolution with what batch statistics of its patches take.

    Tensors are (N, C, H, W) of any strides; patches (G, P) as in
    :class:`~.moments.Moments`, taps ordered as in a kernel.

    Args:
        spec: kernel size, stride, padding, dilation and groups.
    """

    def __init__(self, spec: UnitSpec):
        self.spec = spec
        self.geometry = dict(
            stride=spec.stride, padding=spec.padding, dilation=spec.dilation)

    def count(self, x: Tensor) -> int:
        """Output pixels N * H_out * W_out."""
        spec = self.spec
        return x.shape[0] * _output_size(x.shape[2], spec) * _output_size(
            x.shape[3], spec)

    def sums(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Sums (G, P) and sums of products (G, P, P), in float64."""
        sums: list[Tensor] = []
        products: list[Tensor] = []
        for _, patches in self._patches(x):
            sums.append(patches.sum(3).sum(0, dtype=torch.float64))
            products.append(torch.matmul(
                patches, patches.transpose(2, 3)).sum(0, dtype=torch.float64))
        return torch.stack(sums).sum(0), torch.stack(products).sum(0)

    def conv(self, x: Tensor, weight: Tensor, bias: Tensor,
             relu: bool) -> Tensor:
        """The folded convolution, and a ReLU where one follows."""
        out = F.conv2d(x, weight, bias, groups=self.spec.groups,
                       **self.geometry)
        return out.relu_() if relu else out

    def weight_grad(self, x: Tensor, grad: OutputGrad,
                    weight: Tensor) -> tuple[Tensor, Tensor]:
        """Gradients to the folded kernel, in its shape, and to the bias."""
        kernel = torch.zeros_like(weight)
        bias = weight.new_zeros(len(weight))
        for images in _image_chunks(grad.dy):
            _, *own = self._conv_backward(x[images], grad.of(images), weight,
                                          [False, True, True])
            kernel += own[0]
            bias += own[1]
        return kernel, bias

    def input_grad(self, x: Tensor, grad: OutputGrad, weight: Tensor,
                   products: Tensor, sums: Tensor) -> Tensor:
        """Gradient to x through the convolution and through the moments.

        Args:
            products: (G, P, P) symmetric; twice the gradient to the sums of
                products.
            sums: (G, P), gradient to the sums.
        """
        dx, _, _ = self._conv_backward(x, grad, weight,
                                       [True, False, False])
        products, sums = products.to(x.dtype), sums.to(x.dtype)
        for images, patches in self._patches(x):
            moved = torch.matmul(products, patches).add_(sums.unsqueeze(2))
            dx[images] += F.fold(
                moved.flatten(1, 2), x.shape[2:], self.spec.kernel_size,
                **self.geometry)
        return dx

    def _patches(self, x: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Chunks of images and their patches (n, G, P, H_out * W_out)."""
        spec = self.spec
        for images in _image_chunks(x, spec.kernel_size**2 / spec.stride**2):
            unfolded = F.unfold(x[images], spec.kernel_size, **self.geometry)
            yield images, unfolded.unflatten(1, (spec.groups, -1))

    def _conv_backward(self, x: Tensor, grad: OutputGrad, weight: Tensor,
                       mask: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
        spec = self.spec
        return torch.ops.aten.convolution_backward(
            grad.masked(), x, weight, [spec.out_channels], [spec.stride] * 2,
            [spec.padding] * 2, [spec.dilation] * 2, False, [0, 0],
            spec.groups, mask)


def _image_chunks(x: Tensor, growth: float = 1) -> Iterator[slice]:
    """Cut a batch into parts that take few MB, ``growth`` times x's bytes."""
    bytes_of_image = x[0].numel() * x.element_size() * growth
    size = max(1, int(_CHUNK_BYTES / bytes_of_image))
    for first in range(0, len(x), size):
        yield slice(first, first + size)


def _output_size(size: int, spec: UnitSpec) -> int:
    reach = spec.dilation * (spec.kernel_size - 1) + 1
    return (size + 2 * spec.padding - reach) // spec.stride + 1
