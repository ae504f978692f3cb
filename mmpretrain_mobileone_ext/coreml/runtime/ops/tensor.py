"""MIL shape and data movement (``tensor_transformation``/``_operation``)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import ProgramError
from .registry import op
from .shared import Flags, Sizes, counted, numbers, padded, pairs, places, slices, unsqueezed

# Each part is a value of its own; a program names every one of them.
_MOST_PARTS = 10_000


@op('classify', untyped=True)
def classify(probabilities: Tensor, classes: Sequence[Any]) -> Any:
    """Index (int64) of the most probable class, and all probabilities.

    Raises:
        ProgramError: If there is not one label for each probability.
    """
    flat = probabilities.reshape(-1)
    if len(flat) != len(classes):
        raise ProgramError(f'there are {len(classes)} class labels for {len(flat)} probabilities')
    return flat.argmax(-1), flat


@op('reshape', selects=True)
def reshape(x: Tensor, shape: Sizes) -> Tensor:
    """New shape; -1 is inferred, 0 keeps the dimension of ``x``.

    Dimensions are counted from the end (iOS 17), and a 0 beyond those of ``x`` is 1; before iOS 17
    a 0 needs a shape of the same rank.
    """
    wanted = numbers(shape)
    ones = [1] * (len(wanted) - x.dim())
    known = [*ones, *x.shape[max(0, x.dim() - len(wanted)) :]]
    return x.reshape([old if n == 0 else n for n, old in zip(wanted, known)])


@op('squeeze', selects=True)
def squeeze(x: Tensor, axes: Optional[Sequence[int]] = None) -> Tensor:
    """Drop dimensions of size 1: the given ones, or all."""
    wanted = range(x.dim()) if axes is None else axes
    drop = [axis % x.dim() for axis in wanted]
    sizes = [n for i, n in enumerate(x.shape) if not (i in drop and n == 1)]
    return x.reshape(sizes)


@op('expand_dims', selects=True)
def expand_dims(x: Tensor, axes: Sequence[int]) -> Tensor:
    """Insert dimensions of size 1 at ``axes`` of the result."""
    rank = x.dim() + len(axes)
    for axis in sorted(a % rank for a in axes):
        x = x.unsqueeze(axis)
    return x


@op('transpose', selects=True)
def transpose(x: Tensor, perm: Sequence[int]) -> Tensor:
    """Permute dimensions."""
    return x.permute(*perm)


@op('flatten2d', selects=True)
def flatten2d(x: Tensor, axis: int = 1) -> Tensor:
    """Two dimensions: the product before ``axis``, and from it on."""
    at = axis % x.dim() if axis < 0 else axis
    return x.reshape(math.prod(x.shape[:at]), math.prod(x.shape[at:]))


@op('concat', selects=True)
def concat(values: Sequence[Tensor], axis: int, interleave: bool = False) -> Tensor:
    """Join along ``axis``; ``interleave`` takes elements in turn."""
    if not interleave:
        # MIL joins scalars, too: that is how sizes become a shape.
        return torch.cat([torch.atleast_1d(v) for v in values], axis)
    at = axis % values[0].dim()
    shape = list(values[0].shape)
    shape[at] *= len(values)
    return torch.stack(list(values), at + 1).reshape(shape)


@op('stack', selects=True)
def stack(values: Sequence[Tensor], axis: int) -> Tensor:
    """Join along a new dimension."""
    return torch.stack(list(values), axis)


@op('split', selects=True)
def split(
    x: Tensor,
    axis: int,
    num_splits: Optional[int] = None,
    split_sizes: Optional[Sequence[int]] = None,
) -> Any:
    """Cut along ``axis`` into given sizes, or equal parts.

    Raises:
        ProgramError: If the parts are not equal, or too many.
    """
    if split_sizes is None:
        count, size = num_splits or 1, x.shape[axis]
        if not 1 <= count <= _MOST_PARTS or size % count:
            raise ProgramError(
                f'{size} entries cannot be split into {count} equal parts; '
                f'allowed: divisors up to {_MOST_PARTS}'
            )
        return torch.split(x, size // count, axis)
    return torch.split(x, list(split_sizes), axis)


@op('slice_by_index', selects=True)
def slice_by_index(
    x: Tensor,
    begin: Sizes,
    end: Sizes,
    stride: Optional[Sequence[int]] = None,
    begin_mask: Flags = None,
    end_mask: Flags = None,
    squeeze_mask: Flags = None,
) -> Tensor:
    """``x[begin:end:stride, ...]``; a masked begin or end is open."""
    taken = slices(x.shape, begin, end, stride, begin_mask, end_mask, squeeze_mask)
    for axis, kept in enumerate(taken):
        x = _cut(x, axis, kept)
    return x.reshape(unsqueezed(x.shape, squeeze_mask))


def _cut(x: Tensor, axis: int, kept: range) -> Tensor:
    """The given places along one axis; a view where they follow each other."""
    if kept.step == 1:
        return x.narrow(axis, kept.start, len(kept))
    return x.index_select(axis, places(kept, x.device))


@op('slice_axis')
def slice_axis(x: Tensor, axis: int, begin: int, end: int, stride: int = 1) -> Tensor:
    """Slice one axis: the neural network layer ``slice``, not a MIL op."""
    at = axis % x.dim()
    return _cut(x, at, range(*slice(begin, end, stride).indices(x.shape[at])))


@op('slice_by_size', selects=True)
def slice_by_size(x: Tensor, begin: Sequence[int], size: Sequence[int]) -> Tensor:
    """``size`` elements from ``begin`` on; size -1 takes the rest."""
    for axis, (start, length) in enumerate(zip(numbers(begin), numbers(size))):
        first = start % x.shape[axis] if start < 0 else start
        count = x.shape[axis] - first if length == -1 else length
        x = x.narrow(axis, first, count)
    return x


@op('crop')
def crop(x: Tensor, crop_height: Sequence[int], crop_width: Sequence[int]) -> Tensor:
    """Cut (before, after) pixels off the last two dimensions."""
    return padded(x, [(-before, -after) for before, after in (crop_height, crop_width)])


@op('pad')
def pad(x: Tensor, pad: Sizes, mode: str = 'constant', constant_val: float = 0.0) -> Tensor:
    """Pad the last ``len(pad) / 2`` dimensions by (before, after) pairs.

    Raises:
        ProgramError: If ``mode`` is not constant, reflect or replicate.
    """
    amounts = pairs(numbers(pad))
    if mode == 'constant':
        return padded(x, amounts, constant_val)
    if mode not in ('reflect', 'replicate'):
        raise ProgramError(f'pad mode {mode!r} is unknown; allowed: constant, reflect, replicate')
    for axis, (before, after) in enumerate(amounts, x.dim() - len(amounts)):
        last = x.shape[axis] - 1
        index = torch.arange(-before, last + 1 + after, device=x.device)
        mirrored = last - (last - index.abs()).abs()
        x = x.index_select(axis, mirrored if mode == 'reflect' else index.clamp(0, last))
    return x


@op('tile')
def tile(x: Tensor, reps: Sizes) -> Tensor:
    """Repeat along every dimension."""
    return x.repeat(*numbers(reps))


@op('reverse')
def reverse(x: Tensor, axes: Optional[Sequence[int]] = None) -> Tensor:
    """Reverse the order along ``axes`` (all if None)."""
    return x.flip(list(range(x.dim()) if axes is None else axes))


@op('shape', untyped=True)
def shape(x: Tensor) -> Tensor:
    """Sizes of ``x``, int32."""
    # Sizes are known without data; on 'meta' they would be lost.
    device = 'cpu' if x.is_meta else x.device
    return torch.tensor(x.shape, dtype=torch.int32, device=device)


@op('fill')
def fill(shape: Sizes, value: Union[float, bool] = 0.0) -> Tensor:
    """A tensor of one value."""
    device = shape.device if isinstance(shape, Tensor) else None
    return _full(numbers(shape), value, device)


def _full(sizes: list[int], value: Any, device: Optional[torch.device]) -> Tensor:
    """Python's integers stand for int32, MIL's integer type."""
    dtype = torch.int32 if type(value) is int else None
    return torch.full(sizes, value, dtype=dtype, device=device)


@op('fill_like')
def fill_like(ref_tensor: Tensor, value: Union[float, bool] = 0.0) -> Tensor:
    """A tensor of one value, shaped as ``ref_tensor``."""
    return _full(list(ref_tensor.shape), value, ref_tensor.device)


@op('gather', selects=True)
def gather(x: Tensor, indices: Tensor, axis: int = 0, batch_dims: int = 0, **_: Any) -> Tensor:
    """Slices of ``x`` at ``indices`` (may be negative) along ``axis``.

    The first ``batch_dims`` dimensions are those of ``indices`` as well: each entry of them has
    indices of its own.

    Raises:
        ProgramError: If ``axis`` is one of the batch dimensions.
    """
    at = axis % x.dim()
    index = counted(indices, x.shape[at])
    after = x.shape[at + 1 :]
    sizes = [*x.shape[:at], *indices.shape[batch_dims:], *after]
    if batch_dims == 0:
        return x.index_select(at, index.reshape(-1)).reshape(sizes)
    if at < batch_dims:
        raise ProgramError(
            f'gather along axis {axis} with {batch_dims} batch dimensions; '
            f'allowed: an axis after them'
        )
    batch = x.shape[:batch_dims]
    between, inner = math.prod(x.shape[batch_dims:at]), math.prod(after)
    rows = x.reshape(math.prod(batch), between, x.shape[at], inner)
    each = index.reshape(len(rows), 1, -1, 1).expand(-1, between, -1, inner)
    return torch.gather(rows, 2, each).reshape(sizes)


@op('gather_along_axis')
def gather_along_axis(x: Tensor, indices: Tensor, axis: int = 0, **_: Any) -> Tensor:
    """``np.take_along_axis``."""
    return torch.gather(x, axis, counted(indices, x.shape[axis]))


@op('topk')
def topk(
    x: Tensor,
    k: int = 1,
    axis: int = -1,
    ascending: bool = False,
    return_indices: bool = True,
    **_: Any,
) -> Any:
    """Values and indices (int32) of the ``k`` largest, or smallest.

    Of equal ones the first comes first, and NaN last. MIL's document does not say; so does what
    coremltools folds, where its sort is stable.
    """
    # Not descending: NaN would come first. The least integer has no negative; ~x is -x - 1.
    falling = -x if x.is_floating_point() else ~x
    order = torch.sort(x if ascending else falling, dim=axis, stable=True)
    first = order.indices.narrow(axis, 0, k)
    values = torch.gather(x, axis, first)
    return (values, first.to(torch.int32)) if return_indices else values


@op('cumsum')
def cumsum(x: Tensor, axis: int = 0, exclusive: bool = False, reverse: bool = False) -> Tensor:
    """Running sum; ``exclusive`` leaves the element itself out."""
    source = x.flip(axis) if reverse else x
    if exclusive:
        # Not the sum less the element: of an infinity that is NaN.
        before = source.narrow(axis, 0, x.shape[axis] - 1)
        zero = torch.zeros_like(source.narrow(axis, 0, 1))
        source = torch.cat([zero, before], axis)
    total = source.cumsum(axis, dtype=x.dtype)
    return total.flip(axis) if reverse else total


@op('pixel_shuffle', selects=True)
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """(N, C f^2, H, W) to (N, C, H f, W f); C varies slowest."""
    return F.pixel_shuffle(x, upscale_factor)


@op('pixel_unshuffle')
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """Inverse of ``pixel_shuffle``."""
    return F.pixel_unshuffle(x, int(downscale_factor))


@op('depth_to_space', selects=True)
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """(N, C b^2, H, W) to (N, C, H b, W b); C varies fastest."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, b, b, c // (b * b), h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * b, w * b)


