"""Fold depthwise and pointwise units by C++ kernels, where they are.

One call each way (beside a pointwise unit's products of matrices) instead of some hundred;
:class:`~.batch_fold.Folding` has the formulas and is the oracle.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Optional

import torch
from torch import Tensor

from .batch_fold import DirectStats, Folded, Folding, PatchSums, UnitGrads
from .kernels import call
from .unit import BranchParams

_TAPS = 9
_OF_BRANCH = _TAPS + 2  # values of a channel that backward takes


class DepthwiseFolding(Folding):
    """3x3, one channel a group, on a CPU, in float32 or float64."""

    def fold(
        self,
        params: BranchParams,
        sums: PatchSums,
        dtype: torch.dtype,
        given: Optional[DirectStats] = None,
    ) -> Folded:
        n, channels = len(params.kernels), self.spec.out_channels
        empty = sums.sums.new_empty
        weight = empty(channels, 1, 3, 3, dtype=dtype)
        bias = empty(channels, dtype=dtype)
        stats = empty(2, n, channels)
        state = empty(channels, _TAPS + n * _OF_BRANCH)
        pivot = sums.pivot.double()
        values = None
        if given is not None:
            of_row = torch.cat([given.by_cov, given.mean[:, None], given.var[:, None]], 1)
            values = given.dense(n, channels, of_row)
        direct = _marks(given, n, channels)
        least = self.least_share(sums, dtype)
        known = (*_tensors_and_sizes(params), _doubles(*self.eps), _doubles(least))
        moments = torch.cat([sums.products.flatten(1), sums.sums], 1)
        made = (weight, bias, stats, state)
        of_patches = (moments, pivot, direct, values, self._shape(n, sums.count))
        call('depthwise_fold', dtype, *known, *of_patches, *made)
        return Folded(weight, bias, stats[0], stats[1], direct, (state,))

    def state_like(self, x: Tensor, params: BranchParams) -> list[Tensor]:
        size = _TAPS + len(params.kernels) * _OF_BRANCH
        return [x.new_empty(self.spec.out_channels, size, dtype=torch.float64)]

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
        n, channels = len(params.kernels), self.spec.out_channels
        grads = _empty_like(params)
        moves = state[0].new_empty(channels, (_TAPS + 1) * _TAPS)
        dtype = next((p.dtype for p in params.flat() if p is not None), torch.float32)
        by_folded = (g.double().contiguous() for g in (grad_weight, grad_bias))
        given = (*_tensors_and_sizes(params), state[0], *by_folded, direct, by_scale)
        call('depthwise_unfold', dtype, *given, self._shape(n, count), grads.flat(), moves)
        products, sums = moves.split([_TAPS**2, _TAPS], 1)
        return UnitGrads(grads, products.unflatten(1, (_TAPS, _TAPS)), sums)

    def _shape(self, branches: int, count: float) -> ctypes.Array:
        return (ctypes.c_int64 * 4)(
            self.spec.out_channels, branches, int(count), torch.get_num_threads()
        )


class PointwiseFolding(Folding):
    """1x1, one group, on a CPU, in the type of images and parameters."""

    def fold(
        self,
        params: BranchParams,
        sums: PatchSums,
        dtype: torch.dtype,
        given: Optional[DirectStats] = None,
    ) -> Folded:
        moments = sums.moments(torch.float64)
        cov = moments.cov[0].to(dtype)
        n, (out, width) = len(params.kernels), self._size
        convs = _matrices(params)
        empty = sums.sums.new_empty
        by_cov = empty(len(convs), out, width, dtype=dtype)
        for kernel, by in zip(convs, by_cov):
            torch.mm(kernel, cov, out=by)
        values = None
        if given is not None:
            values = given.dense(n, out, given.mean, given.var)
            has_kernel = torch.tensor([k is not None for k in params.kernels])
            rows = has_kernel[given.branch]  # the skip branch has no place there
            place = (has_kernel.cumsum(0) - 1)[given.branch[rows]], given.channel[rows]
            by_cov[place] = given.by_cov[rows].to(dtype)
        direct = _marks(given, n, out)
        weight = empty(out, width, 1, 1, dtype=dtype)
        bias = empty(out, dtype=dtype)
        stats, kept = empty(2, n, out), empty(out, n, 2)
        least = self.least_share(sums, dtype)
        known = (*_tensors_and_sizes(params), _doubles(*self.eps), _doubles(least))
        var = moments.cov[0].diagonal().contiguous()
        raw = moments.mean + sums.pivot
        inputs = (moments.mean, raw, var, moments.power.contiguous(), by_cov, direct, values)
        made = (weight, bias, stats, kept)
        call('pointwise_fold', dtype, *known, *inputs, self._shape(n), *made)
        state = (moments.mean, by_cov, kept)
        return Folded(weight, bias, stats[0], stats[1], direct, state)

    def state_like(self, x: Tensor, params: BranchParams) -> list[Tensor]:
        (out, width), convs = self._size, len(_matrices(params))
        return [
            x.new_empty(1, width, dtype=torch.float64),
            x.new_empty(convs, out, width),
            x.new_empty(out, len(params.kernels), 2, dtype=torch.float64),
        ]

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
        patch_mean, by_cov, kept = state
        n, (out, width) = len(params.kernels), self._size
        grads, scaled = _empty_like(params), torch.empty_like(by_cov)
        by_var, by_mean = by_cov.new_empty(2, n, out).unbind()
        given = (*_tensors_and_sizes(params), patch_mean, by_cov, kept)
        by_folded = (grad_weight.contiguous(), grad_bias.contiguous(), direct, by_scale)
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


def _marks(given: Optional[DirectStats], branches: int, channels: int) -> Tensor:
    """Marked rows (J, out), or memory for them."""
    direct = torch.empty(branches, channels, dtype=torch.bool)
    if given is not None:
        direct.zero_()[given.branch, given.channel] = True
    return direct


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
