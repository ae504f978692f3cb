"""A pickle reader for torch.load that executes nothing a file asks for.

``torch.load`` unpickles with whatever ``pickle_module`` it is given, on every
version and for both of its formats. The one made here knows a positive list
of opcodes and names (see ``pickle_names``), so it does not depend on torch's
own ``weights_only`` mode, which refuses mmengine's checkpoints.
"""
import pickle
import pickletools
from collections import Counter, OrderedDict, defaultdict
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .admitted import Admitted, check_keys, path_of, refused, require
from .pickle_names import find
from .rebuild_numpy import restore_array, restore_dtype, restore_history

# Only the reader written in Python lets a subclass replace opcodes. Typed as
# Any because its stubs leave out the stack and the memo.
_PurePython: Any = pickle._Unpickler
# These build plain values and move them about; the base class runs them.
_PLAIN_OPCODES = {
    'PROTO', 'FRAME', 'STOP', 'MARK', 'POP', 'POP_MARK', 'DUP', 'NONE',
    'NEWFALSE', 'NEWTRUE', 'INT', 'BININT', 'BININT1', 'BININT2', 'LONG',
    'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING',
    'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'UNICODE',
    'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'EMPTY_TUPLE', 'TUPLE',
    'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_LIST', 'LIST', 'EMPTY_DICT',
    'EMPTY_SET', 'GET', 'BINGET', 'LONG_BINGET', 'PUT', 'BINPUT',
    'LONG_BINPUT', 'MEMOIZE', 'GLOBAL', 'STACK_GLOBAL',
}
_DICTS = (dict, OrderedDict, defaultdict, Counter)


def _refuse_opcode(name: str) -> Callable[[Any], None]:

    def load_refused(self: Any) -> None:
        raise refused(f'the opcode {name}')

    return load_refused


def _dispatch() -> Dict[int, Callable[[Any], None]]:
    plain = _PurePython.dispatch
    return {
        ord(op.code): plain[ord(op.code)]
        if op.name in _PLAIN_OPCODES else _refuse_opcode(op.name)
        for op in pickletools.opcodes
    }


