"""MIL order, counting and bands (``tensor_operation``)."""

from __future__ import annotations

import math
from typing import Union

import torch
from torch import Tensor

from ..errors import ProgramError
from .op_registry import op

_Number = Union[int, float]


@op('non_zero')
def non_zero(x: Tensor) -> Tensor:
    """Indices (N, rank), int32, of the elements that are not 0.

    How many there are depends on the numbers, as the shape does.
    """
    marked = (x != 0).reshape(-1)
    count = int(marked.sum())
    # Not torch.nonzero, whose shape is not known before it has run.
    order = marked.to(torch.uint8).argsort(stable=True, descending=True)
    flat = order[:count]
    found = []
    for size in reversed(x.shape):
        found.append(flat % size)
        flat = torch.div(flat, size, rounding_mode='floor')
    if not found:
        return torch.zeros(count, 0, dtype=torch.int32, device=x.device)
    return torch.stack(found[::-1], 1).to(torch.int32)


@op('argsort')
def argsort(x: Tensor, axis: int = -1, ascending: bool = False) -> Tensor:
    """Indices, int32, that sort ``x`` along ``axis``; ties keep their order.

    MIL leaves ties open.
    """
    order = torch.argsort(x, dim=axis, descending=not ascending, stable=True)
    return order.to(torch.int32)


@op('range_1d')
def range_1d(
    start: Union[_Number, Tensor],
    end: Union[_Number, Tensor],
    step: Union[_Number, Tensor],
) -> Tensor:
    """``start``, ``start + step``, ... up to, not including, ``end``.

    Raises:
        ProgramError: If ``step`` is 0.
    """
    given = (start, end, step)
    tensors = [value for value in given if isinstance(value, Tensor)]
    first, last, each = (
        v.reshape(()).item() if isinstance(v, Tensor) else v for v in given
    )
    if each == 0:
        raise ProgramError('range_1d: step is 0; allowed: any other number')
    whole = all(isinstance(number, int) for number in (first, last, each))
    # Whole numbers are counted exactly, whatever their size.
    count = -((first - last) // each) if whole else math.ceil(
        (last - first) / each
    )
    places = torch.arange(
        max(0, count), device=tensors[0].device if tensors else 'cpu'
    )
    if whole:
        return (first + each * places).to(torch.int32)
    return (first + each * places.to(torch.float64)).to(torch.float32)


@op('band_part')
def band_part(x: Tensor, lower: int = -1, upper: int = -1) -> Tensor:
    """``x`` with 0 outside of a band around the diagonal of its matrices.

    Args:
        x (Tensor): (..., M, N).
        lower (int): Subdiagonals to keep; all if negative.
        upper (int): Superdiagonals to keep; all if negative.
    """
    row = torch.arange(x.shape[-2], device=x.device).unsqueeze(1)
    column = torch.arange(x.shape[-1], device=x.device)
    below = row - column
    outside = torch.zeros_like(below, dtype=torch.bool)
    if lower >= 0:
        outside = outside | (below > lower)
    if upper >= 0:
        outside = outside | (-below > upper)
    return x.masked_fill(outside, 0)


@op('one_hot')
def one_hot(
    indices: Tensor,
    one_hot_vector_size: Union[int, Tensor],
    axis: int = -1,
    on_value: Union[_Number, bool] = 1,
    off_value: Union[_Number, bool] = 0,
) -> Tensor:
    """``on_value`` at each index along a new ``axis``, else ``off_value``.

    An index out of bounds has no place: all are ``off_value``, as in
    ``tf.one_hot``.
    """
    size = int(one_hot_vector_size)
    at = axis % (indices.dim() + 1)
    along = [-1] + [1] * (indices.dim() - at)
    places = torch.arange(size, device=indices.device).reshape(along)
    same = indices.unsqueeze(at) == places
    dtype = {bool: torch.bool, int: torch.int32}.get(
        type(on_value), torch.float32
    )
    result = torch.full(
        same.shape, off_value, dtype=dtype, device=indices.device
    )
    return result.masked_fill(same, on_value)
