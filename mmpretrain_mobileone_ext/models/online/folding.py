"""From a unit's parameters and patch sums to one convolution, and back."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from .batch_fold import (
    FoldGrads,
    NormStats,
    centring_bias,
    fold_backward,
    fold_by_batch,
)
from .branch_stack import KernelShape
from .moments import PatchSums, work_dtype


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
        stats, var, by_cov = found
        weight = self.shape.as_weight(
            stats.weight(kernels, gamma),
            torch.promote_types(dtype, torch.float32))
        bias = centring_bias(weight.to(dtype).view_as(kernels[:, 0]), beta,
                             moments.mean)
        return Folded(weight, bias.flatten().to(dtype),
                      stats.mean.transpose(0, 1).flatten(1),
                      var.transpose(0, 1).flatten(1),
                      (moments.mean, by_cov, stats.mean, stats.inv_std))

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
            NormStats(mean, inv_std), kernels, gamma, patch_mean, by_cov,
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
        betas = grad_bias.flatten().expand(n, -1).unsqueeze(0)
        return [*shape.unstack(grads.kernels, params[:n]),
                *shape.unstack_channels(grads.gamma, params[n:2 * n]),
                *shape.unstack_channels(betas, params[2 * n:])]
