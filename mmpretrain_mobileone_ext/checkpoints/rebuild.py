"""The checked functions that stand in for what a checkpoint's pickle asks for.

Nothing imports or looks up a name that a file asks for. Every admitted name is an inert object of
the table in ``safe_pickle``; what runs is a function here. Each takes arguments straight from an
untrusted pickle, hence without types, checks all of them, and raises CheckpointError naming what
was asked for. Objects inside arrays, structured and date dtypes are refused; checkpoints need none
of them.
"""

import math
import re
import sys
from collections import Counter, OrderedDict, defaultdict
from dataclasses import dataclass
from typing import Any, Callable, Iterable, Optional

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..errors import CheckpointError

ALLOWED = (
    'tensors, storages, parameters, dtypes, devices, plain containers '
    "and values, numpy arrays and scalars, mmengine's HistoryBuffer"
)
_SHOWN = 80
_DIMENSIONS = 64
_NESTS = (tuple, frozenset, torch.Size)
_NAMES = (str, bytes, type(None), torch.dtype, torch.device)
_KEY_NODES = 16
_KEY_BITS = 64
_PLAIN_DTYPE = re.compile(r'[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{1,9}|\?)')
#: Bytes of an empty array's other sizes: 1 MiB.
_EMPTY = 1 << 20
_SWAPPED = '>' if sys.byteorder == 'little' else '<'
_HISTORY_KEYS = {'max_length', '_log_history', '_count_history'}


@dataclass(frozen=True, eq=False)
class Admitted:
    """One admitted name: inert, and on purpose not callable itself.

    Args:
        path (str): The dotted name, for messages.
        call (callable, optional): What REDUCE on the name runs.
        new (callable, optional): What NEWOBJ on the name runs.
        factory (type, optional): What it means as a defaultdict's factory.
    """

    path: str
    call: Optional[Callable[..., Any]] = None
    new: Optional[Callable[..., Any]] = None
    factory: Optional[type] = None


#: Inert stand-ins for HistoryBuffer's own statistics, by name.
STATISTICS = {name: Admitted(f'HistoryBuffer.{name}') for name in ('min', 'max', 'current', 'mean')}


def path_of(value: Any) -> str:
    """The dotted name of an admitted stand-in, else the value's type."""
    named = isinstance(value, Admitted)
    return value.path if named else f'an object of {type(value).__name__}'


def brief(value: Any) -> str:
    """A hostile value for a message: cut first, then formatted.

    The text of a few nested tuples that share their members can be longer than all memory.
    """
    if type(value) in (tuple, list):
        shown = ', '.join(_brief_item(item) for item in value[:3])
        rest = ', ...' if len(value) > 3 else ''
        return f'({shown}{rest})' if type(value) is tuple else (f'[{shown}{rest}]')
    return _brief_item(value)


def _brief_item(value: Any) -> str:
    if type(value) in (str, bytes):
        return repr(value[:_SHOWN])
    is_short = type(value) is int and value.bit_length() <= _KEY_BITS
    if is_short or type(value) in (bool, float, type(None)):
        return repr(value)
    return path_of(value)


def refused(what: str) -> CheckpointError:
    """The error for anything a pickle asks for that is not admitted."""
    # repr keeps line breaks and control characters of a hostile name out.
    return CheckpointError(
        f'refuses to load: the pickle asks for {what[:200]!r}; allowed are {ALLOWED}'
    )


def require(condition: bool, what: str, *values: Any) -> None:
    """Refuse ``what`` unless ``condition`` holds.

    Args:
        condition (bool): What must hold.
        what (str): What the pickle asks for, ``{}`` where a value goes.
        values: Put in by :func:`brief`, and only if it is refused.

    Raises:
        CheckpointError: Naming what the pickle asks for.
    """
    if not condition:
        shown = what.format(*map(brief, values)) if values else what
        raise refused(shown)


def is_plain_key(key: Any) -> bool:
    """Whether ``key`` can neither run code nor slow a dict down.

    A key has few parts, so that hashing it is quick. It has at most 64 bits of numbers, because
    Python's hashes of numbers, unlike those of text, can be foreseen: with more bits than a hash,
    as many different keys with the same hash can be made as one likes, and each is compared with
    all others.
    """
    if type(key) is str:
        return True
    bits, nodes, rest = 0, 0, [key]
    while rest and nodes < _KEY_NODES and bits <= _KEY_BITS:
        item = rest.pop()
        nodes += 1
        if type(item) not in _NESTS:
            bits += _number_bits(item)
        elif len(item) <= _KEY_NODES:
            rest.extend(item)
        else:
            return False
    return not rest and bits <= _KEY_BITS


