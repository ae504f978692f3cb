"""The storages that a checkpoint's pickle names, filled from its file.

A storage is exactly as large as its record. Its memory is filled whole before anyone gets the
checkpoint, or the file is refused.
"""

import ctypes
import sys
from dataclasses import dataclass
from typing import Any, BinaryIO, Callable, Dict, Optional, Tuple

import torch

from ..errors import CheckpointError
from .rebuild import Admitted, brief, is_sizes, require
from .zip_records import ZipRecords, damaged, read_fully

_Restore = Callable[[torch.UntypedStorage, str], Any]


@dataclass(frozen=True, eq=False)
class StorageKind(Admitted):
    """A class of storages by name; its elements are of ``dtype``."""

    dtype: torch.dtype = torch.uint8


@dataclass(frozen=True)
class _Claim:
    """What a persistent id says; ``view`` is a key, an offset and a size."""

    key: str
    location: str
    dtype: torch.dtype
    nbytes: int
    view: Optional[Tuple[str, int, int]]


def restorer(map_location: Any) -> _Restore:
    """Moves a storage as torch.load does for this ``map_location``."""
    default = torch.serialization.default_restore_location
    if map_location is None:
        return default
    if isinstance(map_location, (str, bytes, torch.device)):
        place = map_location.decode() if isinstance(map_location, bytes) else str(map_location)
        return lambda storage, location: default(storage, place)
    if isinstance(map_location, dict):
        return lambda storage, location: default(storage, map_location.get(location, location))

    def restore(storage: torch.UntypedStorage, location: str) -> Any:
        moved = map_location(storage, location)
        return default(storage, location) if moved is None else moved

    return restore


class _Storages:
    """Gives the storage that a persistent id asks for, each key's once."""

    def __init__(self, map_location: Any) -> None:
        self._restore = restorer(map_location)
        self._loaded: Dict[str, Tuple[_Claim, Any]] = {}

    def _storage(self, claim: _Claim) -> torch.storage.TypedStorage:
        """Refuses to take the same bytes for two things."""
        if claim.key not in self._loaded:
            self._loaded[claim.key] = claim, self._load(claim)
        first, storage = self._loaded[claim.key]
        same = claim.nbytes == first.nbytes and (claim.dtype == first.dtype or claim.nbytes == 0)
        require(same, 'storage {} as two kinds or sizes', claim.key)
        return _wrap(storage, claim.dtype)

    def _load(self, claim: _Claim) -> Any:
        raise NotImplementedError


class ZipStorages(_Storages):
    """Storages of a zip file, each from its record.

    Args:
        records (ZipRecords): Those of the file.
        map_location: As of torch.load.
    """

    def __init__(self, records: ZipRecords, map_location: Any) -> None:
        super().__init__(map_location)
        self._records = records
        self._swap = _byte_order(records) != sys.byteorder

    def __call__(self, pid: Any) -> torch.storage.TypedStorage:
        """The storage that a persistent id asks for.

        Raises:
            CheckpointError: If the id is malformed, or its record is missing, of another size or
                damaged.
        """
        return self._storage(_claim_of(pid, 5))

    def _load(self, claim: _Claim) -> Any:
        name = f'data/{claim.key}'
        held = self._records.size(name) if name in self._records else None
        _check_held(claim, 'none' if held is None else held)
        # Not initialized: the record fills it, or nobody gets it.
        storage = torch.UntypedStorage(held, device='cpu')
        self._records.read_into(name, _bytes_of(storage))
        if self._swap:
            storage.byteswap(claim.dtype)
        return self._restore(storage, claim.location)


def _byte_order(records: ZipRecords) -> str:
    if 'byteorder' not in records:
        return 'little'
    order = records.read('byteorder')
    if order not in (b'little', b'big'):
        raise damaged(f'the byte order {brief(order)}')
    return order.decode()


