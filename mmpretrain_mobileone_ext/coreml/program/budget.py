"""What a program may cost, counted from shapes before anything is computed.

A file of a kilobyte can ask for a tensor of 10^10 elements, or for a window of 10^10 elements at
every place of a small one. So a program is first run on tensors without data (torch's 'meta'
device): every torch operation that it comes down to then tells the shapes of what it would
allocate.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Callable, Optional

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map

from ...errors import ProgramError
from .package_files import package_files

#: Bytes that any file may take: hundreds of images of 224 x 224 at a time through MobileOne-S4,
#: whose values take 4 MiB each, or 20 of 1024 x 1024.
MEMORY = 2 * 2**30
#: Multiply-adds of a convolution that any file may take: S4 for an image of 1024 x 1024 takes 1e11,
#: for one of 224 x 224 a twentieth.
WORK = 1.2e11
#: A large file may take more: weights of four bits are computed with as eight times as many bytes,
#: and a transformer of images of 384 x 384 multiplies by each byte of its weights three hundred
#: times.
_MEMORY_OF_BYTE = 10
_WORK_OF_BYTE = 1000

# Work beyond a multiply-add of a large matrix product, of which a processor does dozens in the time
# in which it fetches one number from memory.
_PER_NUMBER = 32
_PER_DISTANT = 50 * _PER_NUMBER  # numbers that are not fetched in a row
_PER_CACHED = 4 * _PER_NUMBER  # numbers of a table that a processor has at hand
_CACHED = 2**16
_PER_SORTED = 100 * _PER_NUMBER
_PER_NARROW = 16
# Channels of a group below which convolutions are slow; and lengths of rows.
_NARROW = 8
_ROW = 32  # numbers: to fetch a row of them is to fetch no single ones
_PER_TRANSPOSED = 4
# What it takes to call anything, even if there is nothing to compute; and to do so in a loop, of
# which a file of a kilobyte can have a long one.
_PER_CALL = 1e6
_PER_ROUND = 5 * _PER_CALL
_CALLS = 30  # of an operation without a loop
_MOST_DIMENSIONS = 64
# Numbers up to which values are computed: sizes, from which shapes follow.
_SIZES = 4096

_DISTANT = ('cumsum', 'gather', 'index', 'scatter')
_SORTING = ('topk', 'sort', 'softmax', 'logsumexp', 'argmax', 'argmin')


def memory_of(path: Path) -> float:
    """Bytes that a model may take where nobody said how many."""
    return max(MEMORY, _MEMORY_OF_BYTE * _size(path))


def work_of(path: Path) -> float:
    """Multiply-adds of a prediction where nobody said how many."""
    return max(WORK, _WORK_OF_BYTE * _size(path))


def _size(path: Path) -> int:
    return sum(file.stat().st_size for file in package_files(path))


class NeedsValuesError(Exception):
    """The shapes depend on the numbers that a program is given."""


class Ledger:
    """Bytes that are held, within a limit.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: float = MEMORY):
        self.limit = limit
        self.held = 0

    def hold(self, size: int, what: str) -> None:
        """Add ``size`` bytes, unless :meth:`check` refuses them."""
        self.check(size, what)
        self.held += size

    def check(self, size: int, what: str) -> None:
        """Refuse ``size`` bytes that are too many with what is held already."""
        if self.held + size > self.limit:
            asked, held, allowed = (f'{n / 2**30:.3g} GiB' for n in (size, self.held, self.limit))
            raise ProgramError(
                f'{what} takes {asked} of memory, and {held} are held already; '
                f'allowed: {allowed} (memory_budget)'
            )


class Meter(TorchDispatchMode):
    """Counts memory and work of what runs inside, before it runs.

    Args:
        ledger: what is held all the time; its limit is that of all.
        work: limit, in multiply-adds.
        execute: compute what has been counted. Otherwise only sizes are computed, and everything
            else is on the meta device.

    Attributes:
        live: bytes of the values that are held between operations.
        peak: most bytes at a time, without those of the ledger.
        done: work so far.
    """

    def __init__(self, ledger: Ledger, work: float, execute: bool = False):
        super().__init__()
        self._ledger = ledger
        self._limit = work
        self._execute = execute
        self._made = 0
        self._calls = 0
        self.live = 0
        self.peak = 0
        self.done = 0.0

    def keep(self, values: Any) -> None:
        """The values of the last operation stay, what it made else goes."""
        self.live += sum(_bytes(v) for v in values)
        self._made = self._calls = 0

    def free(self, value: Tensor) -> None:
        """A value is not needed any more."""
        self.live -= _bytes(value)

    def round(self) -> None:
        """A nested block, or a step of it, is run."""
        self._add(_PER_ROUND)

    def _call(self, work: float = 0.0) -> None:
        """Something is called, and takes this much work besides."""
        self._calls += 1
        each = _PER_CALL if self._calls <= _CALLS else _PER_ROUND
        self._add(each + work)

    def _add(self, work: float) -> None:
        self.done += work
        if self.done > self._limit:
            raise ProgramError(
                f'the work is that of {self.done:.2g} multiply-adds with '
                f'all before it; allowed: {self._limit:.2g} (work_budget)'
            )

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Any = (), kwargs: Optional[dict] = None
    ) -> Any:
        given = _tensors((args, kwargs or {}))
        known = all(not t.is_meta for t in given)
        if func is torch.ops.aten._local_scalar_dense.default:
            if not known:
                raise NeedsValuesError
            self._call()
            return func(*args, **(kwargs or {}))
        found = _without_data(func, args, kwargs or {})
        made = _tensors(found)
        self._count(func, args, given, made)
        small = sum(t.numel() for t in (*given, *made)) <= _SIZES
        if self._execute or (known and small):
            return func(*args, **(kwargs or {}))
        return found

    def _count(self, func: Any, args: Any, given: list[Tensor], made: list[Tensor]) -> None:
        if any(t.dim() > _MOST_DIMENSIONS for t in made):
            raise ProgramError(f'a result has more than {_MOST_DIMENSIONS} dimensions')
        if any(r.alias_info is not None for r in func._schema.returns):
            made = []  # views, and values written in place
        self._made += sum(map(_bytes, made)) + _hidden(func, args, made)
        self._ledger.check(self.live + self._made, 'it, with all values,')
        self.peak = max(self.peak, self.live + self._made)
        self._call(_work(func, args, given, made))


