"""Checked rebuilders: containers and tensors of a pickle.

Each takes arguments straight from an untrusted pickle, so each checks all of
them, and raises CheckpointError naming what was asked for.
"""
from collections import Counter, OrderedDict, defaultdict
from typing import Any

import torch

from .admitted import Admitted, check_keys, is_sizes, path_of, require


# --- built-in and standard-library containers -------------------------------
def ordered_dict(pairs: Any = ()) -> OrderedDict:
    """An OrderedDict of (plain key, value) pairs."""
    require(
        type(pairs) in (tuple, list) and all(
            type(pair) in (tuple, list) and len(pair) == 2 for pair in pairs),
        'collections.OrderedDict of no pairs')
    check_keys(pair[0] for pair in pairs)
    return OrderedDict(pairs)


def default_dict(factory: Any = None) -> defaultdict:
    """An empty defaultdict whose factory, if any, is an admitted one."""
    if factory is None:
        return defaultdict()
    known = isinstance(factory, Admitted) and factory.factory is not None
    require(known, 'collections.defaultdict({})', factory)
    return defaultdict(factory.factory)


def counter(counts: Any = None) -> Counter:
    """A Counter of a dict; its keys were checked when that was built."""
    require(counts is None or type(counts) is dict,
            'collections.Counter of no dict')
    return Counter(counts)


def set_of(members: Any = ()) -> set:
    """A set of plain keys."""
    require(type(members) in (list, tuple), 'builtins.set of no list')
    check_keys(members)
    return set(members)


def frozenset_of(members: Any = ()) -> frozenset:
    """A frozenset of plain keys."""
    return frozenset(set_of(members))


def config_dict(values: Any = None) -> dict:
    """A ConfigDict, as the plain dict it holds."""
    # Plain on purpose: a ConfigDict builds lazy objects when it is read.
    require(type(values) is dict, 'ConfigDict of no dict')
    return dict(values)


def encode(text: Any, encoding: Any = 'latin1') -> bytes:
    """Bytes that Python 2's protocols carry as text."""
    require(
        type(text) is type(encoding) is str
        and encoding in ('latin1', 'latin-1'), '_codecs.encode(..., {})',
        encoding)
    return text.encode('latin1')


def no_bytes() -> bytes:
    """``bytes()``, which is how protocol 2 spells an empty one."""
    return b''


def byte_array(source: Any = b'', encoding: Any = 'latin1') -> bytearray:
    """A bytearray of bytes, or of their text form."""
    # bytearray(10**12) would allocate; bytes and their latin-1 form cannot.
    if type(source) is str:
        source = encode(source, encoding)
    require(type(source) is bytes, 'bytearray of {}', source)
    return bytearray(source)


def complex_of(real: Any = 0.0, imag: Any = 0.0) -> complex:
    """A complex number of two plain numbers."""
    require({type(real), type(imag)} <= {int, float}, 'complex of no floats')
    return complex(real, imag)


# --- torch ------------------------------------------------------------------
def _check_view(storage: Any, offset: Any, size: Any, stride: Any,
                dtype: Any) -> None:
    """Refuse a view that would grow, or read outside of, its storage."""
    require(
        isinstance(storage, torch.storage.TypedStorage), 'a tensor on {}',
        storage)
    require(isinstance(dtype, torch.dtype), 'a tensor without a dtype')
    require(
        is_sizes((offset, )) and is_sizes(size) and is_sizes(stride)
        and len(size) == len(stride), 'a tensor of malformed size or stride')
    if 0 in size:
        return
    last = offset + sum((n - 1) * step for n, step in zip(size, stride))
    end = (last + 1) * dtype.itemsize
    require(end <= storage._untyped_storage.nbytes(),
            'a tensor beyond its storage')


def _rebuilt(storage: Any, dtype: Any, offset: Any, size: Any, stride: Any,
             requires_grad: Any, metadata: Any) -> torch.Tensor:
    _check_view(storage, offset, size, stride, dtype)
    require(
        metadata is None or (type(metadata) is dict
        and set(metadata) <= {'conj', 'neg'}
        and all(type(v) is bool for v in metadata.values())),
        'malformed tensor metadata')
    untyped = storage._untyped_storage
    made = torch.empty(0, dtype=dtype, device=untyped.device)
    made.set_(untyped, offset, tuple(size), tuple(stride))
    if metadata:
        torch._utils.set_tensor_metadata(made, metadata)
    return made.requires_grad_(_switch(requires_grad))


def _switch(value: Any) -> bool:
    require(type(value) in (bool, int), 'requires_grad={}', value)
    return bool(value)


def tensor(storage: Any,
           offset: Any,
           size: Any,
           stride: Any,
           requires_grad: Any = False,
           hooks: Any = None,
           metadata: Any = None) -> torch.Tensor:
    """``torch._utils._rebuild_tensor_v2`` inside the storage's bounds."""
    # ``hooks`` is always left out: backward hooks are code.
    return _rebuilt(storage, getattr(storage, 'dtype', None), offset, size,
                    stride, requires_grad, metadata)


def tensor_v3(storage: Any,
              offset: Any,
              size: Any,
              stride: Any,
              requires_grad: Any,
              hooks: Any,
              dtype: Any,
              metadata: Any = None) -> torch.Tensor:
    """``torch._utils._rebuild_tensor_v3``: the dtype is given apart."""
    return _rebuilt(storage, dtype, offset, size, stride, requires_grad,
                    metadata)


def parameter(data: Any,
              requires_grad: Any = True,
              hooks: Any = None,
              state: Any = None) -> torch.nn.Parameter:
    """A parameter on a tensor that was rebuilt before."""
    # ``state`` holds Python attributes; set, they could shadow methods.
    require(isinstance(data, torch.Tensor), 'a parameter of no tensor')
    return torch.nn.Parameter(data, _switch(requires_grad))


def attributed_tensor(builder: Any,
                      kind: Any,
                      args: Any,
                      state: Any = None) -> torch.Tensor:
    """A tensor that carries Python attributes: the tensor, without them."""
    plain = isinstance(builder, Admitted) and builder.call in (
        tensor, tensor_v3, parameter)
    require(plain, '{}', builder)
    require(type(args) is tuple, '{} with no tuple', builder)
    require(
        path_of(kind) in ('torch.Tensor', 'torch.nn.parameter.Parameter'),
        'a tensor of class {}', kind)
    return builder.call(*args)


def size_of(sizes: Any = ()) -> torch.Size:
    """A torch.Size of non-negative integers."""
    require(is_sizes(sizes), 'torch.Size of no integers')
    return torch.Size(sizes)


def device(kind: Any, index: Any = None) -> torch.device:
    """A torch.device by type and index."""
    require(
        type(kind) is str and len(kind) <= 32 and
        (index is None or is_sizes((index, ))),
        'torch.device of no name')
    return torch.device(kind) if index is None else torch.device(kind, index)


def version(text: Any) -> str:
    """A torch.__version__ (a str subclass), as the plain string it is."""
    require(type(text) is str, 'TorchVersion of no str')
    return text
