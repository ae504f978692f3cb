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

from .branch_stack import KernelShape
from .moments import Moments, PatchSums, work_dtype

#: A variance smaller than this share of ``sum_t w_t^2 E[p_t^2]`` is the small
#: difference of large float32 sums; branches compute it better.
CANCELLATION = 1e-3


@dataclass(frozen=True)
class Folded:
    """What a batch's statistics make of a unit's branches.

    Attributes:
        weight: (out, in / groups, k, k), in float32 or float64.
        bias: (out,), in the images' type.
        mean: (J, out) of each branch's output.
        var: (J, out), biased.
        state: what :meth:`Folding.backward` takes.
    """
    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    state: tuple[Tensor, ...]


@dataclass(frozen=True)
class UnitGrads:
    """Gradients that come of those to the folded convolution.

    Attributes:
        params: like a unit's parameters.
        products: (G, P, P) symmetric; twice the gradient to the sums of
            products of the images at hand.
        sums: (G, P), to the sums, with the covariance held fixed.
    """
    params: list[Optional[Tensor]]
    products: Tensor
    sums: Tensor


class Folding:
    """Fold a unit's branches by its batch, by torch's operators.

    Args:
        shape: of the convolution that branches fold into.
        eps: of each branch's norm.
    """

    def __init__(self, shape: KernelShape, eps: Sequence[float]):
        self.shape = shape
        self.eps = tuple(eps)

    def fold(self, params: Sequence[Optional[Tensor]], sums: PatchSums,
             dtype: torch.dtype) -> Optional[Folded]:
        """None where cancellation spoils a variance.

        Args:
            params: kernels, gammas and betas of all branches.
            sums: of the patches, of all ranks.
            dtype: of the images.
        """
        moments = sums.moments(work_dtype(self.shape.taps, dtype))
        kernels, gamma, beta = self.shape.stack_all(params, moments.cov)
        found = fold_by_batch(kernels, self.eps, moments)
        if found is None:
            return None
        fold, var, by_cov = found
        weight = self.shape.as_weight(
            fold.weight(kernels, gamma),
            torch.promote_types(dtype, torch.float32))
        bias = centring_bias(weight.to(dtype).view_as(kernels[:, 0]), beta,
                             moments.mean)
        return Folded(weight, bias.flatten().to(dtype),
                      fold.mean.transpose(0, 1).flatten(1),
                      var.transpose(0, 1).flatten(1),
                      (moments.mean, by_cov, fold.mean, fold.inv_std))

    def backward(self, params: Sequence[Optional[Tensor]],
                 state: Sequence[Tensor], count: float, grad_weight: Tensor,
                 grad_bias: Tensor) -> UnitGrads:
        """Gradients to parameters and sums.

        Args:
            params: as given to :meth:`fold`.
            state: as returned by it.
            count: of the patches of all ranks.
            grad_weight: to the folded kernel, like it.
            grad_bias: (out,).
        """
        patch_mean, by_cov, mean, inv_std = state
        kernels, gamma, _ = self.shape.stack_all(params, by_cov)
        patch_mean = patch_mean.to(kernels.dtype)
        grads = fold_backward(
            BatchFold(mean, inv_std), kernels, gamma, patch_mean, by_cov,
            grad_weight.to(kernels).reshape(kernels[:, 0].shape),
            grad_bias.to(kernels).reshape(gamma[:, 0].shape))
        products = grads.twice_cov / count
        sums = (grads.mean / count).sub_(torch.bmm(
            products, patch_mean.unsqueeze(2)).squeeze(2))
        return UnitGrads(self._of_params(params, grads, grad_bias), products,
                         sums)

    def _of_params(self, params: Sequence[Optional[Tensor]], grads: FoldGrads,
                   grad_bias: Tensor) -> list[Optional[Tensor]]:
        n, shape = len(params) // 3, self.shape
        # Own memory for each beta: an optimizer may write to gradients in
        # place.
        betas = grad_bias.flatten().repeat(n, 1).unsqueeze(0)
        return [*shape.unstack(grads.kernels, params[:n]),
                *shape.unstack_channels(grads.gamma, params[n:2 * n]),
                *shape.unstack_channels(betas, params[2 * n:])]


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


def fold_by_batch(kernels: Tensor, eps: Sequence[float], moments: Moments
                  ) -> Optional[tuple[BatchFold, Tensor, Tensor]]:
    """Fold kernels (G, J, O, P) by the moments of their patches.

    Returns:
        The fold, the biased variances (G, J, O) of all branches' outputs,
        and kernels times covariance, like kernels, which backward needs;
        None where cancellation spoils a variance, or where they are not
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
    return (BatchFold(mean, shifted.rsqrt_()), var,
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
    """Gradients to a batch fold's inputs.

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


def fold_backward(fold: BatchFold, kernels: Tensor, gamma: Tensor,
                  patch_mean: Tensor, by_cov: Tensor, grad_weight: Tensor,
                  grad_bias: Tensor) -> FoldGrads:
    """Back from the folded kernel (G, O, P) and bias (G, O).

    ``by_cov`` as from :func:`fold_by_batch`; beta's gradient is
    ``grad_bias`` itself, for every branch.
    """
    grad_weight, grad_bias = grad_weight.unsqueeze(1), grad_bias.unsqueeze(1)
    scale, flat = gamma * fold.inv_std, kernels.flatten(1, 2)
    grad_scale = (kernels * grad_weight).sum(3).addcmul_(
        grad_bias, fold.mean, value=-1)
    twice_grad_var = (grad_scale * scale).mul_(fold.inv_std.square()).neg_()
    grad_mean = (grad_bias * scale).neg_()
    scaled = flat * twice_grad_var.flatten(1).unsqueeze(2)
    own = by_cov * twice_grad_var.unsqueeze(3)
    own.addcmul_(scale.unsqueeze(3), grad_weight)
    own.addcmul_(grad_mean.unsqueeze(3), patch_mean[:, None, None])
    return FoldGrads(
        own, grad_scale.mul_(fold.inv_std),
        torch.bmm(scaled.transpose(1, 2), flat),
        torch.bmm(grad_mean.flatten(1).unsqueeze(1), flat).squeeze(1))
