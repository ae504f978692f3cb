"""MIL elementwise operations and reductions; ``activation`` has what networks activate with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Callable, Optional

import torch
from torch import Tensor

from .registry import op
from .shared import choice, like

_UNARY: dict[str, Callable[[Tensor], Tensor]] = {
    'abs': torch.abs,
    'acos': torch.acos,
    'asin': torch.asin,
    'atan': torch.atan,
    'atanh': torch.atanh,
    'ceil': torch.ceil,
    'cos': torch.cos,
    'cosh': torch.cosh,
    'erf': torch.erf,
    'exp': torch.exp,
    'floor': torch.floor,
    'logical_not': torch.logical_not,
    'round': torch.round,
    'sin': torch.sin,
    'sinh': torch.sinh,
    'sqrt': torch.sqrt,
    'square': torch.square,
    'tan': torch.tan,
}

_BINARY: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    'add': torch.add,
    'equal': torch.eq,
    'greater': torch.gt,
    'greater_equal': torch.ge,
    'less': torch.lt,
    'less_equal': torch.le,
    'logical_and': torch.logical_and,
    'logical_or': torch.logical_or,
    'logical_xor': torch.logical_xor,
    'maximum': torch.maximum,
    'minimum': torch.minimum,
    'mul': torch.mul,
    'not_equal': torch.ne,
    'pow': torch.pow,
    'sub': torch.sub,
}

# Functions of x + epsilon, and the default of epsilon.
_SHIFTED: dict[str, tuple[Callable[[Tensor], Tensor], float]] = {
    'inverse': (torch.reciprocal, 1e-4),
    'log': (torch.log, 1e-45),
    'rsqrt': (torch.rsqrt, 1e-12),
}

# torch has no arithmetic on the unsigned types; the wider ones hold them.
_CASTS = {
    'fp16': torch.float32,
    'fp32': torch.float32,
    'int8': torch.int8,
    'uint8': torch.uint8,
    'int16': torch.int16,
    'uint16': torch.int32,
    'int32': torch.int32,
    'bool': torch.bool,
}


def _unary(function: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    def unary(x: Tensor) -> Tensor:
        return function(x)

    unary.__doc__ = f'``torch.{function.__name__}(x)``.'
    return unary


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    def binary(x: Tensor, y: Tensor) -> Tensor:
        return function(x, y)

    binary.__doc__ = f'``torch.{function.__name__}(x, y)``.'
    return binary


def _shifted(function: Callable[[Tensor], Tensor], default: float) -> Callable[..., Tensor]:
    def shifted(x: Tensor, epsilon: float = default) -> Tensor:
        return function(x + epsilon)

    shifted.__doc__ = f'``torch.{function.__name__}(x + epsilon)``.'
    return shifted


for _name, _one in _UNARY.items():
    op(_name, fresh=True)(_unary(_one))
for _name, _two in _BINARY.items():
    op(_name, fresh=True)(_binary(_two))
for _name, (_shift, _default) in _SHIFTED.items():
    op(_name, fresh=True)(_shifted(_shift, _default))


@op('real_div')
def real_div(x: Tensor, y: Tensor) -> Tensor:
    """``x / y``; of two integer tensors without the fraction."""
    if x.is_floating_point() or y.is_floating_point():
        return torch.true_divide(x, y)
    return torch.div(x.long(), y.long(), rounding_mode='trunc').int()


@op('floor_div')
def floor_div(x: Tensor, y: Tensor) -> Tensor:
    """``x / y`` rounded down."""
    return _of_wide(torch.floor_divide, x, y)


@op('mod')
def mod(x: Tensor, y: Tensor) -> Tensor:
    """``x - y * floor(x / y)``, with the sign of ``y``."""
    return _of_wide(torch.remainder, x, y)


def _of_wide(function: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Tensor:
    """Compute integers as int64.

    The processor ends a program that divides the least int32 by -1.
    """
    if x.is_floating_point() or y.is_floating_point():
        return function(x, y)
    return function(x.long(), y.long()).int()


@op('exp2')
def exp2(x: Tensor) -> Tensor:
    """``2^x``; of an integer tensor without the fraction."""
    return like(torch.exp2(x), x)


@op('sign')
def sign(x: Tensor) -> Tensor:
    """1, -1, or 0 for 0; NaN, which is none of them, stays NaN."""
    return torch.where(x.isnan(), x, torch.sign(x))


@op('clip')
def clip(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``min(max(x, alpha), beta)``."""
    return torch.clamp(x, alpha, beta)


