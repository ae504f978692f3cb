"""Train a unit as one convolution, by the moments of its input's patches.

Exact: outputs, running statistics and all gradients are those of the branches. Saved for backward
are the input and what is as small as weights.

:class:`~.batch_fold.Folding` has the formulas. Where C++ kernels are, they fold depthwise and
pointwise units in one call each way (beside the products of matrices, of a pointwise unit) instead
of some hundred.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .batch_fold import CANCELLATION, Folded, Folding, PatchSums, UnitGrads, work_dtype
from .convs import DepthwiseConv, OutputGrad, PatchConv, PointwiseConv, has_depthwise_kernels
from .kernels import call, has_kernels_for
from .unit import BranchParams, Unit, in_own_memory, track

_TAPS = 9
_OF_BRANCH = _TAPS + 2  # values of a channel that backward takes


def sum_by_moments(unit: Unit, x: Tensor) -> Optional[Tensor]:
    """Sum of all branches of ``x`` (N, C_in, H, W), activated, or None.

    None is returned, and nothing is changed, where the batch's variances would lose digits to
    cancellation, or have too few values.
    """
    plan, params = _plan(unit, x), unit.parameters
    with torch.no_grad():
        sums = PatchSums(
            plan.patches.count(x), *plan.patches.sums(x.detach().to(_work(x)))
        ).reduced(plan.group)
        folded = plan.folding.fold(params, sums, x.dtype)
    if folded is None or sums.count < 2:
        return None
    out = _SumByMoments.apply(x, plan, folded, sums.count, *params.flat())
    with torch.no_grad():
        track(unit.norms, folded.mean, folded.var, sums.count)
    return out


def _work(x: Tensor) -> torch.dtype:
    """Type of moments and of gradients to them: half precision is too little.

    It stops at the convolution's output.
    """
    return torch.promote_types(x.dtype, torch.float32)


class _SumByMoments(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx, x: Tensor, plan: _Plan, folded: Folded, count: float, *params: Optional[Tensor]
    ):
        out = plan.patches.conv(x, folded.weight.to(x.dtype), folded.bias, plan.relu)
        ctx.plan, ctx.count, ctx.num_params = plan, count, len(params)
        ctx.save_for_backward(x, out if plan.relu else None, *params, folded.weight, *folded.state)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, active, *saved = ctx.saved_tensors
        params = BranchParams.of(saved[: ctx.num_params])
        weight, *state = saved[ctx.num_params :]
        plan, work = ctx.plan, _work(x)
        dtype, x = x.dtype, x.to(work)
        grad = OutputGrad(dy.to(work, memory_format=torch.channels_last), active)
        grads = plan.folding.backward(
            params, state, ctx.count, *plan.patches.weight_grad(x, grad, weight)
        )
        dx = None
        if ctx.needs_input_grad[0]:
            dx = plan.patches.input_grad(x, grad, weight, *_over_ranks(grads, plan.group)).to(dtype)
        return dx, None, None, None, *in_own_memory(grads.params.flat())


def _over_ranks(grads: UnitGrads, group: Any) -> tuple[Tensor, Tensor]:
    """Gradients to products and sums.

    Other ranks' losses depend on this rank's patches too.
    """
    products, sums = grads.products, grads.sums
    if group is None:
        return products, sums
    both = torch.cat([products.flatten(), sums.flatten()])
    dist.all_reduce(both, group=group)
    moved = both.split([products.numel(), sums.numel()])
    return moved[0].view_as(products), moved[1].view_as(sums)


@dataclass(frozen=True)
class _Plan:
    """What forward and backward need beside tensors."""

    patches: PatchConv
    folding: Folding
    group: Any
    relu: bool


def _plan(unit: Unit, x: Tensor) -> _Plan:
    """The fastest way for this unit on these images."""
    spec, folding = unit.spec, Folding
    if spec.is_pointwise:
        patches: PatchConv = PointwiseConv(spec)
        if has_kernels_for(x) and work_dtype(spec.in_channels, x.dtype) == x.dtype:
            folding = PointwiseFolding
    elif has_depthwise_kernels(spec, x):
        patches, folding = DepthwiseConv(spec), DepthwiseFolding
    else:
        patches = PatchConv(spec)
    return _Plan(patches, folding(spec, unit.eps), unit.group(), unit.relu)


class DepthwiseFolding(Folding):
    """3x3, one channel a group, on a CPU, in float32 or float64."""

    def fold(self, params: BranchParams, sums: PatchSums, dtype: torch.dtype) -> Optional[Folded]:
        n, channels = len(params.kernels), self.spec.out_channels
        empty = sums.sums.new_empty
        weight = empty(channels, 1, 3, 3, dtype=dtype)
        bias = empty(channels, dtype=dtype)
        stats = empty(2, n, channels)
        state = empty(channels, _TAPS + n * _OF_BRANCH)
        fine = (ctypes.c_int64 * 1)()
        given = (*_tensors_and_sizes(params), _doubles(*self.eps), _doubles(CANCELLATION))
        moments = torch.cat([sums.products.flatten(1), sums.sums], 1)
        made = (weight, bias, stats, state, fine)
        call('depthwise_fold', dtype, *given, moments, self._shape(n, sums.count), *made)
        if not fine[0]:
            return None
        return Folded(weight, bias, stats[0], stats[1], (state,))

    def backward(
        self,
        params: BranchParams,
        state: Sequence[Tensor],
        count: float,
        grad_weight: Tensor,
        grad_bias: Tensor,
    ) -> UnitGrads:
        n, channels = len(params.kernels), self.spec.out_channels
        grads = _empty_like(params)
        moves = state[0].new_empty(channels, (_TAPS + 1) * _TAPS)
        dtype = next((p.dtype for p in params.flat() if p is not None), torch.float32)
        by_weight, by_bias = (g.double().contiguous() for g in (grad_weight, grad_bias))
        given = (*_tensors_and_sizes(params), state[0], by_weight, by_bias)
        call('depthwise_unfold', dtype, *given, self._shape(n, count), grads.flat(), moves)
        products, sums = moves.split([_TAPS**2, _TAPS], 1)
        return UnitGrads(grads, products.unflatten(1, (_TAPS, _TAPS)), sums)

    def _shape(self, branches: int, count: float) -> ctypes.Array:
        return (ctypes.c_int64 * 4)(
            self.spec.out_channels, branches, int(count), torch.get_num_threads()
        )


class PointwiseFolding(Folding):
    """1x1, one group, on a CPU, in the type of images and parameters."""

    def fold(self, params: BranchParams, sums: PatchSums, dtype: torch.dtype) -> Optional[Folded]:
        moments = sums.moments(torch.float64)
        cov = moments.cov[0].to(dtype)
        n, (out, width) = len(params.kernels), self._size
        convs = _matrices(params)
        empty = sums.sums.new_empty
        by_cov = empty(len(convs), out, width, dtype=dtype)
        for kernel, by in zip(convs, by_cov):
            torch.mm(kernel, cov, out=by)
        weight = empty(out, width, 1, 1, dtype=dtype)
        bias = empty(out, dtype=dtype)
        stats, kept = empty(2, n, out), empty(out, n, 2)
        fine = (ctypes.c_int64 * 1)()
        given = (*_tensors_and_sizes(params), _doubles(*self.eps), _doubles(CANCELLATION))
        var = moments.cov[0].diagonal().contiguous()
        inputs = (moments.mean, var, moments.power.contiguous(), by_cov)
        made = (weight, bias, stats, kept, fine)
        call('pointwise_fold', dtype, *given, *inputs, self._shape(n), *made)
        if not fine[0]:
            return None
        return Folded(weight, bias, stats[0], stats[1], (moments.mean, by_cov, kept))

    def backward(
        self,
        params: BranchParams,
        state: Sequence[Tensor],
        count: float,
        grad_weight: Tensor,
        grad_bias: Tensor,
    ) -> UnitGrads:
        patch_mean, by_cov, kept = state
        n, (out, width) = len(params.kernels), self._size
        grads, scaled = _empty_like(params), torch.empty_like(by_cov)
        by_var, by_mean = by_cov.new_empty(2, n, out).unbind()
        given = (*_tensors_and_sizes(params), patch_mean, by_cov, kept)
        by_folded = (grad_weight.contiguous(), grad_bias.contiguous())
        made = (grads.flat(), by_var, by_mean, scaled)
        call('pointwise_unfold', by_cov.dtype, *given, *by_folded, self._shape(n), *made)
        products = by_cov.new_zeros(width, width)
        sums = by_cov.new_zeros(width)
        parts = iter(zip(_matrices(params), scaled))
        for kernel, of_var, of_mean in zip(params.kernels, by_var, by_mean):
            if kernel is None:
                products.diagonal().add_(of_var)
                sums += of_mean
            else:
                matrix, own = next(parts)
                products.addmm_(own.t(), matrix)
                sums.addmv_(matrix.t(), of_mean)
        products /= count
        sums = (sums / count).addmv_(products, patch_mean[0].to(sums), alpha=-1)
        return UnitGrads(grads, products[None], sums[None])

    @property
    def _size(self) -> tuple[int, int]:
        return self.spec.out_channels, self.spec.in_channels

    def _shape(self, branches: int) -> ctypes.Array:
        return (ctypes.c_int64 * 4)(*self._size, branches, torch.get_num_threads())


def _matrices(params: BranchParams) -> list[Tensor]:
    """The kernels of pointwise branches."""
    return [kernel.detach().flatten(1) for kernel in params.kernels if kernel is not None]


def _doubles(*values: float) -> ctypes.Array:
    return (ctypes.c_double * len(values))(*values)


def _tensors_and_sizes(params: BranchParams) -> tuple[list[Optional[Tensor]], ctypes.Array]:
    """What kernels want to know of branches; size 0: no convolution."""
    tensors = [None if p is None else p.detach().contiguous() for p in params.flat()]
    sizes = [0 if kernel is None else kernel.shape[-1] for kernel in params.kernels]
    return tensors, (ctypes.c_int64 * len(sizes))(*sizes)


def _empty_like(params: BranchParams) -> BranchParams:
    return BranchParams.of(
        [
            None if p is None else torch.empty_like(p, memory_format=torch.contiguous_format)
            for p in params.flat()
        ]
    )
