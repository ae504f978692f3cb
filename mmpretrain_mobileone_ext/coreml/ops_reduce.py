"""MIL reductions (coremltools ``mil.ops.defs.iOS15.reduction``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from .op_registry import op
from .ops_elementwise import like

_Reduction = Callable[[Tensor, tuple[int, ...], bool], Tensor]


def _sum(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return x.sum(axes, keepdim=keep)


def _mean(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return _real(x).mean(axes, keepdim=keep)


def _l2_norm(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    return torch.sqrt(_sum(_real(x).square(), axes, keep))


def _real(x: Tensor) -> Tensor:
    """Integers as fp64, which holds their sums and squares."""
    return x if x.is_floating_point() else x.double()


def _prod(x: Tensor, axes: tuple[int, ...], keep: bool) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x if keep else _drop(x, axes)


def _drop(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    kept = [n for i, n in enumerate(x.shape) if i not in axes]
    return x.reshape(kept)


_REDUCTIONS: dict[str, _Reduction] = {
    'reduce_sum': _sum,
    'reduce_mean': _mean,
    'reduce_max': lambda x, axes, keep: x.amax(axes, keepdim=keep),
    'reduce_min': lambda x, axes, keep: x.amin(axes, keepdim=keep),
    'reduce_prod': _prod,
    'reduce_l1_norm': lambda x, axes, keep: _sum(x.abs(), axes, keep),
    'reduce_l2_norm': _l2_norm,
    'reduce_sum_square': lambda x, axes, keep: _sum(x.square(), axes, keep),
    'reduce_log_sum': lambda x, axes, keep: torch.log(
        _sum(_real(x), axes, keep)
    ),
    # Where all are -inf coremltools folds to NaN; the document's formula,
    # like torch, says log(0).
    'reduce_log_sum_exp': lambda x, axes, keep: torch.logsumexp(
        _real(x), axes, keepdim=keep
    ),
}


def _over_axes(reduction: _Reduction) -> Callable[..., Tensor]:
    def reduce(
        x: Tensor,
        axes: Optional[Sequence[int]] = None,
        keep_dims: bool = False,
    ) -> Tensor:
        """Reduce over ``axes`` (all if None), in the dtype of ``x``."""
        chosen = range(x.dim()) if axes is None else axes
        if not chosen:
            # For torch no axes are all axes.
            return like(reduction(x[..., None], (x.dim(),), False), x)
        dims = tuple(a % x.dim() for a in chosen)
        return like(reduction(x, dims, keep_dims), x)

    return reduce


for _name, _reduction in _REDUCTIONS.items():
    op(_name)(_over_axes(_reduction))


@op('reduce_argmax')
def reduce_argmax(
    x: Tensor, axis: int = -1, keep_dims: bool = False, **_: Any
) -> Tensor:
    """Index (int32) of the first maximum along ``axis``."""
    return x.argmax(axis, keepdim=keep_dims).to(torch.int32)


@op('reduce_argmin')
def reduce_argmin(
    x: Tensor, axis: int = -1, keep_dims: bool = False, **_: Any
) -> Tensor:
    """Index (int32) of the first minimum along ``axis``."""
    return x.argmin(axis, keepdim=keep_dims).to(torch.int32)
