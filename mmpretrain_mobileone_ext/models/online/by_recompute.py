"""Train a unit by its branches, and compute them again for backward.

Exact: the operators are the branches' own. Pays where moments of the input cost more than the
convolutions that they save, as for a pointwise unit with one convolution. That unit has a faster
way where C++ kernels are: its norm, the skip branch and the ReLU are one pass over pixels, and the
convolution's output is kept for backward ('fused') or computed again ('recompute'). With z = W x,
and g the gradient to the sum of branches:

    y = a (z - mean) + beta,  a = gamma / sqrt(var + eps)
    dz = a (g - E[g] - (z - mean) E[g (z - mean)] / (var + eps))

and the same with x for z in the skip branch (arXiv 1502.03167, section 3).
"""

from __future__ import annotations

from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ..fold import Branch
from .convs import PatchConv, chunks, pixel_rows, size_for_kernels
from .kernels import call, has_kernels_for
from .unit import BranchParams, Unit, branch_layout, in_own_memory, running_stats, track

#: Pixels of a chunk, which stays in the cache from one pass to the next.
_CHUNK = 2048


def sum_by_recomputing(unit: Unit, x: Tensor) -> Optional[Tensor]:
    """Sum of all branches of ``x`` (N, C_in, H, W), activated, or None.

    None is returned, and nothing is changed, where the output has one value a channel: its variance
    is undefined, and the branches say so.
    """
    if is_one_conv(unit, x):
        return sum_in_one_pass(unit, x, keep=False)
    if PatchConv(unit.spec).count(x) < 2:
        return None
    out = _SumByRecomputing.apply(branch_layout(x), unit, *unit.parameters.flat())
    return F.relu_(out) if unit.relu else out


def sum_fused(unit: Unit, x: Tensor) -> Optional[Tensor]:
    """As :func:`sum_by_recomputing`, but keeps what one convolution made."""
    if is_one_conv(unit, x):
        return sum_in_one_pass(unit, x, keep=True)
    return sum_by_recomputing(unit, x)


class _SumByRecomputing(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, unit: Unit, *params: Optional[Tensor]):
        out, stats = None, []
        for branch, weight, gamma, beta in zip(unit.branches, *BranchParams.of(params)):
            z = x if weight is None else F.conv2d(x, weight.to(x.dtype), **_conv(unit, branch))
            y, *stat = torch.native_batch_norm(
                z, gamma, beta, *running_stats(branch.norm), branch.norm.eps
            )
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
        params, stats = BranchParams.of(saved[: 3 * n]), saved[3 * n :]
        dy, dx, wants_dx = branch_layout(dy), None, ctx.needs_input_grad[0]
        found = []
        for j, branch in enumerate(unit.branches):
            weight, gamma, stat = params.kernels[j], params.gammas[j], stats[2 * j : 2 * j + 2]
            own = _branch_backward(unit, branch, x, dy, weight, gamma, stat, wants_dx)
            found.append(own[1:])
            if own[0] is not None:
                dx = own[0] if dx is None else dx.add_(own[0])
        grads = [g for of_kind in zip(*found) for g in of_kind]
        wanted = [None if p is None else g for g, p in zip(grads, params.flat())]
        return dx, None, *in_own_memory(wanted)


def _conv(unit: Unit, branch: Branch) -> dict[str, Any]:
    """Stride, padding, dilation and groups of a branch's convolution."""
    conv: Any = branch.conv
    if conv is None:
        return {}
    return dict(
        stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=unit.spec.groups
    )


def _branch_backward(
    unit: Unit,
    branch: Branch,
    x: Tensor,
    dy: Tensor,
    weight: Optional[Tensor],
    gamma: Optional[Tensor],
    stats: list,
    wants_dx: bool,
) -> tuple:
    """Gradients to x, kernel, gamma and beta of one branch."""
    conv, wants_dz = _conv(unit, branch), wants_dx or weight is not None
    lower = None if weight is None else weight.to(x.dtype)
    z = x if lower is None else F.conv2d(x, lower, **conv)
    norm_args = (gamma, None, None, *stats, True, branch.norm.eps, [wants_dz, True, True])
    dz, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(dy, z, *norm_args)
    if weight is None:
        return dz if wants_dx else None, None, dgamma, dbeta
    geometry = (conv['stride'], conv['padding'], conv['dilation'], False, [0, 0], conv['groups'])
    wants = [wants_dx, True, False]
    dx, kernel, _ = torch.ops.aten.convolution_backward(dz, x, lower, None, *geometry, wants)
    return dx, kernel.to(weight.dtype), dgamma, dbeta


def is_one_conv(unit: Unit, x: Tensor) -> bool:
    """Whether x can pass a unit at once: one convolution, and maybe a skip."""
    convs = [b.conv is not None for b in unit.branches]
    return (
        unit.spec.is_pointwise
        and convs in ([True], [False, True])
        and x.numel() > x.shape[1]
        and has_kernels_for(x)
    )