@op('threshold')
def threshold(x: Tensor, alpha: float) -> Tensor:
    """``max(x, alpha)``."""
    return torch.clamp(x, min=alpha)


@op('select')
def select(cond: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """``a`` where ``cond`` is true, else ``b``."""
    return torch.where(cond.to(torch.bool), a, b)


@op('cast', untyped=True)
def cast(x: Tensor, dtype: str) -> Tensor:
    """Convert to ``dtype``; floats become integers by truncation.

    ``fp16`` gives fp32 values here: the runtime rounds results to fp16.

    Raises:
        ProgramError: If ``dtype`` is unknown.
    """
    return x.to(choice('cast to', dtype, _CASTS))


@op('identity', selects=True, untyped=True)
def identity(x: Tensor) -> Tensor:
    """``x``."""
    return x


def _real(x: Tensor) -> Tensor:
    """Integers as fp64, which holds their sums and squares."""
    return x if x.is_floating_point() else x.double()


def _prod(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    for axis in axes:
        x = x.prod(axis, keepdim=True)
    return x


_Reduction = Callable[[Tensor, tuple[int, ...]], Tensor]

# They keep the axes, as axes of length 1.
_REDUCTIONS: dict[str, _Reduction] = {
    'reduce_sum': lambda x, axes: x.sum(axes, keepdim=True),
    'reduce_mean': lambda x, axes: _real(x).mean(axes, keepdim=True),
    'reduce_max': lambda x, axes: x.amax(axes, keepdim=True),
    'reduce_min': lambda x, axes: x.amin(axes, keepdim=True),
    'reduce_prod': _prod,
    'reduce_l1_norm': lambda x, axes: x.abs().sum(axes, keepdim=True),
    'reduce_l2_norm': lambda x, axes: _real(x).square().sum(axes, keepdim=True).sqrt(),
    'reduce_sum_square': lambda x, axes: x.square().sum(axes, keepdim=True),
    'reduce_log_sum': lambda x, axes: _real(x).sum(axes, keepdim=True).log(),
    # Where all are -inf coremltools folds to NaN; the document's formula, like torch, says log(0).
    'reduce_log_sum_exp': lambda x, axes: _real(x).logsumexp(axes, keepdim=True),
}


def over_axes(reduction: _Reduction) -> Callable[..., Tensor]:
    """A MIL reduction, of a function that sums over given axes and keeps them as 1."""

    def reduce(x: Tensor, axes: Optional[Sequence[int]] = None, keep_dims: bool = False) -> Tensor:
        """Reduce over ``axes`` (all if None), in the dtype of ``x``."""
        rank = x.dim()
        dims = tuple(a % rank for a in (range(rank) if axes is None else axes))
        left = [1 if i in dims else n for i, n in enumerate(x.shape) if keep_dims or i not in dims]
        # For torch no axes are all axes.
        result = reduction(x, dims) if dims else reduction(x.unsqueeze(-1), (rank,))
        return like(result.reshape(left), x)

    return reduce


for _name, _reduction in _REDUCTIONS.items():
    op(_name)(over_axes(_reduction))


@op('reduce_argmax')
def reduce_argmax(x: Tensor, axis: int = -1, keep_dims: bool = False, **_: Any) -> Tensor:
    """Index (int32) of the first maximum along ``axis``."""
    return x.argmax(axis, keepdim=keep_dims).to(torch.int32)


@op('reduce_argmin')
def reduce_argmin(x: Tensor, axis: int = -1, keep_dims: bool = False, **_: Any) -> Tensor:
    """Index (int32) of the first minimum along ``axis``."""
    return x.argmin(axis, keepdim=keep_dims).to(torch.int32)
