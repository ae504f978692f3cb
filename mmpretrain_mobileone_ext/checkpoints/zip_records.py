"""The one reader of a zip checkpoint's records.

Two readers of one zip file need not see the same records: another directory, two names that one of
them takes for the same, sizes in two places. So a checkpoint is read by this reader alone, which
refuses whatever torch.save never writes, and torch gets bytes, not the file.
"""

import os
import struct
import zipfile
import zlib
from contextlib import contextmanager
from typing import Any, BinaryIO, Dict, Iterator, Tuple

from ..errors import CheckpointError
from ..utils.explain import is_out_of_memory
from ..utils.text import one_line
from .rebuild import brief

_END = struct.Struct('<4s4H2LH')
_LOCATOR = struct.Struct('<4sLQL')
_END64 = struct.Struct('<4sQ2H2L4Q')
_LOCAL = struct.Struct('<4s5H3L2H')
_TAIL = _END64.size + _LOCATOR.size + _END.size
#: About 90 bytes an entry, so about 90 000 records: 8 MiB.
_DIRECTORY = 8 << 20
_ENCRYPTED = 0x1
_UTF8 = 0x800


def damaged(what: str) -> CheckpointError:
    """The error for a file that is not whole."""
    return CheckpointError(
        f'not a readable checkpoint (truncated, damaged or another format): {what}'
    )


@contextmanager
def reading() -> Iterator[None]:
    """Raise what goes wrong inside as a CheckpointError.

    Hostile bytes reach much of numpy and torch: any error is the file's, but for memory, which
    torch's allocator reports as a RuntimeError.
    """
    try:
        yield
    except CheckpointError:
        raise
    except Exception as error:
        if is_out_of_memory(error):
            raise CheckpointError('not enough memory for the checkpoint') from None
        raise damaged(one_line(error)) from error


class ZipRecords:
    """Records by their names without the folder that they all lie in.

    Args:
        handle (BinaryIO): A seekable file that starts with a zip's magic.

    Raises:
        CheckpointError: If the file is not laid out as torch.save does, or two records overlap or
            have the same name.
    """

    def __init__(self, handle: BinaryIO) -> None:
        self._handle = handle
        start, entries = _directory(handle)
        with zipfile.ZipFile(handle) as archive:
            infos = archive.infolist()
            # start_dir: where the reader of the standard library found it.
            if archive.start_dir != start or not len(infos) == entries > 0:
                raise damaged(
                    'the zip directory is not where, or as long as, the end of the file says'
                )
        self._infos = _by_name(infos)
        self._starts = _starts(handle, infos, start)

    def __iter__(self) -> Any:
        return iter(self._infos)

    def __contains__(self, name: str) -> bool:
        return name in self._infos

    def size(self, name: str) -> int:
        """Bytes of a record.

        Raises:
            CheckpointError: If there is none of that name, or it is packed.
        """
        if name not in self._infos:
            raise damaged(f'the record {brief(name)} is missing')
        info = self._infos[name]
        # torch.save stores; a packed record may be a bomb.
        if info.compress_type != zipfile.ZIP_STORED or (info.flag_bits & _ENCRYPTED):
            raise CheckpointError(f'refuses to load: record {brief(name)} is compressed')
        return info.file_size

    def read(self, name: str) -> bytes:
        """A record, checked against its CRC-32.

        Raises:
            CheckpointError: If it is missing, short or damaged.
        """
        data = bytearray(self.size(name))
        self.read_into(name, memoryview(data))
        return bytes(data)

    def read_into(self, name: str, target: memoryview) -> None:
        """Fill ``target``, of the record's size, with the record.

        Raises:
            CheckpointError: If it is missing, short or damaged.
        """
        if len(target) != self.size(name):
            raise damaged(f'the record {brief(name)} has another size')
        self._handle.seek(self._starts[name])
        read_fully(self._handle, target)
        if zlib.crc32(target) != self._infos[name].CRC:
            raise damaged(f'the record {brief(name)} does not have its CRC-32')


def read_fully(handle: BinaryIO, target: memoryview) -> None:
    """Fill ``target`` from the file, whole.

    Raises:
        CheckpointError: If the file ends before.
    """
    if handle.readinto(target) != len(target):  # type: ignore[attr-defined]
        raise damaged('the file ends within a record')


