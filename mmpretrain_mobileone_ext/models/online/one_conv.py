"""Train a pointwise unit with one conv branch, by compiled kernels.

With one branch, moments of the input cost as much as the convolution they
save. So the branch runs, but its norm, the skip branch and the ReLU are one
pass over pixels; its output is kept for backward, or computed again. With
z = W x, and g the gradient to the sum of branches:

    y = a (z - mean) + beta,  a = gamma / sqrt(var + eps)
    dz = a (g - E[g] - (z - mean) E[g (z - mean)] / (var + eps))

and the same with x for z in the skip branch (arXiv 1502.03167, section 3).
"""
from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from .branch_stack import in_own_memory
from .native import call, has_kernels_for
from .pixels import chunks, pixel_rows, size_for_kernels
from .unit import Unit, track

#: Pixels of a chunk, which stays in the cache from one pass to the next.
_CHUNK = 2048


def is_one_conv(unit: Unit, x: Tensor) -> bool:
    """Whether this form and its kernels exist for a unit on images x."""
    spec = unit.spec
    return (spec.kernel_size == spec.stride == spec.groups == 1
            and sum(b.conv is not None for b in unit.branches) == 1
            and x.numel() > x.shape[1] and has_kernels_for(x))


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
    def forward(ctx, x: Tensor, unit: Unit, keep: bool,
                *params: Optional[Tensor]):
        n, pixels = len(unit.branches), pixel_rows(x)
        weight = _matrix(params[n - 1])
        out = x.new_empty(len(x), *x.shape[2:], len(weight))
        y = out.flatten(0, 2)
        z = torch.empty_like(y) if keep else y
        mean, var = _convolve(pixels, weight, z, n > 1)
        inv_std = (var + var.new_tensor(unit.eps).unsqueeze(1)).rsqrt()
        scale = _stack(params[n:2 * n], 1, mean) * inv_std
        constant = _stack(params[2 * n:], 0, mean) - scale * mean
        factors = torch.stack([scale[-1], scale[0], constant.sum(0)])
        call('pixel_normalize', z.dtype, z, pixels if n > 1 else None,
             factors.to(z.dtype), int(unit.relu), *size_for_kernels(z), y)
        out = out.permute(0, 3, 1, 2)
        ctx.unit = unit
        ctx.save_for_backward(x, out if unit.relu else None,
                              z if keep else None, mean, inv_std, *params)
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
            _stack(params[n:2 * n], 1, mean) * inv_std, inv_std, mean,
            sums / len(z)).to(x.dtype)
        kernel = _move_gradient(pixels, weight, grads, z, factors, moved)
        affine = [None if p is None else g.to(p.dtype)
                  for g, p in zip([*gammas, *[sums[0]] * n], params[n:])]
        return (dx if ctx.needs_input_grad[0] else None, None, None,
                *[None] * (n - 1), kernel.view_as(params[n - 1]),
                *in_own_memory(affine))


def _convolve(pixels: Tensor, weight: Tensor, z: Tensor,
              skip: bool) -> tuple[Tensor, Tensor]:
    """Fill z; mean and biased variance of z and, with a skip branch, x."""
    sums = z.new_zeros(1 + skip, 2, z.shape[1], dtype=torch.float64)
    for own, from_ in chunks(z, pixels, most=_CHUNK):
        torch.mm(from_, weight.t(), out=own)
        for value, total in zip([from_, own] if skip else [own], sums):
            call('pixel_moments', z.dtype, value, *size_for_kernels(value),
                 total)
    mean, square = (sums / len(z)).unbind(1)
    return mean.contiguous(), (square - mean.square()).clamp_(min=0)


def _gradient_sums(pixels: Tensor, weight: Optional[Tensor],
                   grads: list[Optional[Tensor]], z: Tensor,
                   mean: Tensor) -> Tensor:
    """Sums of g, then, per branch, of g times its centered input.

    With a weight z is filled first.
    """
    skip = len(mean) > 1
    sums = mean.new_zeros(1 + len(mean), mean.shape[1])
    origins = mean.to(z.dtype)
    for own, from_, *grad in chunks(z, pixels, *grads, most=_CHUNK):
        if weight is not None:
            torch.mm(from_, weight.t(), out=own)
        call('pixel_grad_sums', z.dtype, *grad, own, from_ if skip else None,
             origins, *size_for_kernels(own), sums)
    return sums


def _gradient_factors(scale: Tensor, inv_std: Tensor, mean: Tensor,
                      averages: Tensor) -> Tensor:
    """Of g, input and 1 in the gradient to each branch's input."""
    of_input = -scale * inv_std.square() * averages[1:]
    constant = -scale * averages[0] - of_input * mean
    return torch.stack([scale, of_input, constant], 1)


def _move_gradient(pixels: Tensor, weight: Tensor,
                   grads: list[Optional[Tensor]], z: Tensor, factors: Tensor,
                   dx: Tensor) -> Tensor:
    """Fill dx, which may be z; returns the gradient to the weight."""
    kernel = torch.zeros_like(weight)
    parts, skip = chunks(z, pixels, dx, *grads, most=_CHUNK), len(factors) > 1
    buffer = torch.empty_like(parts[0][0])
    for own, from_, to, *grad in parts:
        dz = buffer[:len(own)]
        call('pixel_input_grads', z.dtype, *grad, own,
             from_ if skip else None, factors, *size_for_kernels(own), dz, to)
        kernel.addmm_(dz.t(), from_)
        torch.addmm(to, dz, weight, beta=int(skip), out=to)
    return kernel


def _matrix(kernel: Optional[Tensor]) -> Tensor:
    assert kernel is not None
    return kernel.detach().flatten(1)


def _stack(values: tuple, fill: float, like: Tensor) -> Tensor:
    """One (C,) tensor a branch, or ``fill``, as (branches, C)."""
    return torch.stack([like.new_full(like.shape[1:], fill) if v is None
                        else v.detach().to(like.dtype) for v in values])