def _number_bits(leaf) -> int:
    """Bits of information in a number, none in a name."""
    if type(leaf) in _NAMES or isinstance(leaf, (np.str_, np.bytes_)):
        return 0
    # An extended float's item is the extended float again.
    value = leaf.item() if isinstance(leaf, np.generic) else leaf
    if type(value) in (int, bool):
        return value.bit_length()
    # Each NaN differs from all others, and they may share one hash.
    if type(value) is float and not math.isnan(value):
        return _KEY_BITS
    return _KEY_BITS + 1


def check_keys(keys: Iterable[Any]) -> None:
    """Refuse dict keys and set members that are not plain values."""
    for key in keys:
        if not is_plain_key(key):
            raise refused(f'a key of type {type(key).__name__}')


def is_sizes(value) -> bool:
    """Whether ``value`` is a sequence of a few non-negative 64-bit numbers."""
    return (
        type(value) in (tuple, list, torch.Size)
        and len(value) <= _DIMENSIONS
        and all(type(item) is int and 0 <= item < 1 << 63 for item in value)
    )


# --- built-in and standard-library containers -------------------------------
def ordered_dict(pairs=()) -> OrderedDict:
    """An OrderedDict of (plain key, value) pairs."""
    require(
        type(pairs) in (tuple, list)
        and all(type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs),
        'collections.OrderedDict of no pairs',
    )
    check_keys(pair[0] for pair in pairs)
    return OrderedDict(pairs)


def default_dict(factory=None) -> defaultdict:
    """An empty defaultdict whose factory, if any, is an admitted one."""
    if factory is None:
        return defaultdict()
    known = isinstance(factory, Admitted) and factory.factory is not None
    require(known, 'collections.defaultdict({})', factory)
    return defaultdict(factory.factory)


def counter(counts=None) -> Counter:
    """A Counter of a dict; its keys were checked when that was built."""
    require(counts is None or type(counts) is dict, 'collections.Counter of no dict')
    return Counter(counts)


def set_of(members=()) -> set:
    """A set of plain keys."""
    require(type(members) in (list, tuple), 'builtins.set of no list')
    check_keys(members)
    return set(members)


def frozenset_of(members=()) -> frozenset:
    """A frozenset of plain keys."""
    return frozenset(set_of(members))


def restore_metadata(target: OrderedDict, state) -> None:
    """A state dict's version numbers; other attributes could shadow methods."""
    require(
        type(state) is dict
        and set(state) <= {'_metadata'}
        and all(type(v) in (dict, OrderedDict) for v in state.values()),
        'setting attributes of collections.OrderedDict',
    )
    target.__dict__.update(state)


def encode(text, encoding='latin1') -> bytes:
    """Bytes that Python 2's protocols carry as text."""
    require(
        type(text) is type(encoding) is str and encoding in ('latin1', 'latin-1'),
        '_codecs.encode(..., {})',
        encoding,
    )
    return text.encode('latin1')


def no_bytes() -> bytes:
    """``bytes()``, which is how protocol 2 spells an empty one."""
    return b''


def byte_array(source=b'', encoding='latin1') -> bytearray:
    """A bytearray of bytes, or of their text form."""
    # bytearray(10**12) would allocate; bytes and their latin-1 form cannot.
    if type(source) is str:
        source = encode(source, encoding)
    require(type(source) is bytes, 'bytearray of {}', source)
    return bytearray(source)


def complex_of(real=0.0, imag=0.0) -> complex:
    """A complex number of two plain numbers."""
    require({type(real), type(imag)} <= {int, float}, 'complex of no floats')
    return complex(real, imag)


# --- torch ------------------------------------------------------------------
def _check_view(storage, offset, size, stride, dtype) -> None:
    """Refuse a view that would grow, or read outside of, its storage."""
    require(isinstance(storage, torch.storage.TypedStorage), 'a tensor on {}', storage)
    require(isinstance(dtype, torch.dtype), 'a tensor without a dtype')
    require(
        is_sizes((offset,)) and is_sizes(size) and is_sizes(stride) and len(size) == len(stride),
        'a tensor of malformed size or stride',
    )
    if 0 in size:
        return
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    end = (last + 1) * dtype.itemsize
    require(end <= storage._untyped_storage.nbytes(), 'a tensor beyond its storage')


