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

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .convs import OutputGrad, PatchConv, chunks, pixel_rows, size_for_kernels
from .kernels import call, has_kernels_for
from .unit import BranchParams, UnitConfig

#: Pixels of a chunk, which stays in the cache from one pass to the next.
_CHUNK = 2048


class SumByRecomputing:
    """The method ``recompute`` of one unit: branches run twice, and x alone is kept.

    Args:
        config: of the unit.
    """

    def __init__(self, config: UnitConfig):
        self.config = config

    @staticmethod
    def layout(x: Tensor) -> torch.memory_format:
        """In which x is wanted, and the output comes; ``branch_layout`` says why."""
        return torch.contiguous_format if x.device.type == 'cpu' else torch.channels_last

    def forward(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """As of :class:`~.by_moments.SumByMoments`."""
        out, kept, stats, wide = None, [], [], _wide(x)
        for branch, (weight, gamma, beta) in enumerate(zip(*params)):
            z = self._conv(branch, x, weight)
            # With a momentum of 1 they become the batch's own.
            stat = torch.zeros(2, z.shape[1], dtype=_wide(z), device=z.device)
            mean, var = stat.unbind()
            y, *inner = torch.native_batch_norm(
                z, gamma, beta, mean, var, True, 1.0, self.config.eps[branch]
            )
            out = y.to(wide) if out is None else out.add_(y)
            stats.append(stat)
            kept.append(torch.stack(inner))
        assert out is not None
        if self.config.relu:
            out.relu_()
        return out.to(x.dtype), torch.stack(stats, 1).double(), [torch.stack(kept)]

    def like(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Empty tensors like those of :meth:`forward`."""
        spec, branches = self.config.spec, len(params.kernels)
        shape = PatchConv(spec).output_shape(x)
        return (
            x.new_empty(shape).contiguous(memory_format=self.layout(x)),
            x.new_empty(2, branches, spec.out_channels, dtype=torch.float64),
            [x.new_empty(branches, 2, spec.out_channels, dtype=_wide(x))],
        )

    def backward(
        self,
        grad: OutputGrad,
        x: Tensor,
        params: BranchParams,
        saved: Sequence[Tensor],
        wants_dx: bool,
    ) -> tuple[Optional[Tensor], BranchParams]:
        """As of :class:`~.by_moments.SumByMoments`."""
        dy, dx = grad.masked().contiguous(memory_format=self.layout(x)), None
        found = []
        for branch, stat in enumerate(saved[0]):
            own = self._branch_backward(branch, x, dy, params, stat, wants_dx)
            found.append(own[1:])
            if own[0] is not None:
                dx = own[0].to(_wide(x)) if dx is None else dx.add_(own[0])
        return None if dx is None else dx.to(x.dtype), BranchParams(*map(tuple, zip(*found)))

    def _conv(self, branch: int, x: Tensor, weight: Optional[Tensor]) -> Tensor:
        if weight is None:
            return x
        step = self.config.pixel_step(branch, x)
        pixels = x[..., ::step, ::step]
        return F.conv2d(pixels, weight.to(x.dtype), **self.config.branch_conv(branch, step))

    def _branch_backward(
        self, branch: int, x: Tensor, dy: Tensor, params: BranchParams, stat: Tensor, wants_dx: bool
    ) -> tuple[Optional[Tensor], ...]:
        """Gradients to x, kernel, gamma and beta of one branch."""
        weight, gamma = params.kernels[branch], params.gammas[branch]
        z, wants_dz = self._conv(branch, x, weight), wants_dx or weight is not None
        eps, wants = self.config.eps[branch], [wants_dz, True, True]
        dz, dgamma, dbeta = torch.ops.aten.native_batch_norm_backward(
            dy, z, gamma, None, None, *stat.unbind(), True, eps, wants
        )
        if weight is None:
            return dz if wants_dx else None, None, dgamma, dbeta
        step = self.config.pixel_step(branch, x)
        conv, pixels = self.config.branch_conv(branch, step), x[..., ::step, ::step]
        geometry = (conv['stride'], conv['padding'], conv['dilation'], False, [0, 0])
        dx, kernel, _ = torch.ops.aten.convolution_backward(
            dz, pixels, weight.to(x.dtype), None, *geometry, conv['groups'], [wants_dx, True, False]
        )
        if wants_dx and step > 1:
            of_pixels, dx = dx, torch.zeros_like(x)
            dx[..., ::step, ::step] = of_pixels
        return dx, kernel.to(weight.dtype), dgamma, dbeta


def _wide(x: Tensor) -> torch.dtype:
    """Type of statistics, and of sums over branches."""
    return torch.promote_types(x.dtype, torch.float32)


def is_one_conv(config: UnitConfig, x: Tensor) -> bool:
    """Whether x can pass a unit at once: one convolution, and maybe a skip."""
    return config.spec.is_pointwise and config.kernel_sizes in ((1,), (0, 1)) and has_kernels_for(x)


class SumInOnePass:
    """The methods ``fused`` and ``recompute`` of a unit for which :func:`is_one_conv` holds.

    Statistics are (branches, C) float64; the conv branch is the last.

    Args:
        config: of the unit.
        keep: save the convolution's output rather than compute it twice.
    """

    def __init__(self, config: UnitConfig, keep: bool):
        self.config, self.keep = config, keep

    @staticmethod
    def layout(x: Tensor) -> torch.memory_format:
        """In which x is wanted, and the output comes."""
        return torch.channels_last

    def forward(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """As of :class:`~.by_moments.SumByMoments`."""
        pixels, skip = pixel_rows(x), len(params.kernels) > 1
        weight = _matrix(params)
        out = x.new_empty(len(x), *x.shape[2:], len(weight))
        y = out.flatten(0, 2)
        z = torch.empty_like(y) if self.keep else y
        mean, var = _convolve(pixels, weight, z, skip)
        inv_std = (var + var.new_tensor(self.config.eps).unsqueeze(1)).rsqrt()
        scale = _stack(params.gammas, 1, mean) * inv_std
        constant = _stack(params.betas, 0, mean) - scale * mean
        factors = torch.stack([scale[-1], scale[0], constant.sum(0)]).to(z.dtype)
        given = (z, pixels if skip else None, factors, int(self.config.relu))
        call('pixel_normalize', z.dtype, *given, *size_for_kernels(z), y)
        count = len(pixels)
        stats = torch.stack([mean, var * (count / (count - 1))])
        kept = [z] if self.keep else []
        return out.permute(0, 3, 1, 2), stats, [mean, inv_std, *kept]

    def like(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Empty tensors like those of :meth:`forward`."""
        n, _, h, w = x.shape
        channels, branches = self.config.spec.out_channels, len(params.kernels)
        stats = x.new_empty(2, branches, channels, dtype=torch.float64)
        kept = [x.new_empty(n * h * w, channels)] if self.keep else []
        return (
            x.new_empty(n, h, w, channels).permute(0, 3, 1, 2),
            stats,
            [torch.empty_like(stats[0]), torch.empty_like(stats[0]), *kept],
        )

    def backward(
        self,
        grad: OutputGrad,
        x: Tensor,
        params: BranchParams,
        saved: Sequence[Tensor],
        wants_dx: bool,
    ) -> tuple[Optional[Tensor], BranchParams]:
        """As of :class:`~.by_moments.SumByMoments`."""
        mean, inv_std, *kept = saved
        pixels, weight, dy = pixel_rows(x), _matrix(params), pixel_rows(grad.dy)
        grads = [dy, None if grad.active is None else pixel_rows(grad.active)]
        dx = torch.empty_like(x, memory_format=torch.channels_last)
        moved, again, z = pixel_rows(dx), None, kept[0] if kept else None
        if z is None:  # the place of dx serves until dx is known
            again, z = weight, moved if moved.shape[1] == len(weight) else torch.empty_like(dy)
        sums = _gradient_sums(pixels, again, grads, z, mean)
        scale = _stack(params.gammas, 1, mean) * inv_std
        factors = _gradient_factors(scale, inv_std, mean, sums / len(z)).to(x.dtype)
        kernel = _move_gradient(pixels, weight, grads, z, factors, moved)
        return dx if wants_dx else None, self._of_params(kernel, sums, inv_std, params)

    @staticmethod
    def _of_params(
        kernel: Tensor, sums: Tensor, inv_std: Tensor, params: BranchParams
    ) -> BranchParams:
        """Gradients to parameters, in their shapes and types."""
        by_gamma = sums[1:] * inv_std
        return BranchParams(
            tuple(None if k is None else kernel.view_as(k) for k in params.kernels),
            tuple(None if p is None else g.to(p.dtype) for g, p in zip(by_gamma, params.gammas)),
            tuple(None if p is None else sums[0].to(p.dtype) for p in params.betas),
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
