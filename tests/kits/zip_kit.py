"""Zip files of torch.save, taken apart and put together again, wrongly."""

import io
import struct
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from typing import Optional

import torch


@dataclass
class Record:
    """One record; what its two headers say may differ from what it is."""

    name: str
    data: bytes
    crc: Optional[int] = None
    local_name: Optional[str] = None
    method: int = 0
    flags: int = 0
    size: Optional[int] = None
    packed: Optional[int] = None
    offset: Optional[int] = None

    def crc32(self):
        return zlib.crc32(self.data) if self.crc is None else self.crc


@dataclass
class Archive:
    records: list = field(default_factory=list)
    prefix: bytes = b''
    gap: bytes = b''
    suffix: bytes = b''
    comment: bytes = b''
    shift: int = 0
    entries: Optional[int] = None

    def change(self, name, **changes):
        """A copy in which one record differs."""
        return replace(
            self, records=[replace(r, **changes) if r.name == name else r for r in self.records]
        )

    def add(self, *records):
        return replace(self, records=[*self.records, *records])

    def bytes(self):
        body, directory = bytearray(self.prefix), bytearray()
        for record in self.records:
            directory += _entry(record, len(body))
            if record.offset is None:
                body += _local(record) + record.data
        start = len(body) + len(self.gap) + self.shift
        count = len(self.records) if self.entries is None else self.entries
        end = struct.pack(
            '<4s4H2LH', b'PK\5\6', 0, 0, count, count, len(directory), start, len(self.comment)
        )
        return bytes(body + self.gap + directory + end + self.comment + self.suffix)


def _local(record):
    name = (record.local_name or record.name).encode()
    return (
        struct.pack(
            '<4s5H3L2H',
            b'PK\3\4',
            20,
            record.flags,
            record.method,
            0,
            0,
            record.crc32(),
            len(record.data),
            len(record.data),
            len(name),
            0,
        )
        + name
    )


def _entry(record, offset):
    name = record.name.encode()
    size = len(record.data) if record.size is None else record.size
    packed = size if record.packed is None else record.packed
    offset = offset if record.offset is None else record.offset
    return (
        struct.pack(
            '<4s6H3L5H2L',
            b'PK\1\2',
            20,
            20,
            record.flags,
            record.method,
            0,
            0,
            record.crc32(),
            packed,
            size,
            len(name),
            0,
            0,
            0,
            0,
            0,
            offset,
        )
        + name
    )


def archive(value):
    """The records that torch.save writes for ``value``."""
    made = io.BytesIO()
    torch.save(value, made)
    with zipfile.ZipFile(made) as opened:
        return Archive([Record(info.filename, opened.read(info)) for info in opened.infolist()])
