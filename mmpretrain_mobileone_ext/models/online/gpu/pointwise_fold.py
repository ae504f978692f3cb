"""Fold pointwise branches on a GPU: four launches forward, two and a product backward.

Beside them one each way for branches whose variance cancellation spoils, which returns soon where
there are none. Parameters stay where they are, and each gradient is a tensor of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
import triton
from torch import Tensor

from ..batch_fold import Folded, Folding, PatchSums, UnitGrads
from ..unit import BranchParams
from . import pointwise_fold_kernels as kernels_of
from .depthwise_fold import branch_sizes, contiguous, empty_like
from .launch import work_type
from .sums import CANCELLATION

#: What :meth:`TritonPointwise.direct_moments` does with kernels and marks.
Look = Callable[[Sequence[Any], Tensor], Tensor]
#: What :meth:`TritonPointwise.direct_grads` does with kernels, marks and means around the pivot.
LookBack = Callable[[Sequence[Any], Tensor, Tensor], Tensor]
_PRODUCT = dict(BLOCK=64, STEP=32, num_warps=8)
_ROWS = dict(ROWS=16, COLUMNS=64)


class TritonPointwiseFolding(Folding):
    """1x1, one group."""

    def fold(  # type: ignore[override]
        self, params: BranchParams, sums: PatchSums, dtype: torch.dtype, look: Look
    ) -> Folded:
        """Fold by a batch; arguments as for :class:`~.depthwise_fold.TritonDepthwiseFolding`."""
        n, (out, channels) = len(params.kernels), self._size
        wide = torch.promote_types(dtype, torch.float32)
        new, sizes = sums.sums.new_empty, branch_sizes(params)
        convs, centre = contiguous(params.kernels), sums.sums.contiguous()
        by_cov, moments = new(n, out, channels, dtype=wide), new(2, n, out)
        direct = new(n, out, dtype=torch.bool)
        blocks = triton.cdiv(channels, _PRODUCT['BLOCK'])
        parts, count = new(blocks, 3, n, out), int(sums.count)
        kernels_of.measure[(triton.cdiv(out, _PRODUCT['BLOCK']) * blocks,)](
            *(convs, sums.products.contiguous(), centre, by_cov, parts, count, channels, out),
            SIZES=sizes,
            WORK=work_type(by_cov),
            **_PRODUCT,
        )
        marks, grid = direct.view(torch.int8), (triton.cdiv(out, 64),)
        given = dict(EPS=self.eps, BLOCK=64)
        kernels_of.settle[grid](
            parts, moments, marks, blocks, out, CANCELLATION=CANCELLATION, **given
        )
        inv_std, scale, means = new(n, out), new(n, out), new(n, out)
        looked = look(params.kernels, direct)
        made = (moments, marks, looked, inv_std, scale)
        kernels_of.rescale[grid](contiguous(params.gammas), *made, count, out, **given)
        weight, bias = new(out, channels, 1, 1, dtype=wide), new(out, dtype=dtype)
        kernels_of.combine[(triton.cdiv(out, _ROWS['ROWS']),)](
            *(convs, contiguous(params.betas), scale, moments, centre, sums.pivot),
            *(weight, bias, means, count, channels, out),
            SIZES=sizes,
            **_ROWS,
        )
        state = (by_cov, scale, inv_std, moments, centre)
        return Folded(weight, bias, means, moments[1], direct, state)

    def state_like(self, x: Tensor, params: BranchParams) -> list[Tensor]:
        n, (out, channels) = len(params.kernels), self._size

        def new(*shape: int, dtype: torch.dtype = torch.float64) -> Tensor:
            return x.new_empty(shape, dtype=dtype)

        return [
            new(n, out, channels, dtype=torch.promote_types(x.dtype, torch.float32)),
            new(n, out),
            new(n, out),
            new(2, n, out),
            new(1, channels),
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
        """Gradients; arguments as for :class:`~.depthwise_fold.TritonDepthwiseFolding`."""
        by_cov, scale, inv_std, moments, centre = state
        n, (out, channels) = len(params.kernels), self._size
        new, sizes = centre.new_empty, branch_sizes(params)
        grads = BranchParams(*(tuple(map(empty_like, kind)) for kind in params))
        convs, sides = contiguous(params.kernels), (new(n, out), new(n, out))
        looked = look(params.kernels, direct, moments[0])
        kernels_of.unfold[(triton.cdiv(out, _ROWS['ROWS']),)](
            *(convs, *grads, by_cov, scale, inv_std, direct.view(torch.int8), looked, centre),
            *(grad_weight.double().contiguous(), grad_bias.double().contiguous()),
            *(*sides, int(count), channels, out),
            SIZES=sizes,
            **_ROWS,
        )
        products, moved = new(channels, channels), new(channels)
        kernels_of.move[(triton.cdiv(channels, _PRODUCT['BLOCK']) ** 2,)](
            *(convs, *sides, products, moved, int(count), channels, out),
            SIZES=sizes,
            WORK=work_type(by_cov),
            **_PRODUCT,
        )
        moved = torch.addmv(moved, products, centre[0], alpha=-1 / count)
        return UnitGrads(grads, products[None], moved[None])

    @property
    def _size(self) -> tuple[int, int]:
        return self.spec.out_channels, self.spec.in_channels
