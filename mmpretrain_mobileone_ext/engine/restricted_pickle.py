"""A pickle reader for checkpoints that executes nothing a file asks for.

It knows a positive list of opcodes and names (see ``pickle_names``), so it
does not depend on torch's own ``weights_only`` mode, which refuses mmengine's
checkpoints, and what it builds is bounded (see ``load_budget``).
"""
import pickle
import pickletools
from collections import Counter, OrderedDict, defaultdict
from typing import Any, BinaryIO, Callable, Dict, List

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from .admitted import Admitted, check_keys, path_of, refused, require
from .load_budget import Budget
from .pickle_names import find
from .rebuild_numpy import restore_array, restore_dtype, restore_history

# Only the reader written in Python lets a subclass replace opcodes. Typed as
# Any because its stubs leave out the stack and the memo.
_PurePython: Any = pickle._Unpickler
# These build plain values and move them about; the base class runs them.
_PLAIN_OPCODES = {
    'PROTO', 'MARK', 'POP', 'POP_MARK', 'DUP', 'NONE',
    'NEWFALSE', 'NEWTRUE', 'INT', 'BININT', 'BININT1', 'BININT2', 'LONG',
    'LONG1', 'LONG4', 'FLOAT', 'BINFLOAT', 'STRING', 'BINSTRING',
    'SHORT_BINSTRING', 'BINBYTES', 'SHORT_BINBYTES', 'BINBYTES8', 'UNICODE',
    'BINUNICODE', 'SHORT_BINUNICODE', 'BINUNICODE8', 'EMPTY_TUPLE', 'TUPLE',
    'TUPLE1', 'TUPLE2', 'TUPLE3', 'EMPTY_LIST', 'LIST', 'EMPTY_DICT',
    'GET', 'BINGET', 'LONG_BINGET', 'PUT', 'BINPUT',
    'LONG_BINPUT', 'MEMOIZE', 'GLOBAL', 'STACK_GLOBAL',
}
#: Longest text form of a number or a name. Turning a long number into binary
#: takes the square of its length.
_LINE = 4096
_SET_BYTES = 216
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


def _no_storage(pid: Any) -> Any:
    raise refused('a storage outside of the checkpoint itself')


class RestrictedUnpickler(_PurePython):
    """Reads one pickle of plain data from a file's current place.

    Args:
        file (BinaryIO): A binary file.
        budget (Budget): What the whole file may build.
        storage (callable, optional): Gets a persistent id, gives its storage.

    Raises:
        CheckpointError: For any name, call, state or opcode not admitted.
    """
    dispatch = _dispatch()

    def __init__(self, file: BinaryIO, budget: Budget,
                 storage: Callable[[Any], Any] = _no_storage) -> None:
        # utf-8, as torch.load, for the text of Python 2.
        super().__init__(file, encoding='utf-8')
        self._budget = budget
        self._storage = storage

    def load(self) -> Any:
        """The object; like the base class's, but with a bounded number of
        operations and no frames."""
        self.stack: List[Any] = []
        self.metastack: List[List[Any]] = []
        self.append = self.stack.append
        dispatch = self.dispatch
        for _ in self._budget.steps:
            opcode = self._file_read(1)
            if opcode == pickle.STOP:
                return self.stack.pop()
            if not opcode:
                break
            dispatch[opcode[0]](self)
        else:
            raise self._budget.out_of_steps()
        raise EOFError('the pickle has no end')

    def read(self, count: int) -> bytes:
        """Exactly ``count`` bytes."""
        # Compared first: a file sets memory aside before it reads.
        short = count > self._budget.size
        data = b'' if short else self._file_read(count)
        if len(data) != count:
            raise EOFError('the pickle ends within a value')
        return data

    def readline(self) -> bytes:
        """A line of text."""
        line = self._file_readline(_LINE)
        require(line.endswith(b'\n'), 'a line without end')
        return line

    def find_class(self, module: str, name: str) -> Any:
        """The stand-in of an admitted name; nothing is imported."""
        return find(module, name)

    def load_frame(self) -> None:
        """Skip the size of a frame, a hint for reading ahead."""
        self.read(8)

    dispatch[pickle.FRAME[0]] = load_frame

    def load_empty_set(self) -> None:
        """The one object of a single byte that is not small."""
        self._budget.build(_SET_BYTES)
        self.append(set())

    dispatch[pickle.EMPTY_SET[0]] = load_empty_set

    def load_reduce(self) -> None:
        """Call an admitted function of ours with the arguments given."""
        args = self.stack.pop()
        func = self.stack[-1]
        known = isinstance(func, Admitted) and func.call is not None
        require(known, 'a call of {}', func)
        require(type(args) is tuple, '{} with no tuple', func)
        self._budget.call(args)
        made = func.call(*args)
        if isinstance(made, torch.Tensor):
            self._budget.view(made)
        self.stack[-1] = made

    dispatch[pickle.REDUCE[0]] = load_reduce

    def load_newobj(self) -> None:
        """Make an object of an admitted class, as ``cls.__new__`` would."""
        args = self.stack.pop()
        cls = self.stack[-1]
        known = isinstance(cls, Admitted) and cls.new is not None
        require(known, 'a new {}', cls)
        # A HistoryBuffer takes its contents from BUILD alone.
        limit = 0 if cls.new is HistoryBuffer else 1
        require(type(args) is tuple and len(args) == limit,
                '{} with arguments', cls)
        self._budget.call(args)
        self.stack[-1] = cls.new(*args)

    dispatch[pickle.NEWOBJ[0]] = load_newobj

    def load_build(self) -> None:
        """Set the state of the few kinds that have one, each its own way."""
        state = self.stack.pop()
        target = self.stack[-1]
        self._budget.call(state)
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
        if new is old:
            return
        # dtypes are immutable here, so BUILD gives a new one everywhere.
        self._budget.call(self.memo)
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
        require(type(target) is list, 'appending to {}', target)
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
        require(type(target) in _DICTS, 'setting items of {}', target)
        check_keys(items[::2])
        for key, value in zip(items[::2], items[1::2]):
            target[key] = value

    def load_additems(self) -> None:
        items = self.pop_mark()
        target = self.stack[-1]
        require(type(target) is set, 'adding items to {}', target)
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
        self.append(self._storage(self.stack.pop()))

    dispatch[pickle.BINPERSID[0]] = load_binpersid


def _restore_metadata(target: OrderedDict, state: Any) -> None:
    # A state dict's version numbers; other attributes could shadow methods.
    require(
        type(state) is dict and set(state) <= {'_metadata'}
        and all(type(v) in (dict, OrderedDict) for v in state.values()),
        'setting attributes of collections.OrderedDict')
    target.__dict__.update(state)