class RestrictedUnpickler(_PurePython):
    """Reads plain data; subclassed by torch.load, which sets the storages.

    Raises:
        CheckpointError: For any name, call, state or opcode not admitted.
    """
    dispatch = _dispatch()

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted name; nothing is imported."""
        return find(module, name)

    def check_storage(self, key: Any, nbytes: int) -> None:
        """Refuse a storage larger than the file; see pickle_module."""
        raise refused('a storage outside of torch.load')

    def load_reduce(self) -> None:
        """Call an admitted function of ours with the arguments given."""
        args = self.stack.pop()
        func = self.stack[-1]
        known = isinstance(func, Admitted) and func.call is not None
        require(known, f'a call of {path_of(func)}')
        require(type(args) is tuple, f'{path_of(func)} with no tuple')
        self.stack[-1] = func.call(*args)

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """Make an object of an admitted class, as ``cls.__new__`` would."""
        args = self.stack.pop()
        cls = self.stack[-1]
        known = isinstance(cls, Admitted) and cls.new is not None
        require(known, f'a new {path_of(cls)}')
        # A HistoryBuffer takes its contents from BUILD alone.
        limit = 0 if cls.new is HistoryBuffer else 1
        require(type(args) is tuple and len(args) == limit,
                f'{path_of(cls)} with arguments')
        self.stack[-1] = cls.new(*args)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self) -> None:
        """Set the state of the few kinds that have one, each its own way."""
        state = self.stack.pop()
        target = self.stack[-1]
        if type(target) is HistoryBuffer:
            restore_history(target, state)
        elif type(target) is np.ndarray:
            restore_array(target, state)
        elif isinstance(target, np.dtype):
            self._replace(target, restore_dtype(target, state))
        elif type(target) is OrderedDict:
            _restore_metadata(target, state)
        else:
            raise refused(f'setting the state of {path_of(target)}')

    dispatch[pickle.BUILD[0]] = load_build

    def _replace(self, old: Any, new: Any) -> None:
        # dtypes are immutable here, so BUILD gives a new one everywhere.
        self.stack[-1] = new
        for index in [i for i, v in self.memo.items() if v is old]:
            self.memo[index] = new

    def load_append(self) -> None:
        self._extend([self.stack.pop()])

    dispatch[pickle.APPEND[0]] = load_append

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    dispatch[pickle.APPENDS[0]] = load_appends

    def _extend(self, items: List[Any]) -> None:
        target = self.stack[-1]
        require(type(target) is list, f'appending to {path_of(target)}')
        target.extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    dispatch[pickle.SETITEM[0]] = load_setitem

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    dispatch[pickle.SETITEMS[0]] = load_setitems

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._update(items)

    dispatch[pickle.DICT[0]] = load_dict

    def _update(self, items: List[Any]) -> None:
        target = self.stack[-1]
        require(type(target) in _DICTS, f'setting items of {path_of(target)}')
        check_keys(items[::2])
        for key, value in zip(items[::2], items[1::2]):
            target[key] = value

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        require(type(target) is set, f'adding items to {path_of(target)}')
        check_keys(items)
        target.update(items)

    dispatch[pickle.ADDITEMS[0]] = load_additems

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        check_keys(items)
        self.append(frozenset(items))

    dispatch[pickle.FROZENSET[0]] = load_frozenset

    def load_bytearray8(self) -> None:
        # Read, then copy: the base class allocates what the file claims.
        self.load_binbytes8()
        self.stack[-1] = bytearray(self.stack[-1])

    dispatch[pickle.BYTEARRAY8[0]] = load_bytearray8

    def load_binpersid(self) -> None:
        pid = self.stack.pop()
        self.check_storage(*_storage_claim(pid))
        self.append(self.persistent_load(pid))

    dispatch[pickle.BINPERSID[0]] = load_binpersid


def _restore_metadata(target: OrderedDict, state: Any) -> None:
    # A state dict's version numbers; other attributes could shadow methods.
    require(
        type(state) is dict and set(state) <= {'_metadata'}
        and all(type(v) in (dict, OrderedDict) for v in state.values()),
        'setting attributes of collections.OrderedDict')
    target.__dict__.update(state)


def _storage_claim(pid: Any) -> Tuple[str, int]:
    """The key and the size in bytes of a persistent id, which torch trusts."""
    is_storage = type(pid) is tuple and len(pid) in (5, 6) and pid[0] in (
        'storage', b'storage')
    require(is_storage, f'the persistent id {str(pid)[:80]}')
    kind, key, location, numel = pid[1:5]
    require(
        type(key) is str and type(location) in (str, bytes)
        and type(numel) is int and numel >= 0, 'a malformed storage')
    view = pid[5] if len(pid) == 6 else None
    require(view is None or _is_view(view, numel), 'a malformed storage view')
    return key, numel * _element_size(kind)


def _is_view(view: Any, numel: int) -> bool:
    plain = type(view) is tuple and [type(v) for v in view] == [str, int, int]
    return plain and view[1] >= 0 and 0 <= view[2] <= numel - view[1]


def _element_size(kind: Any) -> int:
    if isinstance(kind, type) and kind in torch._storage_classes:
        if kind.__name__.endswith('UntypedStorage'):
            return 1  # counted in bytes
        return kind(0).element_size()  # typed classes: torch < 1.11
    known = type(kind).__module__ == 'torch.serialization'
    require(known, f'a storage of {path_of(kind)}')
    return torch.empty((), dtype=kind.dtype).element_size()


def pickle_module(check_storage: Callable[[str, int], None]) -> Any:
    """A stand-in for the module ``pickle`` that torch.load accepts.

    Args:
        check_storage (callable): Gets the key and size in bytes of each
            storage before torch allocates it; raises CheckpointError for
            one that the file cannot hold.

    Returns:
        SimpleNamespace: With ``Unpickler``, ``load`` and ``__name__``.
    """

    class Unpickler(RestrictedUnpickler):

        def check_storage(self, key: str, nbytes: int) -> None:
            check_storage(key, nbytes)

    def load(file: Any, **options: Any) -> Any:
        return Unpickler(file, **options).load()

    return SimpleNamespace(__name__=__name__, Unpickler=Unpickler, load=load)
