"""Train a unit by its branches, but keep nothing of them for backward.

Each branch's convolution is run again in backward; normalized outputs are
added up in place. Exact: the same operators as the branches'. Pays where
moments cost more than the one convolution they save, as for a pointwise unit
with k = 1.
"""
from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from .branch_stack import in_own_memory
from .layout import branch_layout
from .one_conv import is_one_conv, one_conv_form
from .patches import PatchConv
from .unit import Unit, UnitBranch, running_stats


def recompute_form(unit: Unit, x: Tensor) -> Optional[Tensor]:
    """Sum of all branches of ``x`` (N, C_in, H, W), activated, or None.

    None is returned, and nothing is changed, where the output has one value
    a channel: its variance is undefined, and the branches say so.
    """
    if PatchConv(unit.spec).count(x) < 2:
        return None
    if is_one_conv(unit, x):
        return one_conv_form(unit, x, keep=False)
    out = _RecomputeForm.apply(branch_layout(x), unit, *unit.parameters)
    return F.relu_(out) if unit.relu else out


def fused_form(unit: Unit, x: Tensor) -> Optional[Tensor]:
    """As :func:`recompute_form`, but a convolution's output may be kept."""
    if is_one_conv(unit, x):
        return one_conv_form(unit, x, keep=True)
    return recompute_form(unit, x)


def _branch_conv(unit: Unit, branch: UnitBranch) -> dict:
    """Stride, padding, dilation and groups of a branch's convolution."""
    conv: Any = branch.conv
    return dict(stride=conv.stride, padding=conv.padding,
                dilation=conv.dilation, groups=unit.spec.groups)


class _RecomputeForm(torch.autograd.Function):

    @staticmethod
    def forward(ctx, x: Tensor, unit: Unit, *params: Optional[Tensor]):
        n = len(unit.branches)
        out, stats = None, []
        for branch, weight, gamma, beta in zip(
                unit.branches, params[:n], params[n:2 * n], params[2 * n:]):
            z = x if weight is None else F.conv2d(
                x, weight.to(x.dtype), **_branch_conv(unit, branch))
            y, *stat = torch.native_batch_norm(
                z, gamma, beta, *running_stats(branch.norm),
                branch.norm.eps)
            out = y if out is None else out.add_(y)
            stats += stat
        ctx.unit = unit
        ctx.save_for_backward(x, *params, *stats)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor):
        unit, n = ctx.unit, len(ctx.unit.branches)
        x, *saved = ctx.saved_tensors
        dy = branch_layout(dy)
        dx, kernels, gammas, betas = None, [], [], []
        for j in range(n):
            weight, gamma = saved[j], saved[n + j]
            stats = saved[3 * n + 2 * j:3 * n + 2 * j + 2]
            grads = _branch_backward(unit, unit.branches[j], x, dy, weight,
                                     gamma, stats, ctx.needs_input_grad[0])
            kernels.append(grads[1])
            gammas.append(None if gamma is None else grads[2])
            betas.append(None if saved[2 * n + j] is None else grads[3])
            if grads[0] is not None:
                dx = grads[0] if dx is None else dx.add_(grads[0])
        return dx, None, *in_own_memory([*kernels, *gammas, *betas])


def _branch_backward(unit: Unit, branch: UnitBranch, x: Tensor, dy: Tensor,
                     weight: Optional[Tensor], gamma: Optional[Tensor],
                     stats: list, wants_dx: bool) -> tuple:
    """Gradients to x, kernel, gamma and beta of one branch."""
    convolved = weight is not None
    conv = _branch_conv(unit, branch) if convolved else {}
    lower, z = weight, x
    if weight is not None:
        lower = weight.to(x.dtype)
        z = F.conv2d(x, lower, **conv)
    dz, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
        dy, z, gamma, None, None, *stats, True, branch.norm.eps,
        [wants_dx or convolved, True, True])
    if weight is None:
        return dz if wants_dx else None, None, dgamma, dbeta
    dx, kernel, _ = torch.ops.aten.convolution_backward(
        dz, x, lower, None, conv['stride'], conv['padding'],
        conv['dilation'], False, [0, 0], conv['groups'],
        [wants_dx, True, False])
    return dx, kernel.to(weight.dtype), dgamma, dbeta
