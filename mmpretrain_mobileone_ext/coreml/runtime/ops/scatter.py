"""MIL gather, scatter, order, counting and bands (``tensor_operation``).

From iOS 17 on the operations have ``validate_indices``. Indices then count from 0 only; before that
negative ones count from the end. An index beyond the tensor is an error in both cases: where Apple
does not check, the result is undefined.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Callable, Optional, Union

import torch
from torch import Tensor

from ....errors import ProgramError
from .registry import op
from .shared import Flags, Sizes, along, choice, counted, places, slices, unsqueezed

_Number = Union[int, float]
_Combine = Callable[[Tensor, int, Tensor, Tensor], Tensor]


def _divided(data: Tensor, axis: int, index: Tensor, changes: Tensor) -> Tensor:
    divisor = torch.ones_like(data).scatter_reduce(axis, index, changes, 'prod')
    return torch.div(data, divisor, rounding_mode=None if data.is_floating_point() else 'trunc')


def _reduced(how: str) -> _Combine:
    return lambda data, axis, index, changes: data.scatter_reduce(axis, index, changes, how)


_MODES: dict[str, _Combine] = {
    'update': lambda data, axis, index, changes: data.scatter(axis, index, changes),
    'sub': lambda data, axis, index, changes: data.scatter_reduce(axis, index, -changes, 'sum'),
    'div': _divided,
    'add': _reduced('sum'),
    'mul': _reduced('prod'),
    'max': _reduced('amax'),
    'min': _reduced('amin'),
}


@op('scatter')
def scatter(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = 'update',
    validate_indices: Optional[bool] = None,
) -> Tensor:
    """Combine slices of ``updates`` with those of ``data`` at ``indices``.

    Args:
        data (Tensor): (\\*D).
        indices (Tensor): (C), places along ``axis``. Where one occurs twice, ``update`` takes the
            last, other modes take both.
        updates (Tensor): (\\*D), but C along ``axis``.
        mode (str): ``'update'``, ``'add'``, ``'sub'``, ``'mul'``, ``'div'``, ``'max'`` or
            ``'min'``. Converters always write it; 'update' is what the documentation calls the
            default.

    Raises:
        ProgramError: If ``mode`` is unknown or ``updates`` does not fit.
    """
    at = axis % data.dim()
    index = counted(indices.reshape(-1), data.shape[at], validate_indices)
    _check_shape(updates, [*data.shape[:at], len(index), *data.shape[at + 1 :]])
    index = along(index, at, data.dim()).expand(updates.shape)
    return _combined(data, index, updates, at, mode)


@op('scatter_along_axis')
def scatter_along_axis(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    axis: int = 0,
    mode: str = 'add',
    validate_indices: Optional[bool] = None,
) -> Tensor:
    """As ``scatter``, with an index for every element of ``updates``.

    coremltools folds constants as if the mode were ``'update'``, whatever it is; the documentation
    decides.

    Args:
        indices (Tensor): Shape of ``data`` but along ``axis``.
        updates (Tensor): Shape of ``indices``.

    Raises:
        ProgramError: If ``mode`` is unknown or shapes do not fit.
    """
    at = axis % data.dim()
    _check_shape(updates, list(indices.shape))
    others = [*data.shape[:at], indices.shape[at], *data.shape[at + 1 :]]
    _check_shape(indices, others, 'indices')
    index = counted(indices, data.shape[at], validate_indices)
    return _combined(data, index, updates, at, mode)


@op('scatter_nd')
def scatter_nd(
    data: Tensor,
    indices: Tensor,
    updates: Tensor,
    mode: str = 'add',
    validate_indices: Optional[bool] = None,
) -> Tensor:
    """As ``scatter``; the last dimension of ``indices`` says where.

    Args:
        data (Tensor): (\\*D).
        indices (Tensor): (\\*E, K): a place in the first K dimensions.
        updates (Tensor): (\\*E, \\*D[K:]).

    Raises:
        ProgramError: If ``mode`` is unknown or ``updates`` does not fit.
    """
    depth = indices.shape[-1]
    inner = list(data.shape[depth:])
    _check_shape(updates, [*indices.shape[:-1], *inner])
    rows = data.reshape(math.prod(data.shape[:depth]), math.prod(inner))
    index = _rows(indices, data.shape[:depth], validate_indices).reshape(-1)
    changes = updates.reshape(len(index), rows.shape[1])
    index = index.unsqueeze(1).expand(changes.shape)
    return _combined(rows, index, changes, 0, mode).reshape(data.shape)


@op('gather_nd')
def gather_nd(
    x: Tensor, indices: Tensor, batch_dims: int = 0, validate_indices: Optional[bool] = None
) -> Tensor:
    """Slices of ``x``; the last dimension of ``indices`` says which.

    Args:
        x (Tensor): (\\*B, \\*D).
        indices (Tensor): (\\*B, \\*E, K): a place in the first K dimensions of D, for each of the
            ``batch_dims`` dimensions B.

    Returns:
        Tensor: (\\*B, \\*E, \\*D[K:]).
    """
    depth = indices.shape[-1]
    batch, sizes = x.shape[:batch_dims], x.shape[batch_dims:]
    inner = list(sizes[depth:])
    if indices.shape[:batch_dims] != batch or depth > len(sizes):
        raise ProgramError(
            f'gather_nd: indices of shape {tuple(indices.shape)} do not fit '
            f'x of shape {tuple(x.shape)} with batch_dims {batch_dims}'
        )
    count = math.prod(sizes[:depth])
    rows = x.reshape(math.prod(batch) * count, math.prod(inner))
    index = _rows(indices, sizes[:depth], validate_indices, len(rows))
    start = torch.arange(math.prod(batch), device=x.device) * count
    index = index + start.reshape([*batch, *[1] * (index.dim() - batch_dims)])
    found = rows.index_select(0, index.reshape(-1))
    return found.reshape([*indices.shape[:-1], *inner])


@op('slice_update')
def slice_update(
    x: Tensor,
    update: Tensor,
    begin: Sizes,
    end: Sizes,
    stride: Optional[Sequence[int]] = None,
    begin_mask: Flags = None,
    end_mask: Flags = None,
    squeeze_mask: Flags = None,
) -> Tensor:
    """``x`` with ``x[begin:end:stride, ...] = update``.

    The slice is that of ``slice_by_index``, without squeezed dimensions.

    Raises:
        ProgramError: If ``update`` has another shape than the slice.
    """
    taken = slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    lengths = [len(kept) for kept in taken]
    _check_shape(update, unsqueezed(lengths, squeeze_mask), 'update')
    index = torch.meshgrid(*(places(kept, x.device) for kept in taken), indexing='ij')
    return x.index_put(index, update.reshape(lengths).to(x.dtype))


def _rows(
    indices: Tensor,
    sizes: Sequence[int],
    validate_indices: Optional[bool],
    beyond: Optional[int] = None,
) -> Tensor:
    """Places (\\*E, K) in ``sizes`` as rows (\\*E) of the flattened tensor.

    A place out of bounds becomes a row ``beyond`` all, which torch refuses: flattened, it might be
    another place within.
    """
    outside = math.prod(sizes) if beyond is None else beyond
    row = torch.zeros(indices.shape[:-1], dtype=torch.long, device=indices.device)
    wrong = row != 0
    for axis, size in enumerate(sizes):
        index = counted(indices[..., axis], size, validate_indices)
        wrong = wrong | (index < 0) | (index >= size)
        row = row * size + index
    return torch.where(wrong, outside, row)


def _combined(data: Tensor, index: Tensor, updates: Tensor, axis: int, mode: str) -> Tensor:
    """``data`` with ``updates`` at ``index``, which has their shape."""
    return choice('scatter mode', mode, _MODES)(data, axis, index, updates.to(data.dtype))


def _check_shape(value: Tensor, wanted: Sequence[int], name: str = 'updates') -> None:
    if list(value.shape) != list(wanted):
        raise ProgramError(
            f'{name} has the shape {tuple(value.shape)}; allowed here: {tuple(wanted)}'
        )


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
    start: Union[_Number, Tensor], end: Union[_Number, Tensor], step: Union[_Number, Tensor]
) -> Tensor:
    """``start``, ``start + step``, ... up to, not including, ``end``.

    Raises:
        ProgramError: If ``step`` is 0.
    """
    given = (start, end, step)
    tensors = [value for value in given if isinstance(value, Tensor)]
    first, last, each = (v.reshape(()).item() if isinstance(v, Tensor) else v for v in given)
    if each == 0:
        raise ProgramError('range_1d: step is 0; allowed: any other number')
    whole = all(isinstance(number, int) for number in (first, last, each))
    # Whole numbers are counted exactly, whatever their size.
    count = -((first - last) // each) if whole else math.ceil((last - first) / each)
    index = torch.arange(max(0, count), device=tensors[0].device if tensors else 'cpu')
    if whole:
        return (first + each * index).to(torch.int32)
    return (first + each * index.to(torch.float64)).to(torch.float32)


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

    An index out of bounds has no place: all are ``off_value``, as in ``tf.one_hot``.
    """
    rank = indices.dim() + 1
    at = axis % rank
    each = torch.arange(int(one_hot_vector_size), device=indices.device)
    same = indices.unsqueeze(at) == along(each, at, rank)
    dtype = {bool: torch.bool, int: torch.int32}.get(type(on_value), torch.float32)
    result = torch.full(same.shape, off_value, dtype=dtype, device=indices.device)
    return result.masked_fill(same, on_value)
