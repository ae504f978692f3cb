"""Checked rebuilders: numpy values and mmengine's HistoryBuffer of a pickle.

Like ``rebuild``: every argument is untrusted and checked. Objects inside
arrays, structured and date dtypes are refused; checkpoints need none of them.
"""
import math
import re
import sys
from typing import Any

import numpy as np
from mmengine.logging import HistoryBuffer

from .admitted import Admitted, is_sizes, path_of, require

_PLAIN_DTYPE = re.compile(r'[<>=|]?(?:[biufc]\d{1,2}|[SU]\d{1,9}|\?)')
#: Bytes of an empty array's other sizes: 1 MiB.
_EMPTY = 1 << 20
_SWAPPED = '>' if sys.byteorder == 'little' else '<'
_HISTORY_KEYS = {'max_length', '_log_history', '_count_history'}
#: Inert stand-ins for HistoryBuffer's own statistics, by name.
STATISTICS = {
    name: Admitted(f'HistoryBuffer.{name}')
    for name in ('min', 'max', 'current', 'mean')
}


def dtype_of(spec: Any, align: Any = False, copy: Any = True) -> np.dtype:
    """A plain dtype by its short name, e.g. ``<f4``."""
    require(
        type(spec) is str and _PLAIN_DTYPE.fullmatch(spec) is not None,
        'numpy.dtype({})', spec)
    # A copy, so that BUILD can tell this dtype from equal ones in the memo.
    return np.dtype(spec, copy=True)


def restore_dtype(dtype: np.dtype, state: Any) -> np.dtype:
    """``dtype`` with the byte order of a pickled state, nothing else of it.

    numpy's own ``__setstate__`` takes item sizes and object flags on trust.
    """
    require(
        type(state) is tuple and 8 <= len(state) <= 9
        and all(part is None for part in state[2:5])
        and type(state[5]) is int and state[5] in (-1, dtype.itemsize)
        and all(part is None or (type(part) is int and part == 0)
                for part in state[8:]),
        'a structured, sub-array or annotated numpy.dtype')
    order = state[1]
    require(type(order) is str and order in ('<', '>', '|', '='),
            'a malformed numpy.dtype')
    # A new one only where it differs: it has to be put in the old one's place.
    return dtype.newbyteorder(order) if order in _SWAPPED else dtype


def _check_plain_dtype(dtype: Any) -> None:
    plain = isinstance(dtype, np.dtype) and dtype.kind in 'biufcSU'
    require(plain, 'a numpy array or scalar of dtype {}', dtype)


def _check_size(shape: Any, dtype: np.dtype, data: Any) -> None:
    require(
        is_sizes(shape) and type(data) in (bytes, bytearray),
        'a numpy array of malformed shape or data')
    require(
        math.prod(shape) * dtype.itemsize == len(data),
        'a numpy array of another size than its data')
    # numpy sets memory aside for an empty array as if it had one of each 0.
    least = math.prod(n or 1 for n in shape) * dtype.itemsize
    require(
        least <= max(len(data), _EMPTY),
        'a numpy array that is empty, but large in other directions')


def empty_array(kind: Any, shape: Any, typecode: Any) -> np.ndarray:
    """The empty array that :func:`restore_array` fills later."""
    require(
        path_of(kind) == 'numpy.ndarray' and is_sizes(shape)
        and tuple(shape) == (0, ), 'an array of class {}', kind)
    return np.ndarray((0, ), np.int8)


def restore_array(array: np.ndarray, state: Any) -> None:
    """Fill an array made by :func:`empty_array` from a pickled state."""
    require(type(state) is tuple and len(state) == 5, 'a numpy array state')
    _, shape, dtype, fortran, data = state
    _check_plain_dtype(dtype)
    _check_size(shape, dtype, data)
    require(
        array.shape == (0, ) and type(fortran) in (bool, int),
        'a numpy array that has its data already')
    checked: Any = (1, tuple(shape), dtype, bool(fortran), bytes(data))
    array.__setstate__(checked)


def buffer_array(data: Any,
                 dtype: Any,
                 shape: Any,
                 order: Any,
                 axes: Any = None) -> np.ndarray:
    """An array pickled with protocol 5, its buffer in the pickle."""
    _check_plain_dtype(dtype)
    _check_size(shape, dtype, data)
    require(
        type(order) is str and order in ('C', 'F', 'K')
        and (axes is None or is_sizes(axes)),
        'a numpy array of malformed order')
    flat = np.frombuffer(data, dtype)
    if order == 'K' and axes is not None:
        return flat.reshape(shape).transpose(axes)
    return flat.reshape(shape, order=order)


def scalar(dtype: Any, data: Any = b'') -> Any:
    """A numpy scalar of a plain dtype from its bytes."""
    _check_plain_dtype(dtype)
    require(
        type(data) is bytes and len(data) == dtype.itemsize,
        'a numpy scalar of another size than its data')
    return np.ndarray((), dtype, buffer=data or b'\0')[()]


def statistic(owner: Any, name: Any) -> Admitted:
    """Stands in for builtins.getattr, which HistoryBuffer's pickles call."""
    is_buffer = path_of(owner).endswith('.HistoryBuffer')
    require(isinstance(owner, Admitted) and is_buffer and type(name) is str
            and name in STATISTICS,
            'builtins.getattr({}, {})', owner, name)
    return STATISTICS[name]


def restore_history(buffer: HistoryBuffer, state: Any) -> None:
    """Fill a HistoryBuffer; its statistics are always mmengine's own."""
    keys = _HISTORY_KEYS | {'statistics_methods'}
    require(
        type(state) is dict and _HISTORY_KEYS <= set(state) <= keys,
        'a HistoryBuffer of other attributes')
    methods = state.get('statistics_methods', {})
    require(
        type(methods) is dict
        and all(any(m is own for own in STATISTICS.values())
                for m in methods.values()),
        'a HistoryBuffer of other statistics')
    logs, counts = state['_log_history'], state['_count_history']
    require(
        all(
            type(a) is np.ndarray and a.ndim == 1 and a.dtype.kind in 'biuf'
            for a in (logs, counts)) and len(logs) == len(counts),
        'a HistoryBuffer of malformed histories')
    length = state['max_length']
    require(
        is_sizes((length, )) and length >= max(len(logs), 1),
        'a HistoryBuffer of malformed max_length')
    HistoryBuffer.__init__(buffer, logs, counts, length)