def _switch(value) -> bool:
    require(type(value) in (bool, int), 'requires_grad={}', value)
    return bool(value)


def tensor_v3(
    storage, offset, size, stride, requires_grad, hooks, dtype, metadata=None
) -> torch.Tensor:
    """``torch._utils._rebuild_tensor_v3``, inside the storage's bounds."""
    # ``hooks`` are left out: they are code.
    _check_view(storage, offset, size, stride, dtype)
    require(
        metadata is None
        or (
            type(metadata) is dict
            and set(metadata) <= {'conj', 'neg'}
            and all(type(v) is bool for v in metadata.values())
        ),
        'malformed tensor metadata',
    )
    untyped = storage._untyped_storage
    made = torch.empty(0, dtype=dtype, device=untyped.device)
    made.set_(untyped, offset, tuple(size), tuple(stride))
    if metadata:
        torch._utils.set_tensor_metadata(made, metadata)
    return made.requires_grad_(_switch(requires_grad))


def tensor(
    storage, offset, size, stride, requires_grad=False, hooks=None, metadata=None
) -> torch.Tensor:
    """``torch._utils._rebuild_tensor_v2``: the dtype is the storage's."""
    dtype = getattr(storage, 'dtype', None)
    return tensor_v3(storage, offset, size, stride, requires_grad, hooks, dtype, metadata)


def parameter(data, requires_grad=True, hooks=None, state=None) -> torch.nn.Parameter:
    """A parameter on a tensor that was rebuilt before."""
    # ``state`` holds Python attributes; set, they could shadow methods.
    require(isinstance(data, torch.Tensor), 'a parameter of no tensor')
    return torch.nn.Parameter(data, _switch(requires_grad))


def attributed_tensor(builder, kind, args, state=None) -> torch.Tensor:
    """A tensor that carries Python attributes: the tensor, without them."""
    plain = isinstance(builder, Admitted) and builder.call in (tensor, tensor_v3, parameter)
    require(plain, '{}', builder)
    require(type(args) is tuple, '{} with no tuple', builder)
    require(
        path_of(kind) in ('torch.Tensor', 'torch.nn.parameter.Parameter'),
        'a tensor of class {}',
        kind,
    )
    return builder.call(*args)


def size_of(sizes=()) -> torch.Size:
    """A torch.Size of non-negative integers."""
    require(is_sizes(sizes), 'torch.Size of no integers')
    return torch.Size(sizes)


def device(kind, index=None) -> torch.device:
    """A torch.device by type and index."""
    require(
        type(kind) is str and len(kind) <= 32 and (index is None or is_sizes((index,))),
        'torch.device of no name',
    )
    return torch.device(kind) if index is None else torch.device(kind, index)


def version(text) -> str:
    """A torch.__version__ (a str subclass), as the plain string it is."""
    require(type(text) is str, 'TorchVersion of no str')
    return text


# --- numpy ------------------------------------------------------------------
def dtype_of(spec, align=False, copy=True) -> np.dtype:
    """A plain dtype by its short name, e.g. ``<f4``."""
    require(type(spec) is str and _PLAIN_DTYPE.fullmatch(spec) is not None, 'numpy.dtype({})', spec)
    # A copy, so that BUILD can tell this dtype from equal ones in the memo.
    return np.dtype(spec, copy=True)


def restore_dtype(dtype: np.dtype, state) -> np.dtype:
    """``dtype`` with the byte order of a pickled state, nothing else of it.

    numpy's own ``__setstate__`` takes item sizes and object flags on trust.
    """
    require(
        type(state) is tuple
        and 8 <= len(state) <= 9
        and all(part is None for part in state[2:5])
        and type(state[5]) is int
        and state[5] in (-1, dtype.itemsize)
        and all(part is None or (type(part) is int and part == 0) for part in state[8:]),
        'a structured, sub-array or annotated numpy.dtype',
    )
    order = state[1]
    require(type(order) is str and order in ('<', '>', '|', '='), 'a malformed numpy.dtype')
    # A new one only where it differs: it has to be put in the old one's place.
    return dtype.newbyteorder(order) if order in _SWAPPED else dtype


