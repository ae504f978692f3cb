"""A reader of torch.save files that executes nothing a file asks for.

Both formats, zip and legacy, are read from one open file; torch gets bytes only. What may be asked
for is a positive list of opcodes and names: each name stands for a checked function of ``rebuild``,
and what is built is bounded by the size of the file. Formats that run code (TorchScript) or write
files (tar) are refused.

A few bytes of a pickle can ask for much: to copy one long list again and again, to view one byte as
a thousand million numbers. Every operation, call and tensor of a file is counted here, and nowhere
else.

Why not ``torch.load(weights_only=True)`` under the same zip checks: both were tried on 180 good and
222 hostile files of the tests, with torch 2.14 and 2.1; this reader loads and refuses them all.
torch's own loads 39 of the good ones (26 on 2.1), none of them of a mmengine Runner, and 33 hostile
ones (24) load or take more memory or time than allowed. With all names of the tables below given to
``add_safe_globals``, which 2.1 lacks, 58 good and 45 hostile ones pass: opcodes of protocols 4 and
5 stay unknown, and BUILD sets any state.
"""

import io
import os
import pickle
import pickletools
from collections import Counter, OrderedDict, defaultdict
from typing import Any, BinaryIO, Callable, Dict, Iterator, List, Tuple

import numpy as np
import torch
from mmengine.logging import HistoryBuffer

from ..errors import CheckpointError
from . import rebuild
from .rebuild import Admitted, check_keys, path_of, refused, require
from .storages import LegacyStorages, ZipStorages, storage_kinds
from .zip_records import ZipRecords, damaged, reading

_MIB = 1 << 20
#: Any file may build this much: 64 MiB.
_ALWAYS_ALLOWED = 64 * _MIB
#: Bytes that a byte of the pickle may build. A tensor takes about 100 bytes of pickle, 3 calls and
#: 3 kB; a history's numbers are copied three times.
_PER_BYTE = 64
#: No pickle builds more, storages apart, than 1 GiB, or what the histories of a long run do: so
#: many times the file.
_CEILING = 1024 * _MIB
_CEILING_PER_BYTE = 8
#: About 35 a tensor; so many take two seconds.
_OPERATIONS = 2_000_000
#: How often each byte of the file may be seen by tensors; tied weights share theirs.
_VIEWS = 16
#: Bytes of a small object, and of an entry of an OrderedDict, the largest.
_OBJECT = 1024
_ENTRY = 192
_CONTAINERS = (list, tuple, dict, set, frozenset, OrderedDict, defaultdict, Counter, torch.Size)


class Budget:
    """Counts what one file builds.

    Args:
        pickled (int): Bytes of the file that are pickled, at most.
        size (int): Bytes of the whole file.

    Attributes:
        steps: An iterator of the operations that are left to all pickles of the file.
    """

    def __init__(self, pickled: int, size: int) -> None:
        self.size = size
        self.steps = iter(range(min(pickled, _OPERATIONS)))
        self._built = self._most = min(
            _ALWAYS_ALLOWED + _PER_BYTE * pickled, max(_CEILING, _CEILING_PER_BYTE * size)
        )
        self._viewed = _ALWAYS_ALLOWED + _VIEWS * size

    def build(self, nbytes: int) -> None:
        """Count bytes that are built.

        Raises:
            CheckpointError: If the file builds more than its size allows.
        """
        self._built -= nbytes
        if self._built < 0:
            raise CheckpointError(
                f'refuses to load: the pickle builds more than {self._most >> 20} MiB, which is '
                f'what a file of {self.size} bytes may'
            )

    def call(self, arguments: Any) -> None:
        """Count a call, which may copy each of its arguments."""
        self.build(_OBJECT + _copied_bytes(arguments))
        if isinstance(arguments, (dict, tuple)):
            members = arguments.values() if isinstance(arguments, dict) else arguments
            self.build(sum(map(_copied_bytes, members)))

    def view(self, tensor: torch.Tensor) -> None:
        """Count the bytes of a tensor, were it copied out of its storage.

        Raises:
            CheckpointError: If all tensors are larger than the file allows.
        """
        self._viewed -= tensor.numel() * tensor.element_size()
        if self._viewed < 0:
            raise CheckpointError(
                f'refuses to load: the tensors up to one of shape {tuple(tensor.shape)} hold more '
                f'than {_ALWAYS_ALLOWED >> 20} MiB and {_VIEWS} times the {self.size} bytes of the '
                'file'
            )

    def out_of_steps(self) -> CheckpointError:
        """The error for a pickle that takes too many operations."""
        return CheckpointError(
            f'refuses to load: the pickle has more than {_OPERATIONS} operations'
        )


