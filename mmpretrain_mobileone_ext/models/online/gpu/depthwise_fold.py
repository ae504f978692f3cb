"""Fold 3x3 depthwise branches on a GPU: two launches forward, one backward.

Beside them one each way for branches whose variance cancellation spoils, which returns at once
where there are none. Parameters stay where they are, and each gradient is a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..batch_fold import Folded, Folding, PatchSums, UnitGrads
from ..unit import BranchParams
from . import depthwise_fold_kernels as kernels_of
from .sums import CANCELLATION

#: What :meth:`TritonDepthwise.direct_moments` does with kernels and marks.
Look = Callable[[Tensor, Tensor], Tensor]
#: What :meth:`TritonDepthwise.direct_grads` does with kernels, marks and means around the pivot.
LookBack = Callable[[Tensor, Tensor, Tensor], Tensor]
_CHANNELS = 8


class TritonDepthwiseFolding(Folding):
    """3x3, one channel a group; everything small is in float64."""

    def fold(  # type: ignore[override]
        self, params: BranchParams, sums: PatchSums, dtype: torch.dtype, look: Look
    ) -> Folded:
        """Fold by a batch.

        Args:
            params: of all branches.
            sums: of the patches, of all ranks.
            dtype: of the images.
            look: makes of kernels (J, C, 9) and marks (J, C) the sums of the outputs' distances
                from what the pivot gives, and of their squares, (2, J, C) in float64 of all ranks,
                where marks are.
        """
        channels, n = self.spec.out_channels, len(params.kernels)
        wide = torch.promote_types(dtype, torch.float32)
        new = sums.sums.new_empty
        padded, by_cov = new(n, channels, 9, dtype=wide), new(n, channels, 9)
        moments, direct = new(2, n, channels), new(n, channels, dtype=torch.bool)
        given = (sums.products.contiguous(), sums.sums.contiguous())
        self._run(
            kernels_of.depthwise_measure,
            *(contiguous(params.kernels), *given, padded, by_cov, moments, direct.view(torch.int8)),
            *(int(sums.count), channels),
            SIZES=branch_sizes(params),
            EPS=self.eps,
            CANCELLATION=CANCELLATION,
        )
        weight, bias = new(channels, 1, 3, 3, dtype=wide), new(channels, dtype=dtype)
        stats, inv_std = new(2, n, channels), new(n, channels)
        made = (weight, bias, stats, inv_std)
        self._run(
            kernels_of.depthwise_combine,
            *(contiguous(params.gammas), contiguous(params.betas), padded, moments),
            *(direct.view(torch.int8), look(padded, direct), given[1], sums.pivot, *made),
            *(int(sums.count), channels),
            EPS=self.eps,
        )
        state = (padded, by_cov, moments, inv_std, given[1])
        return Folded(weight, bias, stats[0], stats[1], direct, state)

    def state_like(self, x: Tensor, params: BranchParams) -> list[Tensor]:
        channels, n = self.spec.out_channels, len(params.kernels)

        def new(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return x.new_empty(shape, dtype=dtype)

        return [
            new(n, channels, 9, dtype=torch.promote_types(x.dtype, torch.float32)),
            new(n, channels, 9),
            new(2, n, channels),
            new(n, channels),
            new(channels, 9),
        ]

    def backward(  # type: ignore[override]
        self,
        params: BranchParams,
        state: Sequence[Tensor],
        count: float,
        grad_weight: Tensor,
        grad_bias: Tensor,
        direct: Tensor,
        look: LookBack,
    ) -> UnitGrads:
        """Gradients to parameters and, around the pivot, to the sums.

        Args:
            params, state, count, grad_bias, direct: as for any folding.
            grad_weight: to the folded kernel of ``x - pivot``.
            look: makes of kernels, marks and means of outputs (J, C), around what the pivot gives,
                the sums of gradient times the distance from them, (J, C) in float64.
        """
        padded, by_cov, moments, inv_std, sums = state
        channels, sizes = self.spec.out_channels, branch_sizes(params)
        grads = BranchParams(*(tuple(map(empty_like, kind)) for kind in params))
        products = sums.new_empty(channels, 9, 9)
        moved = torch.empty_like(sums)
        looked = look(padded, direct, moments[0])
        self._run(
            kernels_of.depthwise_unfold,
            *(contiguous(params.gammas), *grads, padded, by_cov, moments, inv_std),
            *(direct.view(torch.int8), looked, sums),
            *(grad_weight.double().contiguous(), grad_bias.double().contiguous()),
            *(products, moved, int(count), channels),
            SIZES=sizes,
        )
        return UnitGrads(grads, products, moved)

    def _run(self, kernel: Any, *given: Any, **options: Any) -> None:
        grid = (triton.cdiv(self.spec.out_channels, _CHANNELS),)
        kernel[grid](*given, CHANNELS=_CHANNELS, **options)


def branch_sizes(params: BranchParams) -> tuple[int, ...]:
    """Kernel sizes; 0: no convolution."""
    return tuple(0 if kernel is None else kernel.shape[-1] for kernel in params.kernels)


def contiguous(values: Sequence[Any]) -> tuple[Any, ...]:
    """Parameters as kernels read them."""
    return tuple(None if value is None else value.detach().contiguous() for value in values)


def empty_like(value: Any) -> Any:
    """Room for a gradient."""
    if value is None:
        return None
    return torch.empty_like(value, memory_format=torch.contiguous_format)