def _check_plain_dtype(dtype) -> None:
    plain = isinstance(dtype, np.dtype) and dtype.kind in 'biufcSU'
    require(plain, 'a numpy array or scalar of dtype {}', dtype)


def _check_array(shape, dtype, data) -> None:
    _check_plain_dtype(dtype)
    require(
        is_sizes(shape) and type(data) in (bytes, bytearray),
        'a numpy array of malformed shape or data',
    )
    require(
        math.prod(shape) * dtype.itemsize == len(data),
        'a numpy array of another size than its data',
    )
    # numpy sets memory aside for an empty array as if it had one of each 0.
    least = math.prod(n or 1 for n in shape) * dtype.itemsize
    require(
        least <= max(len(data), _EMPTY),
        'a numpy array that is empty, but large in other directions',
    )


def empty_array(kind, shape, typecode) -> np.ndarray:
    """The empty array that :func:`restore_array` fills later."""
    require(
        path_of(kind) == 'numpy.ndarray' and is_sizes(shape) and tuple(shape) == (0,),
        'an array of class {}',
        kind,
    )
    return np.ndarray((0,), np.int8)


def restore_array(array: np.ndarray, state) -> None:
    """Fill an array made by :func:`empty_array` from a pickled state."""
    require(type(state) is tuple and len(state) == 5, 'a numpy array state')
    _, shape, dtype, fortran, data = state
    _check_array(shape, dtype, data)
    require(
        array.shape == (0,) and type(fortran) in (bool, int),
        'a numpy array that has its data already',
    )
    checked: Any = (1, tuple(shape), dtype, bool(fortran), bytes(data))
    array.__setstate__(checked)


def buffer_array(data, dtype, shape, order, axes=None) -> np.ndarray:
    """An array pickled with protocol 5, its buffer in the pickle."""
    _check_array(shape, dtype, data)
    require(
        type(order) is str and order in ('C', 'F', 'K') and (axes is None or is_sizes(axes)),
        'a numpy array of malformed order',
    )
    flat = np.frombuffer(data, dtype)
    if order == 'K' and axes is not None:
        return flat.reshape(shape).transpose(axes)
    return flat.reshape(shape, order=order)


def scalar(dtype, data=b'') -> Any:
    """A numpy scalar of a plain dtype from its bytes."""
    _check_plain_dtype(dtype)
    require(
        type(data) is bytes and len(data) == dtype.itemsize,
        'a numpy scalar of another size than its data',
    )
    return np.ndarray((), dtype, buffer=data or b'\0')[()]


# --- mmengine ---------------------------------------------------------------
def config_dict(values=None) -> dict:
    """A ConfigDict, as the plain dict it holds."""
    # Plain on purpose: a ConfigDict builds lazy objects when it is read.
    require(type(values) is dict, 'ConfigDict of no dict')
    return dict(values)


def statistic(owner, name) -> Admitted:
    """Stands in for builtins.getattr, which HistoryBuffer's pickles call."""
    is_buffer = path_of(owner).endswith('.HistoryBuffer')
    require(
        isinstance(owner, Admitted) and is_buffer and type(name) is str and name in STATISTICS,
        'builtins.getattr({}, {})',
        owner,
        name,
    )
    return STATISTICS[name]


def restore_history(buffer: HistoryBuffer, state) -> None:
    """Fill a HistoryBuffer; its statistics are always mmengine's own."""
    keys = _HISTORY_KEYS | {'statistics_methods'}
    require(
        type(state) is dict and _HISTORY_KEYS <= set(state) <= keys,
        'a HistoryBuffer of other attributes',
    )
    methods = state.get('statistics_methods', {})
    require(
        type(methods) is dict
        and all(any(m is own for own in STATISTICS.values()) for m in methods.values()),
        'a HistoryBuffer of other statistics',
    )
    logs, counts = state['_log_history'], state['_count_history']
    require(
        all(
            type(a) is np.ndarray and a.ndim == 1 and a.dtype.kind in 'biuf' for a in (logs, counts)
        )
        and len(logs) == len(counts),
        'a HistoryBuffer of malformed histories',
    )
    length = state['max_length']
    require(
        is_sizes((length,)) and length >= max(len(logs), 1),
        'a HistoryBuffer of malformed max_length',
    )
    HistoryBuffer.__init__(buffer, logs, counts, length)
