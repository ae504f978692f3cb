"""Parameters of all branches in one tensor, and gradients back to each.

One operator then does for all branches what is asked of each: on small
inputs calls cost more than arithmetic.

Layout: kernels (G, J, O, P) for G groups, J branches, O output channels of a
group and P taps; everything per branch and channel (G, J, O).
"""
from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor


def in_own_memory(grads: Iterable[Optional[Tensor]]
                  ) -> list[Optional[Tensor]]:
    """Gradients to parameters, each in a storage of its own.

    Accumulation, clipping, unscaling and optimizers write to gradients in
    place, and autograd may hand on the tensor it was given.
    """
    own: list[Optional[Tensor]] = []
    taken: set[int] = set()
    for grad in grads:
        if grad is not None:
            storage = grad.untyped_storage()
            if (storage.data_ptr() in taken
                    or storage.nbytes() > grad.numel() * grad.element_size()):
                grad = grad.clone(memory_format=torch.contiguous_format)
            taken.add(grad.untyped_storage().data_ptr())
        own.append(grad)
    return own


@dataclass(frozen=True)
class KernelShape:
    """Shape of the convolution that branches fold into."""
    out_channels: int
    groups: int
    width: int  # input channels of a group
    kernel_size: int

    @property
    def taps(self) -> int:
        return self.width * self.kernel_size**2

    def stack(self, kernels: Sequence[Optional[Tensor]],
              like: Tensor) -> Tensor:
        """Kernels (None: the skip branch) as (G, J, O, P), in like's type."""
        parts = [self._full_size(kernel, like) for kernel in kernels]
        # Kernels in channels_last cannot be viewed so.
        return torch.cat(parts).to(like.dtype).reshape(
            len(parts), self.groups, -1, self.taps).transpose(0, 1)

    def stack_channels(self, values: Sequence[Optional[Tensor]],
                       fill: float, like: Tensor) -> Tensor:
        """One (out,) tensor a branch, or ``fill``, as (G, J, O)."""
        given = next((v for v in values if v is not None), like)
        parts = [given.new_full((self.out_channels, ), fill) if v is None
                 else v for v in values]
        return torch.cat(parts).to(like.dtype).view(
            len(parts), self.groups, -1).transpose(0, 1)

    def stack_all(self, params: Sequence[Optional[Tensor]],
                  like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kernels, then gammas, then betas of all branches, stacked."""
        n = len(params) // 3
        return (self.stack(params[:n], like),
                self.stack_channels(params[n:2 * n], 1, like),
                self.stack_channels(params[2 * n:], 0, like))

    def unstack(self, grads: Tensor,
                kernels: Sequence[Optional[Tensor]]) -> list[Optional[Tensor]]:
        """Gradients (G, J, O, P) in the shapes of their kernels.

        They are parts of one tensor and share no element.
        """
        like = next((w for w in kernels if w is not None), grads)
        k, width = self.kernel_size, self.width
        split = grads.transpose(0, 1).to(like.dtype).contiguous().view(
            len(kernels), self.out_channels, width, k, k)
        return [None if kernel is None else _centre(grad, kernel.shape[-1])
                for grad, kernel in zip(split.unbind(), kernels)]

    @staticmethod
    def unstack_channels(grads: Tensor, values: Sequence[Optional[Tensor]]
                         ) -> list[Optional[Tensor]]:
        """Gradients (G, J, O) as (out,) for each branch that has a value."""
        like = next((v for v in values if v is not None), grads)
        split = grads.transpose(0, 1).to(like.dtype).flatten(1)
        return [None if value is None else grad
                for grad, value in zip(split.unbind(), values)]

    def as_weight(self, kernel: Tensor, dtype: torch.dtype) -> Tensor:
        """A folded kernel (G, O, P) as a convolution takes it."""
        return kernel.to(dtype).reshape(self.out_channels, self.width,
                                        self.kernel_size, self.kernel_size)

    def _full_size(self, kernel: Optional[Tensor], like: Tensor) -> Tensor:
        if kernel is None:
            return _identity(self, like.dtype, like.device)
        margin = (self.kernel_size - kernel.shape[-1]) // 2
        return F.pad(kernel, (margin, ) * 4) if margin else kernel


def _centre(grad: Tensor, size: int) -> Tensor:
    """The gradient (O, I, k, k) to a kernel that was padded from ``size``."""
    margin = (grad.shape[-1] - size) // 2
    if not margin:
        return grad
    taps = slice(margin, margin + size)
    return grad[..., taps, taps].contiguous()


@functools.lru_cache(maxsize=64)
def _identity(shape: KernelShape, dtype: torch.dtype,
              device: torch.device) -> Tensor:
    """The kernel that hands its input on."""
    k, out = shape.kernel_size, shape.out_channels
    with torch.inference_mode(False):  # it is kept for training too
        kernel = torch.zeros(out, shape.width, k, k, dtype=dtype,
                             device=device)
        channel = torch.arange(out, device=device)
        kernel[channel, channel % shape.width, k // 2, k // 2] = 1
    return kernel
