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
from typing import Any, Optional

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from .unit import KernelShape, Unit

#: Up to this many taps everything small is computed in float64: it costs
#: nothing there, and a sum over many pixels deserves it.
_DOUBLE_TAPS = 64


@dataclass(frozen=True)
class Moments:
    """Moments of the patches ``p`` that a convolution reads.

    A patch has P = kernel_size^2 * in_channels / groups taps; G groups.

    Attributes:
        mean: (G, P), E[p], in float64.
        cov: (G, P, P), E[p p^T] - mean mean^T (biased, as batch norm
            normalizes).
        power: (G, P), E[p^2].
    """

    mean: Tensor
    cov: Tensor
    power: Tensor


@dataclass(frozen=True)
class PatchSums:
    """Sums over patches, from which moments come.

    Attributes:
        count: patches summed over.
        sums: (G, P) float64.
        products: (G, P, P) float64, of p p^T.
    """

    count: float
    sums: Tensor
    products: Tensor

    def reduced(self, group: Any) -> PatchSums:
        """Those of all ranks of a process group; None: of this rank."""
        if group is None:
            return self
        sums, products = self.sums, self.products
        own = torch.cat([sums.new_tensor([self.count]), sums.flatten(), products.flatten()])
        dist.all_reduce(own, group=group)
        return PatchSums(
            round(own[0].item()),
            own[1 : 1 + sums.numel()].view_as(sums),
            own[1 + sums.numel() :].view_as(products),
        )

    def moments(self, dtype: torch.dtype) -> Moments:
        """Moments in ``dtype``; ``mean`` stays in float64."""
        mean = self.sums / self.count
        cov = torch.baddbmm(
            self.products, mean.unsqueeze(2), mean.unsqueeze(1), beta=1 / self.count, alpha=-1
        )
        power = self.products.diagonal(dim1=1, dim2=2) / self.count
        return Moments(mean, cov.to(dtype), power.to(dtype))


def work_dtype(taps: int, dtype: torch.dtype) -> torch.dtype:
    """Type of everything as small as weights, for tensors of ``dtype``."""
    if taps <= _DOUBLE_TAPS:
        return torch.float64
    return torch.promote_types(dtype, torch.float32)


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


def fold_by_batch(
    kernels: Tensor, eps: Sequence[float], moments: Moments
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
    return (NormStats(mean, shifted.rsqrt_()), var, by_cov.view(kernels.shape))


def centring_bias(weight: Tensor, beta: Tensor, patch_mean: Tensor) -> Tensor:
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
def _eps(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
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


def fold_backward(
    stats: NormStats,
    kernels: Tensor,
    gamma: Tensor,
    patch_mean: Tensor,
    by_cov: Tensor,
    grad_weight: Tensor,
    grad_bias: Tensor,
) -> FoldGrads:
    """Back from the folded kernel (G, O, P) and bias (G, O).

    ``by_cov`` as from :func:`fold_by_batch`; beta's gradient is
    ``grad_bias`` itself, for every branch.
    """
    grad_weight, grad_bias = grad_weight.unsqueeze(1), grad_bias.unsqueeze(1)
    scale, flat = gamma * stats.inv_std, kernels.flatten(1, 2)
    grad_scale = (kernels * grad_weight).sum(3).addcmul_(grad_bias, stats.mean, value=-1)
    twice_grad_var = (grad_scale * scale).mul_(stats.inv_std.square()).neg_()
    grad_mean = (grad_bias * scale).neg_()
    scaled = flat * twice_grad_var.flatten(1).unsqueeze(2)
    own = by_cov * twice_grad_var.unsqueeze(3)
    own.addcmul_(scale.unsqueeze(3), grad_weight)
    own.addcmul_(grad_mean.unsqueeze(3), patch_mean[:, None, None])
    return FoldGrads(
        own,
        grad_scale.mul_(stats.inv_std),
        torch.bmm(scaled.transpose(1, 2), flat),
        torch.bmm(grad_mean.flatten(1).unsqueeze(1), flat).squeeze(1),
    )


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

    def fold(
        self, params: Sequence[Optional[Tensor]], sums: PatchSums, dtype: torch.dtype
    ) -> Optional[Folded]:
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
            stats.weight(kernels, gamma), torch.promote_types(dtype, torch.float32)
        )
        bias = centring_bias(weight.to(dtype).view_as(kernels[:, 0]), beta, moments.mean)
        return Folded(
            weight,
            bias.flatten().to(dtype),
            stats.mean.transpose(0, 1).flatten(1),
            var.transpose(0, 1).flatten(1),
            (moments.mean, by_cov, stats.mean, stats.inv_std),
        )

    def backward(
        self,
        params: Sequence[Optional[Tensor]],
        state: Sequence[Tensor],
        count: float,
        grad_weight: Tensor,
        grad_bias: Tensor,
    ) -> UnitGrads:
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
            NormStats(mean, inv_std),
            kernels,
            gamma,
            patch_mean,
            by_cov,
            grad_weight.to(kernels).reshape(kernels[:, 0].shape),
            grad_bias.to(kernels).reshape(gamma[:, 0].shape),
        )
        products = grads.twice_cov / count
        sums = (grads.mean / count).sub_(torch.bmm(products, patch_mean.unsqueeze(2)).squeeze(2))
        return UnitGrads(self._of_params(params, grads, grad_bias), products, sums)

    def _of_params(
        self, params: Sequence[Optional[Tensor]], grads: FoldGrads, grad_bias: Tensor
    ) -> list[Optional[Tensor]]:
        n, shape = len(params) // 3, self.shape
        betas = grad_bias.flatten().expand(n, -1).unsqueeze(0)
        return [
            *shape.unstack(grads.kernels, params[:n]),
            *shape.unstack_channels(grads.gamma, params[n : 2 * n]),
            *shape.unstack_channels(betas, params[2 * n :]),
        ]


def running_form(unit: Unit, x: Tensor) -> Tensor:
    """Sum of all branches of ``x``, activated, by running statistics.

    Differentiable to kernels, gammas and betas.
    """
    shape, spec = unit.kernel_shape, unit.spec
    like = x.new_empty((), dtype=work_dtype(shape.taps, x.dtype))
    params = unit.parameters
    if torch.is_grad_enabled():
        # Gradients through a concatenation are views of one tensor; those
        # through a product are tensors of their own.
        params = [None if p is None else p * 1 for p in params]
    kernels, gamma, beta = shape.stack_all(params, like)
    mean = shape.stack_channels([n.running_mean for n in unit.norms], 0, like)
    var = shape.stack_channels([n.running_var for n in unit.norms], 0, like)
    eps = like.new_tensor(unit.eps).view(1, -1, 1)
    stats = NormStats(mean, (var + eps).rsqrt())
    out = F.conv2d(
        x,
        shape.as_weight(stats.weight(kernels, gamma), x.dtype),
        stats.bias(gamma, beta).flatten().to(x.dtype),
        stride=spec.stride,
        padding=spec.padding,
        dilation=spec.dilation,
        groups=spec.groups,
    )
    return F.relu_(out) if unit.relu else out
