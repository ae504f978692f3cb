"""Train a unit as one convolution, by the moments of its input's patches.

Exact: outputs, running statistics and all gradients are those of the branches. Saved for backward
are the input and what is as small as weights.

:class:`~.batch_fold.Folding` has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .batch_fold import Folded, Folding, PatchSums, UnitGrads, work_dtype
from .convs import DepthwiseConv, OutputGrad, PatchConv, PointwiseConv, has_depthwise_kernels
from .direct import direct_scale_grads, fold_batch
from .kernels import has_kernels_for
from .native_fold import DepthwiseFolding, PointwiseFolding
from .unit import BranchParams, Unit, in_own_memory, track


def sum_by_moments(unit: Unit, x: Tensor) -> Optional[Tensor]:
    """Sum of all branches of ``x`` (N, C_in, H, W), activated, or None.

    None is returned, and nothing is changed, where the batch has one value a channel: its variance
    is undefined, and the branches say so.
    """
    plan, params = _plan(unit, x), unit.parameters
    with torch.no_grad():
        own = x.detach().to(_work(x))
        folded, sums = fold_batch(plan.patches, plan.folding, params, own, x.dtype, plan.group)
    if sums.count < 2:
        return None
    out = _SumByMoments.apply(x, plan, folded, sums, *params.flat())
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
        ctx, x: Tensor, plan: _Plan, folded: Folded, sums: PatchSums, *params: Optional[Tensor]
    ):
        out = plan.patches.conv(x, folded.weight.to(x.dtype), folded.bias, plan.relu)
        ctx.plan, ctx.count, ctx.num_params = plan, sums.count, len(params)
        numbers = (folded.weight, sums.pivot, folded.mean, folded.direct, *folded.state)
        ctx.save_for_backward(x, out if plan.relu else None, *params, *numbers)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, active, *saved = ctx.saved_tensors
        params = BranchParams.of(saved[: ctx.num_params])
        weight, pivot, mean, direct, *state = saved[ctx.num_params :]
        plan, work = ctx.plan, _work(x)
        dtype, x = x.dtype, x.to(work)
        grad = OutputGrad(dy.to(work, memory_format=torch.channels_last), active)
        by_scale = direct_scale_grads(plan.patches, params, mean, direct, pivot, x, grad)
        by_folded = plan.patches.weight_grad(x, grad, weight, pivot)
        grads = plan.folding.backward(params, state, ctx.count, *by_folded, direct, by_scale)
        dx = None
        if ctx.needs_input_grad[0]:
            moves = _over_ranks(grads, plan.group)
            dx = plan.patches.input_grad(x, grad, weight, *moves, pivot).to(dtype)
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
