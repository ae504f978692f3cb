"""Decode an ``mlprogram``: its operations and the values in its blobs.

Read here rather than by coremltools, which evaluates every operation whose
inputs are constants as it reads, whatever its result takes.
"""

from __future__ import annotations

import math
import struct
from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ...errors import ProgramError
from . import constexpr
from .budget import Ledger
from .graph import Block, Operation, Value
from .package_files import inside, shortened

# MILBlob storage format: every blob has a 64-byte record at its offset, with
# sentinel, data type, bytes, start of the data, bits of padding.
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


class TensorType(NamedTuple):
    """Element type and sizes of a value; None for an unknown size."""

    kind: _Kind
    shape: tuple[Optional[int], ...]


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
    return TensorType(_KINDS[known.name], tuple(_size(d) for d in tensor.dimensions))


def _size(dimension: Any) -> Optional[int]:
    if dimension.WhichOneof('dimension') == 'constant':
        return int(dimension.constant.size)
    return None


class Constants:
    """Reads constants; what they take is written down in a ledger.

    Args:
        weights: folder of the weights files.
        ledger: takes the bytes of every array.
    """

    def __init__(self, weights: Path, ledger: Ledger):
        self._weights = weights
        self._ledger = ledger
        self._files: dict[str, np.ndarray] = {}
        self._blobs: dict[tuple[str, int], np.ndarray] = {}

    def read(self, value: Any) -> Any:
        """An array, a NumPy scalar, a str, or a tuple of a list's items.

        Args:
            value: a ``MIL.Value``.

        Raises:
            ProgramError: it is damaged, too large, or stored in an unknown
                way.
        """
        immediate = value.WhichOneof('value') == 'immediateValue'
        if immediate and value.immediateValue.WhichOneof('value') == 'list':
            items = value.immediateValue.list.values
            return tuple(_plain(self.read(item)) for item in items)
        kind, shape = tensor_type(value.type)
        count = self._count(shape)
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

    def _count(self, shape: tuple[Optional[int], ...]) -> int:
        sizes = [-1 if n is None else n for n in shape]
        if min(sizes, default=0) < 0:
            raise ProgramError(f'a constant has the shape {shape}')
        return math.prod(sizes)

    def _blob(self, value: Any, kind: _Kind, count: int) -> np.ndarray:
        if kind.blob is None:
            raise ProgramError(f'a weights file holds no {kind.name}')
        name = value.fileName.split('/')[-1]
        key = name, value.offset
        if key not in self._blobs:
            stored = self._stored(name, value.offset, kind)
            self._ledger.hold(count * np.dtype(kind.numpy).itemsize, f'a weight of {name}')
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
    """``count`` numbers of ``bits`` each, the lowest bit first."""
    if stored.size != -(-count * kind.bits // 8):
        raise ProgramError(f'{count} values of type {kind.name} are stored in {stored.size} bytes')
    if kind.bits >= 8:
        return stored.view(kind.numpy)
    stream = np.unpackbits(stored, count=count * kind.bits, bitorder='little')
    places = (1 << np.arange(kind.bits)).astype(np.uint8)
    numbers = stream.reshape(count, kind.bits) @ places
    if kind.numpy is np.int8:
        limit = 1 << (kind.bits - 1)
        return ((numbers.astype(np.int8) ^ limit) - limit).astype(np.int8)
    return numbers


def _plain(value: Any) -> Any:
    """Class labels are compared with str and int, not NumPy's scalars."""
    return value.item() if isinstance(value, np.generic) else value


#: Far beyond any network for images; bounds what reading takes.
MAX_OPERATIONS = 20_000

Shape = tuple[Optional[int], ...]


class Interface(NamedTuple):
    """What the main function takes and returns: names to types."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, Optional[Shape]]


class _Stored(NamedTuple):
    """A constant, and the operation it is compressed with ('' if none).

    Attributes:
        dtype: as declared, of constants with a name.
    """

    value: Any
    stored_as: str = ''
    dtype: str = ''


class _Variable(NamedTuple):
    """An input of a ``constexpr_*`` operation, as :mod:`.constexpr` asks."""

    val: Any
    op: Any = None


class _Compressed(NamedTuple):
    """A ``constexpr_*`` operation, as :mod:`.constexpr` asks."""

    op_type: str
    name: str
    inputs: Mapping[str, _Variable]


def read_operations(
    spec: Any, folder: Path, ledger: Ledger
) -> tuple[tuple[Operation, ...], Interface]:
    """Return the operations of an ``mlprogram`` specification.

    Args:
        spec (Model): Parsed ``CoreML.Specification.Model`` with an
            ``mlProgram`` inside.
        folder (Path): Folder of the specification file; weights are stored
            below it (``@model_path`` in the file).
        ledger (Ledger): Takes the bytes of constants.

    Returns:
        tuple: Operations in execution order, compressed weights
        (``constexpr_*``) as dense values; and the function's interface.

    Raises:
        ProgramError: If the package holds several functions or states, if
            a weights file is missing, too short or damaged, or if a value
            is read that nothing defines.
    """
    functions = spec.mlProgram.functions
    if len(functions) != 1:
        raise ProgramError(
            f'the package holds {len(functions)} functions '
            f'({", ".join(sorted(functions)[:9]) or "none"}); only packages '
            f'with exactly one are supported'
        )
    (function,) = functions.values()
    if function.opset not in function.block_specializations:
        raise ProgramError(f'the function has no block for its operation set {function.opset!r}')
    block = function.block_specializations[function.opset]
    count = _count(block)
    if count > MAX_OPERATIONS:
        raise ProgramError(f'the program has {count} operations; allowed: {MAX_OPERATIONS}')
    inputs = {item.name: tensor_type(item.type) for item in function.inputs}
    reader = _Reader(Constants(folder / 'weights', ledger), ledger, inputs)
    operations = reader.operations(block)
    return operations, Interface(inputs, reader.outputs(block))


def _count(block: Any) -> int:
    """Operations and nested blocks, at any depth."""
    return len(block.operations) + sum(
        1 + _count(inner) for op in block.operations for inner in op.blocks
    )


class _Reader:
    """Translates one block; knows the values that are defined so far."""

    def __init__(
        self,
        constants: Constants,
        ledger: Ledger,
        inputs: Mapping[str, TensorType],
        around: Optional[_Reader] = None,
    ) -> None:
        self._constants = constants
        self._ledger = ledger
        #: Of this block first, then of those around it.
        self._stored: ChainMap[str, _Stored] = ChainMap(
            {}, *(around._stored.maps if around else ())
        )
        self._shapes: ChainMap[str, Optional[Shape]] = ChainMap(
            {name: item.shape for name, item in inputs.items()},
            *(around._shapes.maps if around else ()),
        )

    def operations(self, block: Any) -> tuple[Operation, ...]:
        """All operations but constants, then constant outputs."""
        found = []
        for spec in block.operations:
            if spec.type == 'const':
                self._define(spec, [_Stored(self._attribute(spec, 'val'))])
            elif spec.type.startswith(constexpr.PREFIX):
                self._define(spec, self._decoded(spec))
            else:
                found.append(self._operation(spec))
                self._define(spec)
        return (*found, *self._constant_outputs(block))

    def outputs(self, block: Any) -> dict[str, Optional[Shape]]:
        """Names of the results and their declared shapes."""
        return {name: self._shapes[name] for name in block.outputs}

    def _define(self, spec: Any, stored: Optional[list[_Stored]] = None) -> None:
        """Make the results of one operation known, each name once."""
        if stored is not None and len(stored) != len(spec.outputs):
            raise ProgramError(
                f'operation {spec.type!r} has {len(spec.outputs)} results; allowed: {len(stored)}'
            )
        for index, output in enumerate(spec.outputs):
            if output.name in self._shapes:
                raise ProgramError(f'two values are named {output.name!r}')
            self._shapes[output.name] = _declared(output.type)
            if stored is not None:
                self._stored[output.name] = stored[index]._replace(dtype=_dtype(output.type))

    def _attribute(self, spec: Any, name: str) -> Any:
        if name not in spec.attributes:
            raise ProgramError(f'operation {spec.type!r} has no {name!r}')
        return self._constants.read(spec.attributes[name])

    def _operation(self, spec: Any) -> Operation:
        bound = {parameter: self._bind(argument) for parameter, argument in spec.inputs.items()}
        compressed = {k: v.stored_as for k, v in bound.items() if v.stored_as}
        return Operation(
            name=self._name(spec),
            type=spec.type,
            inputs={name: item.value for name, item in bound.items()},
            outputs=tuple(output.name for output in spec.outputs),
            dtypes=tuple(_dtype(output.type) for output in spec.outputs),
            attributes={'compressed': compressed} if compressed else {},
            shapes=tuple(_declared(output.type) for output in spec.outputs),
            blocks=tuple(self._block(block) for block in spec.blocks),
        )

    def _block(self, block: Any) -> Block:
        inputs = {item.name: tensor_type(item.type) for item in block.inputs}
        twice = [name for name in inputs if name in self._shapes]
        if twice or len(inputs) != len(block.inputs):
            raise ProgramError(f'two values are named {(twice or list(inputs))[0]!r}')
        inner = _Reader(self._constants, self._ledger, inputs, self)
        operations = inner.operations(block)
        return Block(tuple(inputs), operations, tuple(block.outputs))

    def _name(self, spec: Any) -> str:
        if 'name' in spec.attributes:
            return str(self._attribute(spec, 'name'))
        return spec.outputs[0].name if spec.outputs else spec.type

    def _bind(self, argument: Any) -> _Stored:
        """Resolve one parameter: constant, dense weights, reference, or several of them."""
        items = [self._bound(binding) for binding in argument.arguments]
        return items[0] if len(items) == 1 else _Stored(tuple(item.value for item in items))

    def _bound(self, binding: Any) -> _Stored:
        if binding.WhichOneof('binding') == 'value':
            return _Stored(self._constants.read(binding.value))
        if binding.name not in self._shapes:
            raise ProgramError(f'an operation reads {binding.name!r}, which nothing defines')
        return self._stored.get(binding.name, _Stored(Value(binding.name)))

    def _decoded(self, spec: Any) -> list[_Stored]:
        """Dense results of a ``constexpr_*`` operation."""
        named = {
            name: _Variable(self._constants.read(value))
            for name, value in spec.attributes.items()
            if name != 'name'
        }
        for name, argument in spec.inputs.items():
            value = self._bind(argument).value
            if isinstance(value, Value):
                raise ProgramError(f'{spec.type!r} reads {value.name!r}, which is no constant')
            named[name] = _Variable(value)
        op = _Compressed(spec.type, self._name(spec), named)
        return [_Stored(v, spec.type) for v in constexpr.decode(op, self._ledger)]

    def _constant_outputs(self, block: Any) -> Iterator[Operation]:
        """Model outputs that no operation computes, as ``identity``."""
        for name in block.outputs:
            if name not in self._shapes:
                raise ProgramError(f'output {name!r} is never computed')
            if name in self._stored:
                yield Operation(
                    name=f'{name}_identity',
                    type='identity',
                    inputs={'x': self._stored[name].value},
                    outputs=(name,),
                    dtypes=(self._stored[name].dtype,),
                )


def _dtype(spec: Any) -> str:
    kind = spec.WhichOneof('type')
    if kind == 'tensorType':
        return tensor_type(spec).kind.name
    return 'dictionary' if kind == 'dictionaryType' else str(kind)


def _declared(spec: Any) -> Optional[Shape]:
    """Sizes that the program declares; None for what is no tensor."""
    if spec.WhichOneof('type') != 'tensorType':
        return None
    return tensor_type(spec).shape