def _copied_bytes(value: Any) -> int:
    """Bytes of a copy of ``value``, its members not copied."""
    if type(value) in (str, bytes, bytearray):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    return _ENTRY * len(value) if type(value) in _CONTAINERS else 0


_Key = Tuple[str, str]
_ZIP_MAGIC = b'PK\x03\x04'
_TAR_MAGIC = slice(257, 262)
_PICKLE = 'data.pkl'
# One spelling per name: Python 2's, numpy 2's and old torch's move to it.
_MODULES = {
    '__builtin__': 'builtins',
    'numpy._core.multiarray': 'numpy.core.multiarray',
    'numpy._core.numeric': 'numpy.core.numeric',
    'torch.tensor': 'torch._tensor',
    'mmengine.logging': 'mmengine.logging.history_buffer',
    'mmengine.config': 'mmengine.config.config',
}
_CALLS: Dict[_Key, Any] = {
    ('builtins', 'set'): rebuild.set_of,
    ('builtins', 'frozenset'): rebuild.frozenset_of,
    ('builtins', 'bytes'): rebuild.no_bytes,
    ('builtins', 'bytearray'): rebuild.byte_array,
    ('builtins', 'complex'): rebuild.complex_of,
    ('builtins', 'getattr'): rebuild.statistic,
    ('_codecs', 'encode'): rebuild.encode,
    ('collections', 'OrderedDict'): rebuild.ordered_dict,
    ('collections', 'defaultdict'): rebuild.default_dict,
    ('collections', 'Counter'): rebuild.counter,
    ('torch', 'Size'): rebuild.size_of,
    ('torch', 'device'): rebuild.device,
    ('torch._utils', '_rebuild_tensor'): rebuild.tensor,
    ('torch._utils', '_rebuild_tensor_v2'): rebuild.tensor,
    ('torch._utils', '_rebuild_tensor_v3'): rebuild.tensor_v3,
    ('torch._utils', '_rebuild_parameter'): rebuild.parameter,
    ('torch._utils', '_rebuild_parameter_with_state'): rebuild.parameter,
    ('torch._tensor', '_rebuild_from_type_v2'): rebuild.attributed_tensor,
    ('numpy', 'dtype'): rebuild.dtype_of,
    ('numpy.core.multiarray', '_reconstruct'): rebuild.empty_array,
    ('numpy.core.multiarray', 'scalar'): rebuild.scalar,
    ('numpy.core.numeric', '_frombuffer'): rebuild.buffer_array,
    ('mmengine.config.config', 'ConfigDict'): rebuild.config_dict,
}
_NEW: Dict[_Key, Any] = {
    ('mmengine.logging.history_buffer', 'HistoryBuffer'): HistoryBuffer,
    ('torch.torch_version', 'TorchVersion'): rebuild.version,
}
# Named only as an argument of the rebuilders above.
_ARGUMENTS: Tuple[_Key, ...] = (
    ('numpy', 'ndarray'),
    ('torch', 'Tensor'),
    ('torch.nn.parameter', 'Parameter'),
)
_FACTORIES = (set, frozenset, dict, list, tuple, int, float, complex, str, bytes, bool)
# These build plain values and move them about; the base class runs them.
_PLAIN_OPCODES = frozenset(
    """
    PROTO MARK POP POP_MARK DUP NONE NEWFALSE NEWTRUE
    INT BININT BININT1 BININT2 LONG LONG1 LONG4 FLOAT BINFLOAT
    STRING BINSTRING SHORT_BINSTRING BINBYTES SHORT_BINBYTES BINBYTES8
    UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8
    EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST EMPTY_DICT
    GET BINGET LONG_BINGET PUT BINPUT LONG_BINPUT MEMOIZE GLOBAL STACK_GLOBAL
    """.split()  # noqa: SIM905
)
#: Longest text form of a number or a name. Turning a long number into binary takes the square of
#: its length.
_LINE = 4096
_SET_BYTES = 216
_DICTS = (dict, OrderedDict, defaultdict, Counter)


