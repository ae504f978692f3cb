"""Constants of an ``mlprogram``: element types, immediate values, and blobs in files.

Read here rather than by coremltools, which evaluates every operation whose inputs are constants as
it reads, whatever its result takes.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ...errors import ProgramError
from .budget import Ledger
from .graph import Packed, Shape
from .package_files import inside, shortened

# MILBlob storage format: every blob has a 64-byte record at its offset, with sentinel, data type,
# bytes, start of the data, bits of padding.
_RECORD = struct.Struct('<IIQQQ')
_RECORD_BYTES = 64
_SENTINEL = 0xDEADBEEF


class _Kind(NamedTuple):
    """One element type of MIL.

    Attributes:
        name: as coremltools spells it.
        numpy: type that holds it.
        field: of ``TensorValue``; 'bytes' are packed.
        blob: its number in a weights file, None where it has none.
        bits: of one element in a weights file or in bytes.
    """

    name: str
    numpy: type
    field: str
    blob: Optional[int] = None
    bits: int = 0


_KINDS = {
    'BOOL': _Kind('bool', np.bool_, 'bools'),
    'STRING': _Kind('string', np.str_, 'strings'),
    'FLOAT16': _Kind('fp16', np.float16, 'bytes', 1, 16),
    'FLOAT32': _Kind('fp32', np.float32, 'floats', 2, 32),
    'FLOAT64': _Kind('fp64', np.float64, 'doubles'),
    'UINT8': _Kind('uint8', np.uint8, 'bytes', 3, 8),
    'INT8': _Kind('int8', np.int8, 'bytes', 4, 8),
    'INT16': _Kind('int16', np.int16, 'ints', 6, 16),
    'UINT16': _Kind('uint16', np.uint16, 'ints', 7, 16),
    'INT4': _Kind('int4', np.int8, 'bytes', 8, 4),
    'UINT1': _Kind('uint1', np.uint8, 'bytes', 9, 1),
    'UINT2': _Kind('uint2', np.uint8, 'bytes', 10, 2),
    'UINT4': _Kind('uint4', np.uint8, 'bytes', 11, 4),
    'UINT3': _Kind('uint3', np.uint8, 'bytes', 12, 3),
    'UINT6': _Kind('uint6', np.uint8, 'bytes', 13, 6),
    'INT32': _Kind('int32', np.int32, 'ints', 14, 32),
    'UINT32': _Kind('uint32', np.uint32, 'bytes', 15, 32),
    'INT64': _Kind('int64', np.int64, 'longInts'),
    'UINT64': _Kind('uint64', np.uint64, 'longInts'),
}


_BITS = {kind.name: kind.bits or 8 * np.dtype(kind.numpy).itemsize for kind in _KINDS.values()}


def packed_as(dtype: str, value: Any) -> Packed:
    """How a dense constant of an element type ('uint4') lies in the file; texts count nothing."""
    bits = _BITS.get(dtype, 0)
    return Packed(bits=bits, bytes=-(-np.size(value) * bits // 8))


class TensorType(NamedTuple):
    """Element type and sizes of a value."""

    kind: _Kind
    shape: Shape


def tensor_type(spec: Any) -> TensorType:
    """Translate a ``MIL.ValueType`` that is a tensor.

    Raises:
        ProgramError: it is none, or of a type that MIL does not have.
    """
    if spec.WhichOneof('type') != 'tensorType':
        raise ProgramError(f'a value is a {spec.WhichOneof("type")}; allowed here: tensorType')
    tensor = spec.tensorType
    names = type(tensor).DESCRIPTOR.fields_by_name['dataType'].enum_type
    known = names.values_by_number.get(tensor.dataType)
    if known is None or known.name not in _KINDS:
        raise ProgramError(
            f'a tensor has data type {known.name if known else "unknown"}; '
            f'supported: {", ".join(_KINDS)}'
        )
    if tensor.rank != len(tensor.dimensions):
        raise ProgramError(
            f'a tensor of rank {tensor.rank} has {len(tensor.dimensions)} dimensions'
        )
    shape = (
        int(d.constant.size) if d.WhichOneof('dimension') == 'constant' else None
        for d in tensor.dimensions
    )
    return TensorType(_KINDS[known.name], tuple(shape))


class Constants:
    """Reads constants; what they take is written down in a ledger.

    Args:
        weights: folder of the weights files.
        ledger: takes the bytes of every array.
    """

    def __init__(self, weights: Path, ledger: Ledger):
        self.ledger = ledger
        self._weights = weights
        self._files: dict[str, np.ndarray] = {}
        self._blobs: dict[tuple[str, int], np.ndarray] = {}

    def read(self, value: Any) -> Any:
        """An array, a NumPy scalar, a str, or a tuple of a list's items.

        Args:
            value: a ``MIL.Value``.

        Raises:
            ProgramError: it is damaged, too large, or stored in an unknown way.
        """
        immediate = value.WhichOneof('value') == 'immediateValue'
        if immediate and value.immediateValue.WhichOneof('value') == 'list':
            items = value.immediateValue.list.values
            return tuple(_plain(self.read(item)) for item in items)
        kind, shape = tensor_type(value.type)
        sizes = [-1 if n is None else n for n in shape]
        if min(sizes, default=0) < 0:
            raise ProgramError(f'a constant has the shape {shape}')
        count = math.prod(sizes)
        flat = (
            _immediate(value.immediateValue, kind, count)
            if immediate
            else self._blob(value.blobFileValue, kind, count)
        )
        if flat.size != count:
            raise ProgramError(f'a constant of shape {shape} has {flat.size} values')
        if shape:
            return flat.reshape(shape)
        return str(flat[0]) if kind.name == 'string' else flat[0]

    def _blob(self, value: Any, kind: _Kind, count: int) -> np.ndarray:
        if kind.blob is None:
            raise ProgramError(f'a weights file holds no {kind.name}')
        name = value.fileName.split('/')[-1]
        key = name, value.offset
        if key not in self._blobs:
            stored = self._stored(name, value.offset, kind)
            self.ledger.hold(count * np.dtype(kind.numpy).itemsize, f'a weight of {name}')
            # A copy: the file may go, and arrays want aligned memory.
            self._blobs[key] = _unpacked(stored.copy(), kind, count)
        return self._blobs[key]

    def _stored(self, name: str, offset: int, kind: _Kind) -> np.ndarray:
        """Bytes of one blob, by the record at ``offset``."""
        file = self._file(name)
        path = self._weights / name
        record = file[offset : offset + _RECORD.size].tobytes()
        needed = offset + _RECORD_BYTES
        if len(record) == _RECORD.size:
            sentinel, blob, length, start, _ = _RECORD.unpack(record)
            if sentinel != _SENTINEL:
                raise ProgramError(f'the weights file {path} is damaged: no blob at byte {offset}')
            needed = max(needed, start + length)
        if file.size < needed:
            raise ProgramError(
                f'the weights file {path} is truncated: {file.size} bytes, '
                f'the program needs at least {needed}'
            )
        if blob != kind.blob:
            raise ProgramError(
                f'the weights file {path} is damaged: the blob at byte '
                f'{offset} has data type {blob}, the program says {kind.name}'
            )
        return file[start : start + length]

    def _file(self, name: str) -> np.ndarray:
        """A weights file, mapped: only what is used is read."""
        if name not in self._files:
            path = inside(self._weights, name)
            if path is None or not path.is_file():
                raise ProgramError(
                    f'the weights file {shortened(str(self._weights / name))} is missing'
                )
            # An empty file cannot be mapped.
            self._files[name] = (
                np.memmap(path, np.uint8, 'r') if path.stat().st_size else np.zeros(0, np.uint8)
            )
        return self._files[name]


def _immediate(value: Any, kind: _Kind, count: int) -> np.ndarray:
    """Values that stand in the specification, flat."""
    if value.WhichOneof('value') != 'tensor':
        raise ProgramError(
            f'a constant is a {value.WhichOneof("value")}; supported: tensor and list'
        )
    field = value.tensor.WhichOneof('value')
    if field is None and count == 0:
        return np.zeros(0, kind.numpy)
    if field != kind.field:
        raise ProgramError(
            f'a constant of type {kind.name} is stored in {field}; allowed: {kind.field}'
        )
    values = getattr(value.tensor, field).values
    if field == 'bytes':
        return _unpacked(np.frombuffer(values, np.uint8), kind, count)
    return np.array(values).astype(kind.numpy)


def _unpacked(stored: np.ndarray, kind: _Kind, count: int) -> np.ndarray:
    if stored.size != -(-count * kind.bits // 8):
        raise ProgramError(f'{count} values of type {kind.name} are stored in {stored.size} bytes')
    if kind.bits >= 8:
        return stored.view(kind.numpy)
    numbers = from_bits(stored, kind.bits, count)
    if kind.numpy is np.int8:
        limit = 1 << (kind.bits - 1)
        return ((numbers.astype(np.int8) ^ limit) - limit).astype(np.int8)
    return numbers


def from_bits(stored: np.ndarray, bits: int, count: int) -> np.ndarray:
    """``count`` numbers of 1 to 8 bits from bytes, the lowest bit first."""
    stream = np.unpackbits(stored, count=count * bits, bitorder='little')
    places = (1 << np.arange(bits)).astype(np.uint8)
    return stream.reshape(count, bits) @ places


def _plain(value: Any) -> Any:
    """Class labels are compared with str and int, not NumPy's scalars."""
    return value.item() if isinstance(value, np.generic) else value
