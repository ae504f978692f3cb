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
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..quantization import UnitQuantizer
from ..spec import UnitSpec
from .unit import BranchParams, Unit, as_weight, stack_channels, unstack_channels, unstack_kernels

#: Up to this many taps everything small is computed in float64: it costs nothing there, and a sum
#: over many pixels deserves it.
_DOUBLE_TAPS = 64
#: Below it a variance that was folded in float32 has lost digits.
_SINGLE_SHARE = 0.1


def work_dtype(taps: int, dtype: torch.dtype) -> torch.dtype:
    """Type of everything as small as weights, for tensors of ``dtype``."""
    if taps <= _DOUBLE_TAPS:
        return torch.float64
    return torch.promote_types(dtype, torch.float32)


def is_half(dtype: torch.dtype) -> bool:
    """Whether images in this type are convolved around the pivot."""
    return dtype in (torch.float16, torch.bfloat16)


def least_share(sums: PatchSums, taps: int, dtype: torch.dtype) -> float:
    """Share of ``B = sum_t w_t^2 E[p_t^2]`` below which a variance has lost digits.

    A running sum of n terms rounds n times, each time by up to half a unit u of what it has
    reached: about ``u sqrt(n) / 4`` of the sum in all. Of M patches, M / n such sums are added in
    float64, and their errors average: ``u n / (4 sqrt(M))`` of B. Half of that over the variance is
    what ``1 / std`` is off by, and the gradient to the input with it, to which branches give few u.
    The share that is returned keeps it below 10 u in the worst row; tests/models/online/
    test_hard_inputs.py holds the whole against branches.

    Where ``w S w^T`` is not in float64, its rounding is u of B or so, and averages no more.
    """
    run = min(sums.run, sums.count)
    share = run / (80 * math.sqrt(sums.count))
    return share if work_dtype(taps, dtype) == torch.float64 else max(share, _SINGLE_SHARE)


@dataclass(frozen=True)
class Moments:
    """Moments of the patches ``p`` that a convolution reads, around a pivot.

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
    """Sums over patches minus a pivot, from which moments come.

    Patches are what the convolution reads: 0 outside the image, where the difference is minus the
    pivot.

    Attributes:
        count: patches summed over.
        sums: (G, P) float64.
        products: (G, P, P) float64, of p p^T.
        pivot: (C_in,), one value for all taps of a channel.
        run: patches that are summed in the type of the images, before float64 takes over.
    """

    count: float
    sums: Tensor
    products: Tensor
    pivot: Tensor
    run: int = 1

    @property
    def pivot_of_taps(self) -> Tensor:
        """The pivot as (G, P) float64."""
        return pivot_of_taps(self.pivot, self.sums)

    def moved(self, pivot: Tensor) -> PatchSums:
        """The same sums around another pivot, moved in float64."""
        by = pivot_of_taps(pivot.double() - self.pivot.double(), self.sums)
        crossed = self.sums.unsqueeze(2) * by.unsqueeze(1)
        products = self.products - crossed - crossed.transpose(1, 2)
        products += self.count * by.unsqueeze(2) * by.unsqueeze(1)
        sums = self.sums - self.count * by
        return PatchSums(self.count, sums, products, pivot, self.run)

    def reduced(self, group: Any) -> PatchSums:
        """Those of all ranks of a process group, around one pivot; None: of this rank."""
        if group is None:
            return self
        own = self.moved(torch.zeros_like(self.pivot))
        shared = torch.cat([own.sums.new_tensor([1, self.run]), self.pivot.double()])
        parts = [shared * self.count, own.sums, own.products]
        flat = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(flat, group=group)
        shared, sums, products = (
            of_all.view_as(part)
            for of_all, part in zip(flat.split([part.numel() for part in parts]), parts)
        )
        count, run = round(shared[0].item()), round((shared[1] / shared[0]).item())
        total = PatchSums(count, sums, products, own.pivot, run)
        return total.moved((shared[2:] / shared[0]).to(self.pivot.dtype))

    def moments(self, dtype: torch.dtype) -> Moments:
        """Moments in ``dtype``; ``mean`` stays in float64."""
        mean = self.sums / self.count
        cov = torch.baddbmm(
            self.products, mean.unsqueeze(2), mean.unsqueeze(1), beta=1 / self.count, alpha=-1
        )
        power = self.products.diagonal(dim1=1, dim2=2) / self.count
        return Moments(mean, cov.to(dtype), power.to(dtype))


def pivot_of_taps(pivot: Tensor, like: Tensor) -> Tensor:
    """A pivot (C_in,) as (G, P) float64, the shape of ``like``."""
    return pivot.double().repeat_interleave(like.numel() // len(pivot)).view_as(like)


@dataclass(frozen=True)
class DirectStats:
    """Statistics of rows of kernels, taken from their outputs and not from moments.

    Attributes:
        branch: (r,), of each row.
        channel: (r,), its output channel.
        mean: (r,) float64, around the pivot.
        var: (r,) float64, biased.
        by_cov: (r, P) float64, the row times the patches' covariance.
    """

    branch: Tensor
    channel: Tensor
    mean: Tensor
    var: Tensor
    by_cov: Tensor

    def dense(self, branches: int, channels: int, *values: Tensor) -> Tensor:
        """Values (r, ...) as (J, out, ...) float64; 0 where there is no row."""
        shape = branches, channels, *values[0].shape[1:]
        out = values[0].new_zeros(len(values), *shape, dtype=torch.float64)
        for to, value in zip(out, values):
            to[self.branch, self.channel] = value.double()
        return out


@dataclass(frozen=True)
class Folded:
    """What a batch's statistics make of a unit's branches.

    Attributes:
        weight: (out, in / groups, k, k), in float32 or float64.
        bias: (out,), in the images' type; of images around the pivot in half precision.
        mean: (J, out) of each branch's output.
        var: (J, out), biased.
        direct: (J, out) bool, where a variance from moments has lost digits.
        state: what :meth:`Folding.backward` takes.
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    var: Tensor
    direct: Tensor
    state: tuple[Tensor, ...]


