"""Checkpoints of torch.save, read without torch.load.

Both formats, zip and legacy, are read here from one open file; torch gets
bytes only, so no version of it has a say in what a file may do. Refused are
the formats that run code (TorchScript) or write files (tar).
"""
import io
import os
import pickle
from typing import Any, BinaryIO

import torch

from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.explain import is_out_of_memory

from .load_budget import Budget
from .restricted_pickle import RestrictedUnpickler
from .storages import LegacyStorages, ZipStorages
from .zip_records import ZipRecords, damaged

_ZIP_MAGIC = b'PK\x03\x04'
_TAR_MAGIC = slice(257, 262)
_PICKLE = 'data.pkl'


def restricted_load(handle: BinaryIO, map_location: Any = 'cpu') -> Any:
    """What torch.load gives, of data only.

    Args:
        handle (BinaryIO): A seekable binary file or ``io.BytesIO``; all of it
            is the checkpoint.
        map_location: As of torch.load.

    Returns:
        The unpickled object: plain containers of tensors, numpy values,
        plain values and HistoryBuffers. Storages are shared as in the file.

    Raises:
        CheckpointError: If the file asks for anything else, by name; builds
            more than its size allows; is of a format that can run code or
            writes files; or is not whole (a zip's records have a CRC-32).
    """
    try:
        return _load(handle, map_location)
    except CheckpointError:
        raise
    # Hostile bytes reach much of numpy and torch: any error is the file's,
    # but for memory, which torch's allocator reports as a RuntimeError.
    except Exception as error:
        if is_out_of_memory(error):
            raise CheckpointError(
                'not enough memory for the checkpoint') from None
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise damaged(reason[:300]) from error


def _load(handle: BinaryIO, map_location: Any) -> Any:
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    head = handle.read(512)
    handle.seek(0)
    if head[_TAR_MAGIC] == b'ustar':
        raise CheckpointError(
            'refuses to load: a tar archive (torch < 0.1.10 format); save it '
            'again with torch.save')
    if head.startswith(_ZIP_MAGIC):
        return _load_zip(handle, size, map_location)
    if head.startswith(pickle.PROTO):
        return _load_legacy(handle, size, map_location)
    raise damaged('neither a zip nor a legacy file of torch.save')


def _load_zip(handle: BinaryIO, size: int, map_location: Any) -> Any:
    records = ZipRecords(handle)
    code = [name for name in records
            if name == 'constants.pkl' or name.startswith('code/')]
    if code:
        raise CheckpointError(
            f'refuses to load: a TorchScript archive (it holds {code[0]!r}), '
            'which would run; save its state_dict() with torch.save')
    pickled = io.BytesIO(records.read(_PICKLE))
    budget = Budget(records.size(_PICKLE), size)
    storages = ZipStorages(records, map_location)
    return RestrictedUnpickler(pickled, budget, storages).load()


def _load_legacy(handle: BinaryIO, size: int, map_location: Any) -> Any:
    """Magic number, version and system; the object; keys and storages."""
    budget = Budget(size, size)
    for known in (torch.serialization.MAGIC_NUMBER,
                  torch.serialization.PROTOCOL_VERSION):
        found = RestrictedUnpickler(handle, budget).load()
        if type(found) is not int or found != known:
            raise damaged('not the magic number or version of torch.save')
    # The system of whoever saved it: storages are little endian all the same.
    RestrictedUnpickler(handle, budget).load()
    storages = LegacyStorages(size, map_location)
    loaded = RestrictedUnpickler(handle, budget, storages).load()
    storages.fill(handle, RestrictedUnpickler(handle, budget).load())
    return loaded