def sum_in_one_pass(unit: Unit, x: Tensor, keep: bool) -> Tensor:
    """Sum of both branches of ``x`` (N, C_in, H, W), activated.

    Args:
        unit: for which :func:`is_one_conv` holds.
        x: any layout.
        keep: save the convolution's output rather than compute it twice.
    """
    out, mean, var = _SumInOnePass.apply(x, unit, keep, *unit.parameters.flat())
    with torch.no_grad():
        track(unit.norms, mean, var, x.numel() // x.shape[1])
    return out


class _SumInOnePass(torch.autograd.Function):
    """Statistics are (branches, C) float64; the conv branch is the last."""

    @staticmethod
    def forward(ctx, x: Tensor, unit: Unit, keep: bool, *flat: Optional[Tensor]):
        params, pixels, skip = BranchParams.of(flat), pixel_rows(x), len(unit.branches) > 1
        weight = _matrix(params)
        out = x.new_empty(len(x), *x.shape[2:], len(weight))
        y = out.flatten(0, 2)
        z = torch.empty_like(y) if keep else y
        mean, var = _convolve(pixels, weight, z, skip)
        inv_std = (var + var.new_tensor(unit.eps).unsqueeze(1)).rsqrt()
        scale = _stack(params.gammas, 1, mean) * inv_std
        constant = _stack(params.betas, 0, mean) - scale * mean
        factors = torch.stack([scale[-1], scale[0], constant.sum(0)]).to(z.dtype)
        given = (z, pixels if skip else None, factors, int(unit.relu))
        call('pixel_normalize', z.dtype, *given, *size_for_kernels(z), y)
        out = out.permute(0, 3, 1, 2)
        ctx.save_for_backward(
            x, out if unit.relu else None, z if keep else None, mean, inv_std, *flat
        )
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor, *_):
        x, active, z, mean, inv_std, *flat = ctx.saved_tensors
        params, pixels = BranchParams.of(flat), pixel_rows(x)
        weight, grad = _matrix(params), pixel_rows(dy)
        grads = [grad, None if active is None else pixel_rows(active)]
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        moved, again = pixel_rows(dx), weight if z is None else None
        if z is None:  # the place of dx serves until dx is known
            z = moved if moved.shape[1] == len(weight) else torch.empty_like(grad)
        sums = _gradient_sums(pixels, again, grads, z, mean)
        scale = _stack(params.gammas, 1, mean) * inv_std
        factors = _gradient_factors(scale, inv_std, mean, sums / len(z)).to(x.dtype)
        kernel = _move_gradient(pixels, weight, grads, z, factors, moved)
        n = len(mean)
        affine = [
            None if p is None else g.to(p.dtype)
            for g, p in zip([*(sums[1:] * inv_std), *[sums[0]] * n], flat[n:])
        ]
        return (
            dx if ctx.needs_input_grad[0] else None,
            None,
            None,
            *[None] * (n - 1),
            kernel.view_as(flat[n - 1]),
            *in_own_memory(affine),
        )


def _convolve(pixels: Tensor, weight: Tensor, z: Tensor, skip: bool) -> tuple[Tensor, Tensor]:
    """Fill z; mean and biased variance of z and, with a skip branch, x."""
    sums = z.new_zeros(1 + skip, 2, z.shape[1], dtype=torch.float64)
    for own, from_ in chunks(z, pixels, most=_CHUNK):
        torch.mm(from_, weight.t(), out=own)
        for value, total in zip([from_, own] if skip else [own], sums):
            sizes = size_for_kernels(value)
            call('pixel_moments', z.dtype, value, None, *sizes, None, total)
    mean, square = (sums / len(z)).unbind(1)
    return mean.contiguous(), (square - mean.square()).clamp_(min=0)


def _gradient_sums(
    pixels: Tensor, weight: Optional[Tensor], grads: list[Optional[Tensor]], z: Tensor, mean: Tensor
) -> Tensor:
    """Sums of g, then, per branch, of g times its centered input.

    With a weight z is filled first.
    """
    skip = len(mean) > 1
    sums = mean.new_zeros(1 + len(mean), mean.shape[1])
    origins = mean.to(z.dtype)
    for own, from_, *grad in chunks(z, pixels, *grads, most=_CHUNK):
        if weight is not None:
            torch.mm(from_, weight.t(), out=own)
        given = (*grad, own, from_ if skip else None, origins)
        call('pixel_grad_sums', z.dtype, *given, *size_for_kernels(own), sums)
    return sums


def _gradient_factors(scale: Tensor, inv_std: Tensor, mean: Tensor, averages: Tensor) -> Tensor:
    """Of g, input and 1 in the gradient to each branch's input."""
    of_input = -scale * inv_std.square() * averages[1:]
    constant = -scale * averages[0] - of_input * mean
    return torch.stack([scale, of_input, constant], 1)


def _move_gradient(
    pixels: Tensor,
    weight: Tensor,
    grads: list[Optional[Tensor]],
    z: Tensor,
    factors: Tensor,
    dx: Tensor,
) -> Tensor:
    """Fill dx, which may be z; returns the gradient to the weight."""
    kernel = torch.zeros_like(weight)
    parts, skip = chunks(z, pixels, dx, *grads, most=_CHUNK), len(factors) > 1
    buffer = torch.empty_like(parts[0][0])
    for own, from_, to, *grad in parts:
        dz = buffer[: len(own)]
        given = (*grad, own, from_ if skip else None, factors)
        call('pixel_input_grads', z.dtype, *given, *size_for_kernels(own), dz, to)
        kernel.addmm_(dz.t(), from_)
        torch.addmm(to, dz, weight, beta=int(skip), out=to)
    return kernel


def _matrix(params: BranchParams) -> Tensor:
    kernel = params.kernels[-1]
    assert kernel is not None
    return kernel.detach().flatten(1)


def _stack(values: tuple, fill: float, like: Tensor) -> Tensor:
    """One (C,) tensor a branch, or ``fill``, as (branches, C)."""
    return torch.stack(
        [
            like.new_full(like.shape[1:], fill) if v is None else v.detach().to(like.dtype)
            for v in values
        ]
    )