@dataclass(frozen=True)
class UnitGrads:
    """Gradients that come of those to the folded convolution.

    Attributes:
        params: to a unit's parameters.
        products: (G, P, P) symmetric; twice the gradient to the sums of products of the images at
            hand.
        sums: (G, P), to the sums.
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

    def fold(
        self,
        params: BranchParams,
        sums: PatchSums,
        dtype: torch.dtype,
        given: Optional[DirectStats] = None,
    ) -> Folded:
        """Fold by moments; mark the rows whose variances they do not give.

        Args:
            params: of all branches.
            sums: of the patches, of all ranks.
            dtype: of the images.
            given: statistics of marked rows, which then replace those from moments; all others
                count as good.
        """
        spec, moments = self.spec, sums.moments(work_dtype(self.spec.taps, dtype))
        kernels, gamma, beta = params.stacked(spec, moments.cov)
        flat, shape = kernels.flatten(1, 2), gamma.shape
        by_cov = torch.bmm(flat, moments.cov).view(kernels.shape)
        mean = torch.bmm(flat, moments.mean.to(flat.dtype).unsqueeze(2)).view(shape)
        var = torch.mul(by_cov, kernels).sum(3)
        if given is not None:
            rows = self._place(given)
            by_cov[rows] = given.by_cov.to(by_cov)
            mean[rows], var[rows] = given.mean.to(mean), given.var.to(var)
        shifted = var.clamp_(min=0) + _eps(self.eps, var.dtype, var.device)
        bound = torch.bmm(flat.square(), moments.power.unsqueeze(2)).view(shape)
        direct = shifted < bound.mul_(self.least_share(sums, dtype))
        inv_std = shifted.rsqrt_()
        weight = as_weight(
            spec, _sum_scaled(kernels, gamma * inv_std), torch.promote_types(dtype, torch.float32)
        )
        # Rounding changed the weight: what it makes of the patches' mean is taken off, so that the
        # outputs' mean is the sum of betas.
        rounded = weight.to(dtype).view_as(kernels[:, 0]).double()
        pivot = sums.pivot_of_taps
        seen = moments.mean if is_half(dtype) else moments.mean + pivot
        shift = torch.bmm(rounded, seen.unsqueeze(2)).squeeze(2)
        of_pivot = torch.bmm(flat.double(), pivot.unsqueeze(2)).view(shape)
        return Folded(
            weight,
            beta.sum(1, dtype=torch.float64).sub_(shift).flatten().to(dtype),
            (mean + of_pivot).transpose(0, 1).flatten(1),
            var.transpose(0, 1).flatten(1),
            direct.transpose(0, 1).flatten(1),
            (moments.mean, by_cov, mean, inv_std),
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

    def least_share(self, sums: PatchSums, dtype: torch.dtype) -> float:
        """Share of its terms below which a variance of this unit has lost digits."""
        return least_share(sums, self.spec.taps, dtype)

    def _place(self, rows: DirectStats) -> tuple[Tensor, Tensor, Tensor]:
        """Group, branch and channel in the group, of each row."""
        width = self.spec.out_channels // self.spec.groups
        return group_of(self.spec, rows.channel), rows.branch, rows.channel % width

    def backward(
        self,
        params: BranchParams,
        state: Sequence[Tensor],
        count: float,
        grad_weight: Tensor,
        grad_bias: Tensor,
        direct: Optional[Tensor] = None,
        by_scale: Optional[Tensor] = None,
    ) -> UnitGrads:
        """Gradients to parameters and sums.

        Args:
            params: as given to :meth:`fold`.
            state: as returned by it.
            count: of the patches of all ranks.
            grad_weight: to the folded kernel, like it, around the pivot.
            grad_bias: (out,), which is beta's gradient, for every branch.
            direct: (J, out), marked rows.
            by_scale: (J, out) float64; of marked rows, the sum of gradient times output minus mean.
        """
        spec, (patch_mean, by_cov, mean, inv_std) = self.spec, state
        kernels, gamma, _ = params.stacked(spec, by_cov)
        patch_mean, flat = patch_mean.to(kernels.dtype), kernels.flatten(1, 2)
        by_bias = grad_bias.to(kernels).reshape(gamma[:, 0].shape).unsqueeze(1)
        by_weight = grad_weight.to(kernels).reshape(kernels[:, 0].shape).unsqueeze(1)
        scale = gamma * inv_std
        own_by_scale = (kernels * by_weight).sum(3).addcmul_(by_bias, mean, value=-1)
        if direct is not None and by_scale is not None:
            given = (v.unflatten(1, (spec.groups, -1)).transpose(0, 1) for v in (direct, by_scale))
            own_by_scale = torch.where(next(given), next(given).to(gamma), own_by_scale)
        twice_by_var = (own_by_scale * scale).mul_(inv_std.square()).neg_()
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
            unstack_channels(own_by_scale.mul_(inv_std), params.gammas),
            unstack_channels(betas, params.betas),
        )
        return UnitGrads(of_params, products, sums)


def group_of(spec: UnitSpec, channel: Tensor) -> Tensor:
    """Groups of output channels."""
    return torch.div(channel, spec.out_channels // spec.groups, rounding_mode='floor')


def _sum_scaled(kernels: Tensor, scale: Tensor) -> Tensor:
    """Folded kernel (G, O, P)."""
    return (kernels * scale.unsqueeze(3)).sum(1)


@functools.lru_cache(maxsize=64)
def _eps(values: tuple[float, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # it is kept for training too
        return torch.tensor(values, dtype=dtype, device=device).view(1, -1, 1)


def sum_by_running_stats(
    unit: Unit, x: Tensor, quantizer: Optional[UnitQuantizer] = None
) -> Tensor:
    """Sum of all branches of ``x``, activated, by running statistics.

    Differentiable to x, kernels, gammas and betas.

    Args:
        quantizer: rounds the kernel.
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
    weight = as_weight(spec, _sum_scaled(kernels, scale), like.dtype)
    bias = (beta - scale * mean).sum(1).flatten()
    if quantizer is not None:
        weight, bias = quantizer.fold(weight, bias)
    out = F.conv2d(
        x,
        weight.to(x.dtype),
        bias.to(x.dtype),
        stride=spec.stride,
        padding=spec.padding,
        dilation=spec.dilation,
        groups=spec.groups,
    )
    return F.relu_(out) if unit.relu else out
