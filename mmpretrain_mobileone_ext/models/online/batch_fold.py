"""Fold branches by the statistics of a batch: formulas and gradients.

With patches p of mean mu and covariance S, branch j with kernel w_j has, per
output channel, ``mean_j = w_j mu`` and ``var_j = w_j S w_j^T``. The block is
the convolution ``W = sum_j a_j w_j``, ``b = sum_j beta_j - a_j mean_j`` with
``a_j = gamma_j / sqrt(var_j + eps_j)``, which is what its batch norms compute
(arXiv 1502.03167, algorithm 1) as every branch is linear in p.

Layout here: kernels (G, J, O, P) for G groups, J branches, O output channels
of a group and P taps; everything per branch and channel (G, J, O).
"""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from .moments import Moments

#: A variance smaller than this share of ``sum_t w_t^2 E[p_t^2]`` is the small
#: difference of large float32 sums; branches compute it better.
_CANCELLATION = 1e-3


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
        """Kernels of all branches as (G, J, O, P), in ``like``'s dtype."""
        out, k = self.out_channels // self.groups, self.kernel_size
        stacked = like.new_zeros(self.groups, len(kernels), out,
                                 self.width, k, k)
        for index, kernel in enumerate(kernels):
            own = stacked[:, index]
            if kernel is None:
                tap = torch.arange(out, device=like.device)
                own[:, tap, tap, k // 2, k // 2] = 1
            elif kernel.shape[-1] == k:
                own.copy_(kernel.view_as(own))
            else:
                own[..., k // 2, k // 2] = kernel.view(own.shape[:3])
        return stacked.flatten(3)

    def as_weight(self, kernel: Tensor, dtype: torch.dtype) -> Tensor:
        """A folded kernel (G, O, P) as a convolution takes it."""
        return kernel.to(dtype).reshape(self.out_channels, self.width,
                                        self.kernel_size, self.kernel_size)

    def unstack(self, grad: Tensor, kernel: Tensor, index: int) -> Tensor:
        """The gradient (G, J, O, P) of one branch, in its kernel's shape."""
        k = self.kernel_size
        own = grad[:, index]
        if kernel.shape[-1] != k:
            own = own.unflatten(2, (self.width, k, k))[..., k // 2, k // 2]
        return own.reshape(kernel.shape).to(kernel.dtype)

    def stack_all(self, params: Sequence[Optional[Tensor]],
                  like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kernels, then gammas, then betas of all branches, stacked."""
        n = len(params) // 3
        return (self.stack(params[:n], like),
                self.stack_channels(params[n:2 * n], 1, like),
                self.stack_channels(params[2 * n:], 0, like))

    def stack_channels(self, values: Sequence[Optional[Tensor]],
                       fill: float, like: Tensor) -> Tensor:
        """One (out,) tensor a branch, or ``fill``, as (G, J, O)."""
        given = next((v for v in values if v is not None), like)
        stacked = torch.stack([
            given.new_full((self.out_channels, ), fill) if v is None else v
            for v in values
        ])
        return stacked.to(like.dtype).view(
            len(values), self.groups, -1).transpose(0, 1)


@dataclass(frozen=True)
class BatchFold:
    """What a batch's statistics make of the branches.

    Attributes:
        mean: (G, J, O) of each branch's output.
        inv_std: (G, J, O), 1 / sqrt(var + eps).
    """
    mean: Tensor
    inv_std: Tensor

    def weight(self, kernels: Tensor, gamma: Tensor) -> Tensor:
        """Folded kernel (G, O, P)."""
        return (kernels * (gamma * self.inv_std).unsqueeze(3)).sum(1)

    def bias(self, gamma: Tensor, beta: Tensor) -> Tensor:
        """Folded bias (G, O)."""
        return (beta - gamma * self.inv_std * self.mean).sum(1)


def _times_cov(kernels: Tensor, cov: Tensor) -> Tensor:
    """``w S`` for all branches, (G, J, O, P)."""
    return torch.bmm(kernels.flatten(1, 2), cov).view_as(kernels)


def branch_variances(kernels: Tensor, eps: Sequence[float],
                     moments: Moments) -> Optional[Tensor]:
    """Biased variances (G, J, O) of all branches' outputs.

    None where cancellation spoils one of them, or where they are not finite.
    """
    var = (_times_cov(kernels, moments.cov) * kernels).sum(3).clamp_(min=0)
    bound = torch.matmul(kernels.square().flatten(1, 2),
                         moments.power.unsqueeze(2)).view_as(var)
    safe = _shifted(var, eps) >= _CANCELLATION * bound
    return var if bool(safe.all()) else None


def fold_by_batch(kernels: Tensor, var: Tensor, eps: Sequence[float],
                  moments: Moments) -> BatchFold:
    """Fold kernels (G, J, O, P) of variances (G, J, O)."""
    mean = (kernels * moments.mean[:, None, None]).sum(3)
    return BatchFold(mean, _shifted(var, eps).rsqrt())


def _shifted(var: Tensor, eps: Sequence[float]) -> Tensor:
    return var + var.new_tensor(eps).view(1, -1, 1)


@dataclass(frozen=True)
class FoldGrads:
    """Gradients to a batch fold's inputs.

    Attributes:
        kernels: (G, J, O, P).
        gamma: (G, J, O).
        cov: (G, P, P), symmetric.
        mean: (G, P), with the covariance held fixed.
    """
    kernels: Tensor
    gamma: Tensor
    cov: Tensor
    mean: Tensor


def fold_backward(fold: BatchFold, kernels: Tensor, gamma: Tensor,
                  patch_mean: Tensor, cov: Tensor, grad_weight: Tensor,
                  grad_bias: Tensor) -> FoldGrads:
    """Back from the folded kernel (G, O, P) and bias (G, O).

    beta's gradient is ``grad_bias`` itself, for every branch.
    """
    grad_bias = grad_bias.unsqueeze(1)
    scale = gamma * fold.inv_std
    grad_scale = ((kernels * grad_weight.unsqueeze(1)).sum(3)
                  - grad_bias * fold.mean)
    grad_var = -0.5 * grad_scale * scale * fold.inv_std.square()
    grad_mean = -grad_bias * scale
    own = _times_cov(kernels, cov).mul_(
        2 * grad_var.unsqueeze(3))
    own.addcmul_(scale.unsqueeze(3), grad_weight.unsqueeze(1))
    own.addcmul_(grad_mean.unsqueeze(3), patch_mean[:, None, None])
    flat = kernels.flatten(1, 2)
    grad_cov = torch.bmm(flat.transpose(1, 2) *
                         grad_var.flatten(1, 2).unsqueeze(1), flat)
    mean = (kernels * grad_mean.unsqueeze(3)).sum((1, 2))
    return FoldGrads(own, grad_scale * fold.inv_std, grad_cov, mean)
