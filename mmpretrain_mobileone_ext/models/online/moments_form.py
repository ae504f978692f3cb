"""Train a unit as one convolution, by the moments of its input's patches.

Exact: outputs, running statistics and all gradients are those of the
branches. Saved for backward are the input and what is as small as weights.
"""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor
from torch.autograd.function import once_differentiable

from .batch_fold import (
    BatchFold,
    FoldGrads,
    centring_bias,
    fold_backward,
    fold_by_batch,
)
from .branch_stack import KernelShape
from .depthwise import DepthwiseConv, has_kernels
from .moments import moments_from_sums
from .patches import OutputGrad, PatchConv
from .pointwise import PointwiseConv
from .unit import Unit, track


def patch_conv(unit: Unit, x: Tensor) -> PatchConv:
    """The fastest way to the moments of this unit's patches."""
    spec = unit.spec
    if spec.kernel_size == spec.stride == spec.groups == 1:
        return PointwiseConv(spec)
    if has_kernels(spec, x):
        return DepthwiseConv(spec)
    return PatchConv(spec)


@dataclass(frozen=True)
class _Plan:
    """What forward and backward need beside tensors."""
    patches: PatchConv
    shape: KernelShape
    count: float
    group: Any
    relu: bool


def moments_form(unit: Unit, x: Tensor) -> Optional[Tensor]:
    """Sum of all branches of ``x`` (N, C_in, H, W), activated, or None.

    None is returned, and nothing is changed, where the batch's variances
    would lose digits to cancellation, or have too few values.
    """
    work = torch.promote_types(x.dtype, torch.float32)
    patches, shape, params = patch_conv(unit, x), unit.kernel_shape, \
        unit.parameters
    with torch.no_grad():
        group = unit.group()
        moments = moments_from_sums(
            patches.count(x), *patches.sums(x.detach().to(work)), group,
            work)
        stacked = shape.stack_all(params, moments.cov)
        found = fold_by_batch(stacked[0], unit.eps, moments)
        if found is None or moments.count < 2:
            return None
        fold, var, by_cov = found
    plan = _Plan(patches, shape, moments.count, group, unit.relu)
    out = _MomentsForm.apply(x, plan, moments.mean, by_cov, fold, stacked,
                              *params)
    with torch.no_grad():
        track(unit.norms, fold.mean.transpose(0, 1).flatten(1),
              var.transpose(0, 1).flatten(1), moments.count)
    return out


class _MomentsForm(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x: Tensor, plan: _Plan, patch_mean: Tensor,
                by_cov: Tensor, fold: BatchFold,
                stacked: tuple[Tensor, Tensor, Tensor],
                *params: Optional[Tensor]):
        kernels, gamma, beta = stacked
        weight = plan.shape.as_weight(
            fold.weight(kernels, gamma), x.dtype)
        bias = centring_bias(weight.view_as(kernels[:, 0]), beta,
                             patch_mean).to(x.dtype)
        out = plan.patches.conv(x, weight, bias.flatten(), plan.relu)
        ctx.plan = plan
        ctx.save_for_backward(x, out if plan.relu else None, patch_mean,
                              by_cov, fold.mean, fold.inv_std, *params)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        x, active, mean, by_cov, branch_mean, inv_std, *params = (
            ctx.saved_tensors)
        plan, fold = ctx.plan, BatchFold(branch_mean, inv_std)
        # Half precision stops at the convolution's output: gradients to
        # moments are too small for it.
        work = torch.promote_types(x.dtype, torch.float32)
        dtype, x = x.dtype, x.to(work)
        grad = OutputGrad(dy.to(work, memory_format=torch.channels_last),
                          active)
        kernels, gamma, _ = plan.shape.stack_all(params, by_cov)
        weight = plan.shape.as_weight(
            fold.weight(kernels, gamma), x.dtype)
        grad_weight, grad_bias = plan.patches.weight_grad(x, grad, weight)
        grads = fold_backward(
            fold, kernels, gamma, mean.to(kernels.dtype), by_cov,
            grad_weight.to(kernels).reshape(kernels[:, 0].shape),
            grad_bias.to(kernels).reshape(gamma[:, 0].shape))
        dx = None
        if ctx.needs_input_grad[0]:
            dx = _input_grad(plan, x, grad, weight, mean, grads).to(dtype)
        return (dx, None, None, None, None, None,
                *_param_grads(plan.shape, params, grads, grad_bias))


def _input_grad(plan: _Plan, x: Tensor, grad: OutputGrad, weight: Tensor,
                patch_mean: Tensor, grads: FoldGrads) -> Tensor:
    products, sums = grads.twice_cov, grads.mean
    if plan.group is not None:
        # Other ranks' losses depend on this rank's patches too.
        both = torch.cat([products.flatten(), sums.flatten()])
        dist.all_reduce(both, group=plan.group)
        products, sums = both.split([products.numel(), sums.numel()])
        products, sums = (products.view_as(grads.twice_cov),
                          sums.view_as(grads.mean))
    products = products / plan.count
    sums = (sums / plan.count).sub_(torch.bmm(
        products, patch_mean.to(products.dtype).unsqueeze(2)).squeeze(2))
    return plan.patches.input_grad(x, grad, weight, products, sums)


def _param_grads(shape: KernelShape, params: list, grads: FoldGrads,
                 grad_bias: Tensor) -> list[Optional[Tensor]]:
    n = len(params) // 3
    # Own memory for each beta: an optimizer may write to gradients in place.
    betas = grad_bias.flatten().repeat(n, 1).unsqueeze(0)
    return [*shape.unstack(grads.kernels, params[:n]),
            *shape.unstack_channels(grads.gamma, params[n:2 * n]),
            *shape.unstack_channels(betas, params[2 * n:])]