@reading()
def restricted_load(handle: BinaryIO, map_location: Any = 'cpu') -> Any:
    """What torch.load gives, of data only.

    Args:
        handle (BinaryIO): A seekable binary file or ``io.BytesIO``; all of it is the checkpoint.
        map_location: As of torch.load.

    Returns:
        The unpickled object: plain containers of tensors, numpy values,
        plain values and HistoryBuffers. Storages are shared as in the file.

    Raises:
        CheckpointError: If the file asks for anything else, by name; builds more than its size
            allows; is of a format that can run code or writes files; or is not whole (a zip's
            records have a CRC-32).
    """
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    head = handle.read(512)
    handle.seek(0)
    if head[_TAR_MAGIC] == b'ustar':
        raise CheckpointError(
            'refuses to load: a tar archive (torch < 0.1.10 format); save it again with torch.save'
        )
    if head.startswith(_ZIP_MAGIC):
        return _load_zip(handle, size, map_location)
    if head.startswith(pickle.PROTO):
        return _load_legacy(handle, size, map_location)
    raise damaged('neither a zip nor a legacy file of torch.save')


def _load_zip(handle: BinaryIO, size: int, map_location: Any) -> Any:
    records = ZipRecords(handle)
    code = [name for name in records if name == 'constants.pkl' or name.startswith('code/')]
    if code:
        raise CheckpointError(
            f'refuses to load: a TorchScript archive (it holds {code[0]!r}), '
            'which would run; save its state_dict() with torch.save'
        )
    pickled = io.BytesIO(records.read(_PICKLE))
    budget = Budget(records.size(_PICKLE), size)
    return RestrictedUnpickler(pickled, budget, ZipStorages(records, map_location)).load()


def _load_legacy(handle: BinaryIO, size: int, map_location: Any) -> Any:
    """Magic number, version and system; the object; keys and storages."""
    budget = Budget(size, size)
    for known in (torch.serialization.MAGIC_NUMBER, torch.serialization.PROTOCOL_VERSION):
        found = RestrictedUnpickler(handle, budget).load()
        if type(found) is not int or found != known:
            raise damaged('not the magic number or version of torch.save')
    # The system of whoever saved it: storages are little endian all the same.
    RestrictedUnpickler(handle, budget).load()
    storages = LegacyStorages(size, map_location)
    loaded = RestrictedUnpickler(handle, budget, storages).load()
    storages.fill(handle, RestrictedUnpickler(handle, budget).load())
    return loaded


def _names() -> Iterator[Tuple[_Key, Any]]:
    """Every name that a pickle may ask for, and the inert thing it gets."""
    for name, value in vars(torch).items():
        if isinstance(value, torch.dtype):
            yield ('torch', name), value
    yield from storage_kinds().items()
    factories = {('builtins', f.__name__): f for f in _FACTORIES}
    factories['collections', 'OrderedDict'] = OrderedDict
    for key in {**_CALLS, **_NEW, **factories, **dict.fromkeys(_ARGUMENTS)}:
        yield key, Admitted('.'.join(key), _CALLS.get(key), _NEW.get(key), factories.get(key))
    # Protocol 4 and later name a method by its dotted qualified name.
    for name, statistic in rebuild.STATISTICS.items():
        yield ('mmengine.logging.history_buffer', f'HistoryBuffer.{name}'), statistic


