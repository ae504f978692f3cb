"""torch.load without its ways around a restricted pickle reader.

Given a path, torch.load runs TorchScript archives and unpacks tar archives;
older versions also trust the storage sizes that a pickle claims. Each is
closed here, from one open file, so that the file checked is the file read.
"""
import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any, BinaryIO, Callable, Dict

import torch

from mmpretrain_mobileone_ext.errors import CheckpointError

from .restricted_pickle import pickle_module

_ZIP_MAGIC = b'PK\x03\x04'
_TAR_MAGIC = slice(257, 262)
_FORCED = 'TORCH_FORCE_WEIGHTS_ONLY_LOAD'


class _PlainFile(io.FileIO):
    """A file without a descriptor: torch then leaves its tar format alone."""

    def fileno(self) -> int:
        raise io.UnsupportedOperation('fileno')


def open_plain(path: Path) -> BinaryIO:
    """Open a file for :func:`restricted_load`."""
    return io.BufferedReader(_PlainFile(os.fspath(path), 'rb'))


def restricted_load(handle: BinaryIO, map_location: Any = 'cpu') -> Any:
    """torch.load, of data only.

    Args:
        handle (BinaryIO): A seekable stream at its start, with no file
            descriptor (see :func:`open_plain`, or ``io.BytesIO``).
        map_location: As of torch.load.

    Returns:
        The unpickled object: plain containers of tensors, numpy values,
        plain values and HistoryBuffers.

    Raises:
        CheckpointError: If the file asks for anything else, by name, or is
            of a format that can run code (TorchScript) or writes files (tar).
        Exception: Whatever torch raises for damaged files.
    """
    if os.getenv(_FORCED, '0').lower() in ('1', 'y', 'yes', 'true'):
        raise CheckpointError(
            f'{_FORCED} is set, so torch.load takes no reader but its own, '
            "which refuses mmengine's files; unset it: this one, too, loads "
            'data only')
    head = handle.read(512)
    size = handle.seek(0, os.SEEK_END)
    handle.seek(0)
    if head[_TAR_MAGIC] == b'ustar':
        raise CheckpointError(
            'refuses to load: a tar archive (torch < 0.1.10 format); save it '
            'again with torch.save')
    is_zip = head.startswith(_ZIP_MAGIC)
    if not is_zip and not head.startswith(pickle.PROTO):
        raise CheckpointError('not a readable checkpoint: neither a zip nor a '
                              'legacy file of torch.save')
    check = _zip_check(handle) if is_zip else _legacy_check(size)
    handle.seek(0)
    # weights_only stays unset: naming a pickle_module means False, and
    # torch < 1.13 would hand the option on to the unpickler.
    return torch.load(
        handle, map_location=map_location, pickle_module=pickle_module(check))


def _zip_check(handle: BinaryIO) -> Callable[[str, int], None]:
    # torch's own reader decides what is TorchScript, so ask the same one.
    names = torch._C.PyTorchFileReader(handle).get_all_records()
    code = [n for n in names if n == 'constants.pkl' or n.startswith('code/')]
    if code:
        raise CheckpointError(
            f'refuses to load: a TorchScript archive (it holds {code[0]!r}), '
            'which would run; save its state_dict() with torch.save')
    sizes = _record_sizes(handle)

    def check(key: str, nbytes: int) -> None:
        if nbytes > sizes.get(f'data/{key}', -1):
            raise CheckpointError(
                f'refuses to load: storage {key!r} claims {nbytes} bytes, '
                f'the file holds {sizes.get(f"data/{key}", "none")}')

    return check


def _record_sizes(handle: BinaryIO) -> Dict[str, int]:
    handle.seek(0)
    sizes: Dict[str, int] = {}
    with zipfile.ZipFile(handle) as archive:
        for record in archive.infolist():
            # Every record lies in one folder, named by whoever saved it.
            name = record.filename.partition('/')[2]
            if name in sizes:
                raise CheckpointError(
                    f'refuses to load: two records are named {name!r}')
            # torch.save stores; a packed record may be a bomb.
            if record.compress_type != zipfile.ZIP_STORED:
                raise CheckpointError(
                    f'refuses to load: record {name!r} is compressed')
            sizes[name] = record.file_size
    return sizes


def _legacy_check(size: int) -> Callable[[str, int], None]:
    claimed: Dict[str, int] = {}

    def check(key: str, nbytes: int) -> None:
        claimed[key] = max(nbytes, claimed.get(key, 0))
        if sum(claimed.values()) > size:
            raise CheckpointError(
                f'refuses to load: storages up to {key!r} claim '
                f'{sum(claimed.values())} bytes, the file holds {size}')

    return check
