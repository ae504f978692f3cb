"""Train a unit by its branches, and compute them again for backward.

With one branch, moments of the input cost as much as the convolution they
save. So the branch runs, but its norm, the skip branch and the ReLU are one
pass over pixels; its output is kept for backward, or computed again. With
z = W x, and g the gradient to the sum of branches:

    y = a (z - mean) + beta,  a = gamma / sqrt(var + eps)
    dz = a (g - E[g] - (z - mean) E[g (z - mean)] / (var + eps))

and the same with x for z in the skip branch (arXiv 1502.03167, section 3).

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

from .convs import PatchConv, chunks, pixel_rows, size_for_kernels
from .kernels import call, has_kernels_for
from .unit import Unit, UnitBranch, branch_layout, in_own_memory, running_stats, track

#: Pixels of a chunk, which stays in the cache from one pass to the next.
_CHUNK = 2048


def is_one_conv(unit: Unit, x: Tensor) -> bool:
    """Whether this form and its kernels exist for a unit on images x."""
    spec = unit.spec
    return (
        spec.kernel_size == spec.stride == spec.groups == 1
        and sum(b.conv is not None for b in unit.branches) == 1
        and x.numel() > x.shape[1]
        and has_kernels_for(x)
    )


def one_conv_form(unit: Unit, x: Tensor, keep: bool) -> Tensor:
    """Sum of both branches of ``x`` (N, C_in, H, W), activated.

    Args:
        unit: for which :func:`is_one_conv` holds.
        x: any layout.
        keep: save the convolution's output rather than compute it twice.
    """
    out, mean, var = _OneConvForm.apply(x, unit, keep, *unit.parameters)
    with torch.no_grad():
        track(unit.norms, mean, var, x.numel() // x.shape[1])
    return out


class _OneConvForm(torch.autograd.Function):
    """Statistics are (branches, C) float64; the conv branch is the last."""

    @staticmethod
    def forward(ctx, x: Tensor, unit: Unit, keep: bool, *params: Optional[Tensor]):
        n, pixels = len(unit.branches), pixel_rows(x)
        weight = _matrix(params[n - 1])
        out = x.new_empty(len(x), *x.shape[2:], len(weight))
        y = out.flatten(0, 2)
        z = torch.empty_like(y) if keep else y
        mean, var = _convolve(pixels, weight, z, n > 1)
        inv_std = (var + var.new_tensor(unit.eps).unsqueeze(1)).rsqrt()
        scale = _stack(params[n : 2 * n], 1, mean) * inv_std
        constant = _stack(params[2 * n :], 0, mean) - scale * mean
        factors = torch.stack([scale[-1], scale[0], constant.sum(0)])
        call(
            'pixel_normalize',
            z.dtype,
            z,
            pixels if n > 1 else None,
            factors.to(z.dtype),
            int(unit.relu),
            *size_for_kernels(z),
            y,
        )
        out = out.permute(0, 3, 1, 2)
        ctx.unit = unit
        ctx.save_for_backward(
            x, out if unit.relu else None, z if keep else None, mean, inv_std, *params
        )
        ctx.mark_non_differentiable(mean, var)
        return out, mean, var

    @staticmethod
    @once_differentiable
    def backward(ctx, dy: Tensor, *_):
        x, active, z, mean, inv_std, *params = ctx.saved_tensors
        n, pixels = len(mean), pixel_rows(x)
        weight = _matrix(params[n - 1])
        grad = pixel_rows(dy)
        grads = [grad, None if active is None else pixel_rows(active)]
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        moved, again = pixel_rows(dx), weight if z is None else None
        if z is None:  # the place of dx serves until dx is known
            same = moved.shape[1] == len(weight)
            z = moved if same else torch.empty_like(grad)
        sums = _gradient_sums(pixels, again, grads, z, mean)
        gammas = sums[1:] * inv_std
        factors = _gradient_factors(
            _stack(params[n : 2 * n], 1, mean) * inv_std, inv_std, mean, sums / len(z)
        ).to(x.dtype)
        kernel = _move_gradient(pixels, weight, grads, z, factors, moved)
        affine = [
            None if p is None else g.to(p.dtype)
            for g, p in zip([*gammas, *[sums[0]] * n], params[n:])
        ]
        return (
            dx if ctx.needs_input_grad[0] else None,
            None,
            None,
            *[None] * (n - 1),
            kernel.view_as(params[n - 1]),
            *in_own_memory(affine),
        )


def _convolve(pixels: Tensor, weight: Tensor, z: Tensor, skip: bool) -> tuple[Tensor, Tensor]:
    """Fill z; mean and biased variance of z and, with a skip branch, x."""
    sums = z.new_zeros(1 + skip, 2, z.shape[1], dtype=torch.float64)
    for own, from_ in chunks(z, pixels, most=_CHUNK):
        torch.mm(from_, weight.t(), out=own)
        for value, total in zip([from_, own] if skip else [own], sums):
            call('pixel_moments', z.dtype, value, *size_for_kernels(value), total)
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
        call(
            'pixel_grad_sums',
            z.dtype,
            *grad,
            own,
            from_ if skip else None,
            origins,
            *size_for_kernels(own),
            sums,
        )
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
        call(
            'pixel_input_grads',
            z.dtype,
            *grad,
            own,
            from_ if skip else None,
            factors,
            *size_for_kernels(own),
            dz,
            to,
        )
        kernel.addmm_(dz.t(), from_)
        torch.addmm(to, dz, weight, beta=int(skip), out=to)
    return kernel


def _matrix(kernel: Optional[Tensor]) -> Tensor:
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
    return dict(
        stride=conv.stride, padding=conv.padding, dilation=conv.dilation, groups=unit.spec.groups
    )


class _RecomputeForm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x: Tensor, unit: Unit, *params: Optional[Tensor]):
        n = len(unit.branches)
        out, stats = None, []
        for branch, weight, gamma, beta in zip(
            unit.branches, params[:n], params[n : 2 * n], params[2 * n :]
        ):
            z = (
                x
                if weight is None
                else F.conv2d(x, weight.to(x.dtype), **_branch_conv(unit, branch))
            )
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
        dy = branch_layout(dy)
        dx, kernels, gammas, betas = None, [], [], []
        for j in range(n):
            weight, gamma = saved[j], saved[n + j]
            stats = saved[3 * n + 2 * j : 3 * n + 2 * j + 2]
            grads = _branch_backward(
                unit, unit.branches[j], x, dy, weight, gamma, stats, ctx.needs_input_grad[0]
            )
            kernels.append(grads[1])
            gammas.append(None if gamma is None else grads[2])
            betas.append(None if saved[2 * n + j] is None else grads[3])
            if grads[0] is not None:
                dx = grads[0] if dx is None else dx.add_(grads[0])
        return dx, None, *in_own_memory([*kernels, *gammas, *betas])


def _branch_backward(
    unit: Unit,
    branch: UnitBranch,
    x: Tensor,
    dy: Tensor,
    weight: Optional[Tensor],
    gamma: Optional[Tensor],
    stats: list,
    wants_dx: bool,
) -> tuple:
    """Gradients to x, kernel, gamma and beta of one branch."""
    convolved = weight is not None
    conv = _branch_conv(unit, branch) if convolved else {}
    lower, z = weight, x
    if weight is not None:
        lower = weight.to(x.dtype)
        z = F.conv2d(x, lower, **conv)
    dz, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
        dy, z, gamma, None, None, *stats, True, branch.norm.eps, [wants_dx or convolved, True, True]
    )
    if weight is None:
        return dz if wants_dx else None, None, dgamma, dbeta
    dx, kernel, _ = torch.ops.aten.convolution_backward(
        dz,
        x,
        lower,
        None,
        conv['stride'],
        conv['padding'],
        conv['dilation'],
        False,
        [0, 0],
        conv['groups'],
        [wants_dx, True, False],
    )
    return dx, kernel.to(weight.dtype), dgamma, dbeta
