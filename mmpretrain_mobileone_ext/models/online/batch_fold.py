"""Fold branches by the statistics of a batch: formulas and gradients.

With patches p of mean mu and covariance S, branch j with kernel w_j has, per output channel,
``mean_j = w_j mu`` and ``var_j = w_j S w_j^T``. The block is the convolution ``W = sum_j a_j w_j``,
``b = sum_j beta_j - a_j mean_j`` with ``a_j = gamma_j / sqrt(var_j + eps_j)``, which is what its
batch norms compute (arXiv 1502.03167, algorithm 1) as every branch is linear in p.

:class:`Folding` does it by torch's operators, for every unit; compiled ones (``native_fold``) are
checked against it. Layout as in :mod:`.unit`: kernels (G, J, O, P), channels (G, J, O).
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

from ..spec import UnitSpec
from .unit import BranchParams, Unit, as_weight, stack_channels, unstack_channels, unstack_kernels

#: Up to this many taps everything small is computed in float64: it costs nothing there, and a sum
#: over many pixels deserves it.
_DOUBLE_TAPS = 64
#: A variance smaller than this share of ``sum_t w_t^2 E[p_t^2]`` is the small difference of large
#: float32 sums; branches compute it better.
CANCELLATION = 1e-3


def work_dtype(taps: int, dtype: torch.dtype) -> torch.dtype:
    """Type of everything as small as weights, for tensors of ``dtype``."""
    if taps <= _DOUBLE_TAPS:
        return torch.float64
    return torch.promote_types(dtype, torch.float32)


@dataclass(frozen=True)
class Moments:
    """Moments of the patches ``p`` that a convolution reads.

    Attributes:
        mean: (G, P), E[p], in float64.
        cov: (G, P, P), E[p p^T] - mean mean^T (biased, as batch norm normalizes).
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
        count, *flat = own.split([1, sums.numel(), products.numel()])
        return PatchSums(round(count.item()), flat[0].view_as(sums), flat[1].view_as(products))

    def moments(self, dtype: torch.dtype) -> Moments:
        """Moments in ``dtype``; ``mean`` stays in float64."""
        mean = self.sums / self.count
        cov = torch.baddbmm(
            self.products, mean.unsqueeze(2), mean.unsqueeze(1), beta=1 / self.count, alpha=-1
        )
        power = self.products.diagonal(dim1=1, dim2=2) / self.count
        return Moments(mean, cov.to(dtype), power.to(dtype))


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
        params: to a unit's parameters.
        products: (G, P, P) symmetric; twice the gradient to the sums of products of the images at
            hand.
        sums: (G, P), to the sums, with the covariance held fixed.
    """

    params: BranchParams
    products: Tensor
    sums: Tensor


class Folding:
    """Fold a unit's branches by its batch, by torch's operators.

    Args:
        spec: of the unit.
        eps: of each branch's norm.
    """

    def __init__(self, spec: UnitSpec, eps: Sequence[float]):
        self.spec = spec
        self.eps = tuple(eps)

    def fold(self, params: BranchParams, sums: PatchSums, dtype: torch.dtype) -> Optional[Folded]:
        """None where cancellation spoils a variance, or it is not finite.

        Args:
            params: of all branches.
            sums: of the patches, of all ranks.
            dtype: of the images.
        """
        spec, moments = self.spec, sums.moments(work_dtype(self.spec.taps, dtype))
        kernels, gamma, beta = params.stacked(spec, moments.cov)
        flat, shape = kernels.flatten(1, 2), gamma.shape
        by_cov = torch.bmm(flat, moments.cov)
        var = torch.mul(by_cov, flat).sum(2).view(shape).clamp_(min=0)
        bound = torch.bmm(flat.square(), moments.power.unsqueeze(2)).view(shape)
        shifted = var + _eps(self.eps, var.dtype, var.device)
        if not bool((shifted >= bound.mul_(CANCELLATION)).all()):
            return None
        mean = torch.bmm(flat, moments.mean.to(flat.dtype).unsqueeze(2)).view(shape)
        inv_std = shifted.rsqrt_()
        weight = as_weight(
            spec, _sum_scaled(kernels, gamma * inv_std), torch.promote_types(dtype, torch.float32)
        )
        # Rounding changed the weight: what it makes of the patches' mean is taken off, so that the
        # outputs' mean is the sum of betas.
        rounded = weight.to(dtype).view_as(kernels[:, 0]).double()
        shift = torch.bmm(rounded, moments.mean.unsqueeze(2)).squeeze(2)
        return Folded(
            weight,
            beta.sum(1, dtype=torch.float64).sub_(shift).flatten().to(dtype),
            mean.transpose(0, 1).flatten(1),
            var.transpose(0, 1).flatten(1),
            (moments.mean, by_cov.view(kernels.shape), mean, inv_std),
        )

    def state_like(self, x: Tensor, params: BranchParams) -> list[Tensor]:
        """Empty tensors like a fold's ``state``, for images like x."""
        spec, work = self.spec, work_dtype(self.spec.taps, x.dtype)
        per_branch = (spec.groups, len(params.kernels), spec.out_channels // spec.groups)
        return [
            x.new_empty(spec.groups, spec.taps, dtype=torch.float64),
            x.new_empty(*per_branch, spec.taps, dtype=work),
            x.new_empty(per_branch, dtype=work),
            x.new_empty(per_branch, dtype=work),
        ]

    def backward(
        self,
        params: BranchParams,
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
            grad_bias: (out,), which is beta's gradient, for every branch.
        """
        spec, (patch_mean, by_cov, mean, inv_std) = self.spec, state
        kernels, gamma, _ = params.stacked(spec, by_cov)
        patch_mean, flat = patch_mean.to(kernels.dtype), kernels.flatten(1, 2)
        by_weight = grad_weight.to(kernels).reshape(kernels[:, 0].shape).unsqueeze(1)
        by_bias = grad_bias.to(kernels).reshape(gamma[:, 0].shape).unsqueeze(1)
        scale = gamma * inv_std
        by_scale = (kernels * by_weight).sum(3).addcmul_(by_bias, mean, value=-1)
        twice_by_var = (by_scale * scale).mul_(inv_std.square()).neg_()
        by_mean = (by_bias * scale).neg_()
        own = by_cov * twice_by_var.unsqueeze(3)
        own.addcmul_(scale.unsqueeze(3), by_weight)
        own.addcmul_(by_mean.unsqueeze(3), patch_mean[:, None, None])
        scaled = flat * twice_by_var.flatten(1).unsqueeze(2)
        products = torch.bmm(scaled.transpose(1, 2), flat) / count
        sums = torch.bmm(by_mean.flatten(1).unsqueeze(1), flat).squeeze(1) / count
        sums.sub_(torch.bmm(products, patch_mean.unsqueeze(2)).squeeze(2))
        betas = grad_bias.flatten().expand(len(params.betas), -1).unsqueeze(0)
        of_params = BranchParams(
            unstack_kernels(spec, own, params.kernels),
            unstack_channels(by_scale.mul_(inv_std), params.gammas),
            unstack_channels(betas, params.betas),
        )
        return UnitGrads(of_params, products, sums)


def _sum_scaled(kernels: Tensor, scale: Tensor) -> Tensor:
    """Folded kernel (G, O, P)."""
    return (kernels * scale.unsqueeze(3)).sum(1)


@functools.lru_cache(maxsize=64)
def _eps(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept for training too
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1)


def sum_by_running_stats(unit: Unit, x: Tensor) -> Tensor:
    """Sum of all branches of ``x``, activated, where norms are in eval mode.

    Differentiable to kernels, gammas and betas.
    """
    spec, params = unit.spec, unit.parameters
    like = x.new_empty((), dtype=work_dtype(spec.taps, x.dtype))
    if torch.is_grad_enabled():
        # Gradients through a concatenation are views of one tensor; those through a product are
        # tensors of their own.
        params = BranchParams.of([None if p is None else p * 1 for p in params.flat()])
    kernels, gamma, beta = params.stacked(spec, like)
    mean = stack_channels(spec, [n.running_mean for n in unit.norms], 0, like)
    var = stack_channels(spec, [n.running_var for n in unit.norms], 0, like)
    scale = gamma * (var + like.new_tensor([n.eps for n in unit.norms]).view(1, -1, 1)).rsqrt()
    out = F.conv2d(
        x,
        as_weight(spec, _sum_scaled(kernels, scale), x.dtype),
        (beta - scale * mean).sum(1).flatten().to(x.dtype),
        stride=spec.stride,
        padding=spec.padding,
        dilation=spec.dilation,
        groups=spec.groups,
    )
    return F.relu_(out) if unit.relu else out
