"""Fold branches by the statistics of a batch: formulas and gradients.

With patches p of mean mu and covariance S, branch j with kernel w_j has, per
output channel, ``mean_j = w_j mu`` and ``var_j = w_j S w_j^T``. The block is
the convolution ``W = sum_j a_j w_j``, ``b = sum_j beta_j - a_j mean_j`` with
``a_j = gamma_j / sqrt(var_j + eps_j)``, which is what its batch norms compute
(arXiv 1502.03167, algorithm 1) as every branch is linear in p.

Layout as in :mod:`.branch_stack`: kernels (G, J, O, P), channels (G, J, O).
"""
from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from .moments import Moments

#: A variance smaller than this share of ``sum_t w_t^2 E[p_t^2]`` is the small
#: difference of large float32 sums; branches compute it better.
CANCELLATION = 1e-3


@dataclass(frozen=True)
class NormStats:
    """What branches are normalized by, and folding with it.

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


def fold_by_batch(kernels: Tensor, eps: Sequence[float], moments: Moments
                  ) -> Optional[tuple[NormStats, Tensor, Tensor]]:
    """Fold kernels (G, J, O, P) by the moments of their patches.

    Returns:
        The statistics, the biased variances (G, J, O) of all branches'
        outputs, and kernels times covariance, like kernels, which backward
        needs; None where cancellation spoils a variance, or where they are not
        finite.
    """
    flat, shape = kernels.flatten(1, 2), kernels.shape[:3]
    by_cov = torch.bmm(flat, moments.cov)
    var = torch.mul(by_cov, flat).sum(2).view(shape).clamp_(min=0)
    bound = torch.bmm(flat.square(), moments.power.unsqueeze(2)).view(shape)
    shifted = var + _eps(tuple(eps), var.dtype, var.device)
    if not bool((shifted >= bound.mul_(CANCELLATION)).all()):
        return None
    patch_mean = moments.mean.to(flat.dtype)
    mean = torch.bmm(flat, patch_mean.unsqueeze(2)).view(shape)
    return (NormStats(mean, shifted.rsqrt_()), var,
            by_cov.view(kernels.shape))


def centring_bias(weight: Tensor, beta: Tensor,
                  patch_mean: Tensor) -> Tensor:
    """Bias (G, O) with which the outputs' mean is the sum of betas.

    It is the fold's, but for what rounding did to ``weight``: the output is
    ``weight (p - mu) + sum_j beta_j``, however it was rounded.

    Args:
        weight: folded kernel (G, O, P), as the convolution has it.
        beta: (G, J, O).
        patch_mean: (G, P) float64.
    """
    mean = torch.bmm(weight.double(), patch_mean.unsqueeze(2)).squeeze(2)
    return beta.sum(1, dtype=torch.float64).sub_(mean)


@functools.lru_cache(maxsize=64)
def _eps(values: tuple[float, ...], dtype: torch.dtype,
         device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept for training too
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1)


@dataclass(frozen=True)
class FoldGrads:
    """Gradients that come of those to the folded convolution.

    Attributes:
        kernels: (G, J, O, P).
        gamma: (G, J, O).
        twice_cov: (G, P, P), symmetric; twice the gradient.
        mean: (G, P), with the covariance held fixed.
    """
    kernels: Tensor
    gamma: Tensor
    twice_cov: Tensor
    mean: Tensor


def fold_backward(stats: NormStats, kernels: Tensor, gamma: Tensor,
                  patch_mean: Tensor, by_cov: Tensor, grad_weight: Tensor,
                  grad_bias: Tensor) -> FoldGrads:
    """Back from the folded kernel (G, O, P) and bias (G, O).

    ``by_cov`` as from :func:`fold_by_batch`; beta's gradient is
    ``grad_bias`` itself, for every branch.
    """
    grad_weight, grad_bias = grad_weight.unsqueeze(1), grad_bias.unsqueeze(1)
    scale, flat = gamma * stats.inv_std, kernels.flatten(1, 2)
    grad_scale = (kernels * grad_weight).sum(3).addcmul_(
        grad_bias, stats.mean, value=-1)
    twice_grad_var = (grad_scale * scale).mul_(stats.inv_std.square()).neg_()
    grad_mean = (grad_bias * scale).neg_()
    scaled = flat * twice_grad_var.flatten(1).unsqueeze(2)
    own = by_cov * twice_grad_var.unsqueeze(3)
    own.addcmul_(scale.unsqueeze(3), grad_weight)
    own.addcmul_(grad_mean.unsqueeze(3), patch_mean[:, None, None])
    return FoldGrads(
        own, grad_scale.mul_(stats.inv_std),
        torch.bmm(scaled.transpose(1, 2), flat),
        torch.bmm(grad_mean.flatten(1).unsqueeze(1), flat).squeeze(1))