def _without_data(func: Any, args: Any, kwargs: dict) -> Any:
    """Results of a torch operation as to shape and dtype."""
    if any(a.name == 'device' for a in func._schema.arguments):
        kwargs = {**kwargs, 'device': torch.device('meta')}
    return func(*tree_map(_meta, args), **tree_map(_meta, kwargs))


def _meta(value: Any) -> Any:
    if isinstance(value, Tensor) and not value.is_meta:
        return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device='meta')
    return value


def _tensors(tree: Any) -> list[Tensor]:
    return [v for v in tree_flatten(tree)[0] if isinstance(v, Tensor)]


def _bytes(value: Tensor) -> int:
    return value.numel() * value.element_size()


def _work(func: Any, args: Any, given: list[Tensor], made: list[Tensor]) -> float:
    """In multiply-adds of a large matrix product."""
    name = func.__name__.partition('.')[0].lstrip('_')
    for words, count in _COUNTS.items():
        if name in words:
            return count(args, made)
    numbers = sum(t.numel() for t in (*given, *made)) if made else 0
    if name in _SORTING and not _along_rows(name, args):
        return numbers * _PER_SORTED
    distant = any(word in name for word in _DISTANT) or not (
        all(map(_in_a_row, (*given, *made))) or _alike(given, made)
    )
    return numbers * (_PER_DISTANT if distant else _PER_NUMBER)


def _in_a_row(value: Tensor) -> bool:
    """Whether numbers, or rows of them, lie one after the other."""
    if value.is_contiguous():
        return True
    rows = value.stride(-1) == 1 and value.shape[-1] >= _ROW
    return rows or (value.dim() == 4 and value.is_contiguous(memory_format=torch.channels_last))


def _alike(given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether all lie in memory in the same order, without gaps.

    Number by number, they are then read in that order.
    """
    first, *others = *made, *given
    dense = 1 + sum((n - 1) * s for n, s in zip(first.shape, first.stride()))
    return dense == first.numel() and all(
        t.shape == first.shape and t.stride() == first.stride() for t in others
    )


def _along_rows(name: str, args: Any) -> bool:
    """Whether a softmax reads rows, which is as fast as any arithmetic."""
    if name != 'softmax' or args[0].dim() == 0:
        return False
    x, axis = args[:2]
    last = axis % x.dim() == x.dim() - 1
    return last and x.is_contiguous() and x.shape[-1] >= _NARROW


def _of_convolution(args: Any, made: list[Tensor]) -> float:
    x, weight, transposed, groups = args[0], args[1], args[6], max(1, args[8])
    places = x.numel() if transposed else made[0].numel()
    sides = weight.shape[0] // groups, weight.shape[1]
    each = math.prod(weight.shape[1:])
    each *= _PER_NARROW if min(sides) < _NARROW else 1
    each *= _PER_TRANSPOSED if transposed else 1
    # A single filter for a single channel, unlike many side by side.
    each *= 8 if sides == (1, 1) and groups < _NARROW else 1
    return places * each + (x.numel() + made[0].numel()) * _PER_NUMBER


def _hidden(func: Any, args: Any, made: list[Tensor]) -> int:
    """Bytes of the windows that narrow convolutions write out, and copy."""
    if not func.__name__.startswith('convolution'):
        return 0
    x, weight, transposed, groups = args[0], args[1], args[6], max(1, args[8])
    if min(weight.shape[0] // groups, weight.shape[1]) >= _NARROW or groups >= _NARROW:
        return 0
    one = x if transposed else made[0]  # sample at a time
    return 2 * math.prod(one.shape[2:]) * groups * math.prod(weight.shape[1:]) * 4


def _of_product(args: Any, made: list[Tensor]) -> float:
    inner = _tensors(args)[-2].shape[-1]
    return made[0].numel() * (inner + _PER_NUMBER)


def _of_window(args: Any, made: list[Tensor]) -> float:
    return made[0].numel() * math.prod(args[1]) * _PER_NUMBER


def _of_selection(args: Any, made: list[Tensor]) -> float:
    table = args[0]
    cached = table.dim() == 1 and table.numel() <= _CACHED
    numbers = sum(t.numel() for t in (*_tensors(args), *made))
    return numbers * (_PER_CACHED if cached else _PER_DISTANT)


_COUNTS: dict[tuple[str, ...], Callable[[Any, list[Tensor]], float]] = {
    ('convolution',): _of_convolution,
    ('index_select',): _of_selection,
    ('mm', 'bmm', 'addmm', 'baddbmm'): _of_product,
    ('avg_pool2d', 'avg_pool3d', 'max_pool2d_with_indices', 'max_pool3d_with_indices'): _of_window,
}