class LegacyStorages(_Storages):
    """Storages of a legacy file: named by its pickle, filled afterwards.

    Args:
        size (int): Bytes of the file.
        map_location: As of torch.load.
    """

    def __init__(self, size: int, map_location: Any) -> None:
        super().__init__(map_location)
        self._size = size
        self._claimed = 0
        self._memory: Dict[str, torch.UntypedStorage] = {}

    def __call__(self, pid: Any) -> torch.storage.TypedStorage:
        """The storage that a persistent id asks for, zeros up to now.

        Raises:
            CheckpointError: If the id is malformed, or the file cannot hold its storage.
        """
        claim = _claim_of(pid, 6)
        whole = self._storage(claim)
        if claim.view is None:
            return whole
        _, offset, count = claim.view
        width = claim.dtype.itemsize
        part = whole._untyped_storage[offset * width : (offset + count) * width]
        return _wrap(part, claim.dtype)

    def _load(self, claim: _Claim) -> Any:
        self._claimed += claim.nbytes
        if self._claimed > self._size:
            raise CheckpointError(
                f'refuses to load: storages up to {brief(claim.key)} claim '
                f'{self._claimed} bytes, the file holds {self._size}'
            )
        zeros = torch.zeros(claim.nbytes, dtype=torch.uint8, device='cpu')
        memory = zeros.untyped_storage()
        self._memory[claim.key] = memory
        return self._restore(memory, claim.location)

    def fill(self, handle: BinaryIO, keys: Any) -> None:
        """Read all storages, which end the file, in the order of ``keys``.

        Raises:
            CheckpointError: If a storage is listed twice, not listed, listed but not in the pickle,
                of another size, or not the last thing in the file.
        """
        self._check_keys(keys)
        for key in keys:
            claim, storage = self._loaded[key]
            self._read(handle, claim)
            own = self._memory[key]
            is_done = storage.device.type == 'meta' or (storage.data_ptr() == own.data_ptr())
            if not is_done:
                storage.copy_(own)
        if handle.read(1):
            raise damaged('bytes are left over behind the last storage')

    def _check_keys(self, keys: Any) -> None:
        require(
            type(keys) is list and all(type(key) is str for key in keys),
            'a malformed list of storages',
        )
        differs = sorted(set(keys) ^ set(self._loaded))
        if differs or len(keys) != len(self._loaded):
            what = (
                f'{brief(differs[0])} is only in one of them' if differs else 'one is listed twice'
            )
            raise CheckpointError(
                f'refuses to load: the storages listed are not those of the pickle: {what}'
            )

    def _read(self, handle: BinaryIO, claim: _Claim) -> None:
        count = bytearray(8)
        read_fully(handle, memoryview(count))
        nbytes = int.from_bytes(count, 'little', signed=True) * claim.dtype.itemsize
        _check_held(claim, nbytes)
        read_fully(handle, _bytes_of(self._memory[claim.key]))


def _claim_of(pid: Any, length: int) -> _Claim:
    is_storage = (
        type(pid) is tuple
        and len(pid) == length
        and (type(pid[0]) in (str, bytes) and pid[0] in ('storage', b'storage'))
    )
    require(is_storage, 'the persistent id {}', pid)
    kind, key, location, numel = pid[1:5]
    require(isinstance(kind, StorageKind), 'a storage of {}', kind)
    require(
        type(key) is str and type(location) in (str, bytes) and is_sizes((numel,)),
        'a malformed storage',
    )
    view = pid[5] if length == 6 else None
    require(view is None or _is_view(view, numel), 'a malformed storage view')
    place = location if type(location) is str else location.decode('ascii')
    return _Claim(key, place, kind.dtype, numel * kind.dtype.itemsize, view)


def _is_view(view: Any, numel: int) -> bool:
    return (
        type(view) is tuple
        and len(view) == 3
        and type(view[0]) is str
        and is_sizes(view[1:])
        and view[1] + view[2] <= numel
    )


def _check_held(claim: _Claim, held: Any) -> None:
    if claim.nbytes != held:
        raise CheckpointError(
            f'refuses to load: storage {brief(claim.key)} claims '
            f'{claim.nbytes} bytes, the file holds {held}'
        )


def _wrap(storage: Any, dtype: torch.dtype) -> torch.storage.TypedStorage:
    # torch.load gives typed storages; made without _internal, they warn.
    return torch.storage.TypedStorage(wrap_storage=storage, dtype=dtype, _internal=True)


def _bytes_of(memory: torch.UntypedStorage) -> memoryview:
    """The storage's memory; once it was a numpy array's, torch would never
    resize it again."""
    nbytes = memory.nbytes()
    if not nbytes:
        return memoryview(bytearray())
    array = (ctypes.c_ubyte * nbytes).from_address(memory.data_ptr())
    return memoryview(array).cast('B')


def storage_kinds() -> Dict[Tuple[str, str], StorageKind]:
    """Names of storage classes in pickles, with what each holds."""
    dtypes = dict(
        Double=torch.float64,
        Float=torch.float32,
        Half=torch.float16,
        BFloat16=torch.bfloat16,
        Long=torch.int64,
        Int=torch.int32,
        Short=torch.int16,
        Char=torch.int8,
        Byte=torch.uint8,
        Bool=torch.bool,
        ComplexDouble=torch.complex128,
        ComplexFloat=torch.complex64,
    )
    names = {
        (module, f'{name}Storage'): dtype
        for name, dtype in dtypes.items()
        for module in ('torch', 'torch.cuda')
    }
    names['torch.storage', 'UntypedStorage'] = torch.uint8
    return {key: StorageKind('.'.join(key), dtype=dtype) for key, dtype in names.items()}