def _read_at(handle: BinaryIO, offset: int, count: int) -> bytes:
    data = bytearray(count)
    handle.seek(offset)
    read_fully(handle, memoryview(data))
    return bytes(data)


def _directory(handle: BinaryIO) -> Tuple[int, int]:
    """Where the directory starts and how many entries it claims to have.

    It lies between the records and the end record, which is the file's end.
    """
    size = handle.seek(0, os.SEEK_END)
    if size < _END.size:
        raise damaged('no end of a zip file')
    end = size - _END.size
    magic, disk, first, here, entries, length, start, comment = _END.unpack(
        _read_at(handle, end, _END.size)
    )
    if (magic, disk, first, comment) != (b'PK\x05\x06', 0, 0, 0):
        raise damaged('no end of a zip file')
    if size >= _TAIL:
        short = (here, entries, length, start)
        end, (here, entries, length, start) = _directory64(handle, size, short)
    if here != entries or start + length != end:
        raise damaged('the zip directory is not where the end of the file says')
    if length > _DIRECTORY:
        raise CheckpointError(
            f'refuses to load: a zip directory of {length} bytes; at most {_DIRECTORY} are read'
        )
    return start, entries


def _directory64(handle: BinaryIO, size: int, short: tuple) -> tuple:
    """The same from the 64-bit end record, if there is one before."""
    tail = _read_at(handle, size - _TAIL, _TAIL)
    magic, disk, offset, disks = _LOCATOR.unpack_from(tail, _END64.size)
    if magic != b'PK\x06\x07':
        return size - _END.size, short
    end = _END64.unpack_from(tail)
    long = end[6:]
    limits = (0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF)
    if (
        (disk, disks, offset) != (0, 1, size - _TAIL)
        or (end[0], end[4], end[5]) != (b'PK\x06\x06', 0, 0)
        or any(s not in (n, most) for s, n, most in zip(short, long, limits))
    ):
        raise damaged('two ends of a zip file that differ')
    return size - _TAIL, long


def _by_name(infos: list) -> Dict[str, zipfile.ZipInfo]:
    found: Dict[str, zipfile.ZipInfo] = {}
    folder, folded = infos[0].filename.partition('/')[0], set()
    for info in infos:
        above, slash, name = info.filename.partition('/')
        if above != folder or not slash or info.orig_filename != info.filename:
            raise CheckpointError(
                f'refuses to load: the record {brief(info.orig_filename)} '
                f'does not lie in the folder {brief(folder)}'
            )
        # Some readers tell names apart by case, some do not.
        if name.casefold() in folded:
            raise CheckpointError(f'refuses to load: two records are named {brief(name)}')
        folded.add(name.casefold())
        found[name] = info
    return found


def _starts(handle: BinaryIO, infos: list, directory: int) -> Dict[str, int]:
    """Where each record's bytes start; the records fill the file in turn."""
    starts, free = {}, 0
    for info in sorted(infos, key=lambda info: info.header_offset):
        if info.header_offset < free or (free == 0 and info.header_offset):
            raise CheckpointError(
                f'refuses to load: the record {brief(info.filename)} overlaps '
                'another, or something lies before it'
            )
        start = _data_start(handle, info)
        free = start + info.compress_size
        is_stored = info.compress_type == zipfile.ZIP_STORED
        if free > directory or (is_stored and info.file_size != info.compress_size):
            raise damaged(f'the record {brief(info.filename)} is larger than its place in the file')
        starts[info.filename.partition('/')[2]] = start
    return starts


def _data_start(handle: BinaryIO, info: zipfile.ZipInfo) -> int:
    encoding = 'utf-8' if info.flag_bits & _UTF8 else 'cp437'
    name = info.orig_filename.encode(encoding)
    data = _read_at(handle, info.header_offset, _LOCAL.size + len(name))
    local = _LOCAL.unpack_from(data)
    if (local[0], local[3]) != (b'PK\x03\x04', info.compress_type) or (
        local[9] != len(name) or data[_LOCAL.size :] != name
    ):
        raise damaged(f'the record {brief(info.filename)} is not where the zip directory says')
    return info.header_offset + len(data) + local[10]