_NAMES: Dict[_Key, Any] = dict(_names())
# Only the reader written in Python lets a subclass replace opcodes. Typed as Any because its stubs
# leave out the stack and the memo.
_PurePython: Any = pickle._Unpickler


def _no_storage(pid: Any) -> Any:
    raise refused('a storage outside of the checkpoint itself')


class RestrictedUnpickler(_PurePython):
    """Reads one pickle of plain data from a file's current place.

    An opcode is read by the method here that has its name. Those that only make plain values are
    left to the base class; all others are refused.

    Args:
        file (BinaryIO): A binary file.
        budget (Budget): What the whole file may build.
        storage (callable, optional): Gets a persistent id, gives its storage.

    Raises:
        CheckpointError: For any name, call, state or opcode not admitted.
    """

    def __init__(
        self, file: BinaryIO, budget: Budget, storage: Callable[[Any], Any] = _no_storage
    ) -> None:
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
        """What an admitted name stands for; nothing is ever imported."""
        key = (_MODULES.get(module, module), name)
        if key not in _NAMES:
            raise refused(f'{module[:100]}.{name[:100]}')
        return _NAMES[key]

    def load_frame(self) -> None:
        """Skip the size of a frame, a hint for reading ahead."""
        self.read(8)

    def load_empty_set(self) -> None:
        """The one object of a single byte that is not small."""
        self._budget.build(_SET_BYTES)
        self.append(set())

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

    def load_newobj(self) -> None:
        """Make an object of an admitted class, as ``cls.__new__`` would."""
        args = self.stack.pop()
        cls = self.stack[-1]
        known = isinstance(cls, Admitted) and cls.new is not None
        require(known, 'a new {}', cls)
        # A HistoryBuffer takes its contents from BUILD alone.
        limit = 0 if cls.new is HistoryBuffer else 1
        require(type(args) is tuple and len(args) == limit, '{} with arguments', cls)
        self._budget.call(args)
        self.stack[-1] = cls.new(*args)

    def load_build(self) -> None:
        """Set the state of the few kinds that have one, each its own way."""
        state = self.stack.pop()
        target = self.stack[-1]
        self._budget.call(state)
        if type(target) is HistoryBuffer:
            rebuild.restore_history(target, state)
        elif type(target) is np.ndarray:
            rebuild.restore_array(target, state)
        elif isinstance(target, np.dtype):
            self._replace(target, rebuild.restore_dtype(target, state))
        elif type(target) is OrderedDict:
            rebuild.restore_metadata(target, state)
        else:
            raise refused(f'setting the state of {path_of(target)}')

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

    def load_appends(self) -> None:
        self._extend(self.pop_mark())

    def _extend(self, items: List[Any]) -> None:
        target = self.stack[-1]
        require(type(target) is list, 'appending to {}', target)
        target.extend(items)

    def load_setitem(self) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._update([key, value])

    def load_setitems(self) -> None:
        self._update(self.pop_mark())

    def load_dict(self) -> None:
        items = self.pop_mark()
        self.append({})
        self._update(items)

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

    def load_frozenset(self) -> None:
        items = self.pop_mark()
        check_keys(items)
        self.append(frozenset(items))

    def load_bytearray8(self) -> None:
        # Read, then copy: the base class allocates what the file claims.
        self.load_binbytes8()
        self.stack[-1] = bytearray(self.stack[-1])

    def load_binpersid(self) -> None:
        self.append(self._storage(self.stack.pop()))


def _reader_of(opcode: str, code: int) -> Callable[[Any], None]:
    own = vars(RestrictedUnpickler).get(f'load_{opcode.lower()}')
    if own is not None:
        return own
    if opcode in _PLAIN_OPCODES:
        return _PurePython.dispatch[code]

    def refuse(self: Any) -> None:
        raise refused(f'the opcode {opcode}')

    return refuse


RestrictedUnpickler.dispatch = {
    ord(op.code): _reader_of(op.name, ord(op.code)) for op in pickletools.opcodes
}