@op('space_to_depth', selects=True)
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """Inverse of ``depth_to_space``."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // b, w // b)


@op('space_to_batch')
def space_to_batch(
    x: Tensor, block_shape: Sequence[int], paddings: Sequence[Sequence[int]]
) -> Tensor:
    """(n, C, H, W), padded with 0, to (n b c, C, H / b, W / c).

    Args:
        block_shape (Sequence[int]): b and c. The place in a block varies slowest in the new first
            dimension.
        paddings (Sequence[Sequence[int]]): (before, after) for H and W.

    Raises:
        ProgramError: If the padded sizes are no multiples of the block's.
    """
    x = padded(x, paddings)
    n, channels, height, width = x.shape
    b, c = _block(block_shape)
    if height % b or width % c:
        raise ProgramError(
            f'space_to_batch: the padded size {height} x {width} cannot be '
            f'divided into blocks of {b} x {c}'
        )
    parts = x.reshape(n, channels, height // b, b, width // c, c)
    moved = parts.permute(3, 5, 0, 1, 2, 4)
    return moved.reshape(b * c * n, channels, height // b, width // c)


@op('batch_to_space')
def batch_to_space(x: Tensor, block_shape: Sequence[int], crops: Sequence[Sequence[int]]) -> Tensor:
    """Inverse of ``space_to_batch``: (before, after) cut off instead.

    Raises:
        ProgramError: If the first dimension is no multiple of b c.
    """
    total, channels, height, width = x.shape
    b, c = _block(block_shape)
    if total % (b * c):
        raise ProgramError(
            f'batch_to_space: {total} samples cannot be divided into blocks of {b} x {c}'
        )
    parts = x.reshape(b, c, total // (b * c), channels, height, width)
    spread = parts.permute(2, 3, 4, 0, 5, 1)
    whole = spread.reshape(-1, channels, height * b, width * c)
    return padded(whole, [(-before, -after) for before, after in crops])


def _block(block_shape: Sequence[int]) -> tuple[int, int]:
    b, c = block_shape
    if min(b, c) < 1:
        raise ProgramError(f'block_shape is {list(block_shape)}; allowed: two sizes >= 1')
    return b, c
