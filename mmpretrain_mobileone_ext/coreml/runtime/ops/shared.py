"""What several operations need: options, padding, broadcasting, places along an axis."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Optional, TypeVar, Union

import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import ProgramError

_T = TypeVar('_T')

#: (before, after) of each dimension.
Pads = Sequence[Sequence[int]]
#: Sizes in a file, or what a flexible program computes them to be.
Sizes = Union[Sequence[int], Tensor]
Flags = Optional[Sequence[bool]]


def choice(what: str, value: str, table: Mapping[str, _T]) -> _T:
    """The entry of ``table`` that an option asks for.

    Raises:
        ProgramError: If there is none; lists all.
    """
    if value not in table:
        raise ProgramError(f'{what} {value!r} is unknown; allowed: {", ".join(table)}')
    return table[value]


def numbers(values: Sizes) -> list[int]:
    """Sizes, or numbers along axes, as Python integers."""
    return [int(n) for n in values]


def pairs(flat: Sequence[int]) -> list[tuple[int, int]]:
    """MIL's ``[before0, after0, before1, ...]`` as pairs."""
    return list(zip(flat[::2], flat[1::2]))


def padded(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """Pad the last dimensions of ``x``, or crop them by negative amounts."""
    flat = [size for pair in reversed(pads) for size in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


def along(values: Tensor, axis: int, rank: int) -> Tensor:
    """Shape (n,) values to broadcast over one axis of a tensor of a rank."""
    shape = [1] * rank
    shape[axis] = -1
    return values.reshape(shape)


def like(result: Tensor, x: Tensor) -> Tensor:
    """A result in the dtype of ``x``, as MIL declares it.

    Floats become integers by truncation; what is beyond int32 wraps.
    """
    return result if x.is_floating_point() else result.to(x.dtype)


def promoted(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """An integer tensor and one of floats, or the reverse (iOS 17), as floats."""
    kind = torch.promote_types(x.dtype, y.dtype)
    return x.to(kind), y.to(kind)


def counted(indices: Tensor, size: int, validate_indices: Optional[bool] = None) -> Tensor:
    """Indices along an axis, from 0 on.

    Negative ones count from the end, unless the operation has ``validate_indices`` (iOS 17). torch
    refuses those beyond the axis.
    """
    index = indices.long()
    if validate_indices is not None:
        return index
    return torch.where(index < 0, index + size, index)


def slices(
    shape: Sequence[int],
    begin: Sizes,
    end: Sizes,
    stride: Optional[Sequence[int]] = None,
    begin_mask: Flags = None,
    end_mask: Flags = None,
    squeeze_mask: Flags = None,
) -> list[range]:
    """Places that ``begin:end:stride`` takes of every axis, as Python does.

    A masked begin or end is open; a squeezed axis keeps one place.

    Raises:
        ProgramError: If a squeezed axis has no such place.
    """
    begin, end = numbers(begin), numbers(end)
    none = [False] * len(shape)
    found = []
    for axis, size in enumerate(shape):
        start = None if (begin_mask or none)[axis] else begin[axis]
        stop = None if (end_mask or none)[axis] else end[axis]
        step = stride[axis] if stride else 1
        if (squeeze_mask or none)[axis]:
            found.append(_only(start or 0, size))
        else:
            found.append(range(*slice(start, stop, step).indices(size)))
    return found


def _only(index: int, size: int) -> range:
    if not -size <= index < size:
        raise ProgramError(f'index {index} is beyond {size} entries')
    return range(index % size, index % size + 1)


def unsqueezed(lengths: Sequence[int], squeeze_mask: Flags) -> list[int]:
    """Sizes without those of squeezed axes."""
    return [n for i, n in enumerate(lengths) if not (squeeze_mask and squeeze_mask[i])]


def places(taken: range, device: Any) -> Tensor:
    """The numbers of a range as a tensor."""
    return taken.start + taken.step * torch.arange(len(taken), device=device)
