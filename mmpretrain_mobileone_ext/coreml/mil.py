"""Read the operations of an ``mlprogram`` (the MIL inside a package)."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import ProgramError
from . import constexpr, quiet
from .graph import Operation, Value

# MILBlob storage format: every blob has a 64-byte record at its offset.
_BLOB_RECORD = struct.Struct('<IIQQ')
_BLOB_SENTINEL = 0xDEADBEEF


class _Binding(NamedTuple):
    """A resolved parameter and how its weights are stored ('' if plain)."""

    value: Any
    stored_as: str = ''


def read_operations(spec: Any, folder: Path) -> tuple[Operation, ...]:
    """Return the operations of an ``mlprogram`` specification.

    Args:
        spec (Model): Parsed ``CoreML.Specification.Model`` with an
            ``mlProgram`` inside.
        folder (Path): Folder of the specification file; weights are stored
            below it (``@model_path`` in the file).

    Returns:
        tuple[Operation, ...]: In execution order. Compressed weights
        (``constexpr_*``) are replaced by their dense values.

    Raises:
        ProgramError: If the package holds several functions or states, or
            if a weights file is missing or too short.
    """
    functions = spec.mlProgram.functions
    if len(functions) != 1:
        raise ProgramError(
            f'the package holds {len(functions)} functions '
            f'({", ".join(sorted(functions)) or "none"}); only packages '
            f'with exactly one are supported'
        )
    _check_weights(spec, folder)
    load = quiet.module('coremltools.converters.mil.frontend.milproto.load')
    program = load.load(spec, spec.specificationVersion, _weights_dir(folder))
    (function,) = program.functions.values()
    operations = [
        _operation(op)
        for op in function.operations
        if op.op_type != 'const'
        and not op.op_type.startswith(constexpr.PREFIX)
    ]
    operations += _constant_outputs(function)
    return tuple(operations)


def _weights_dir(folder: Path) -> str:
    return str(folder / 'weights')


def _operation(op: Any) -> Operation:
    """Translate one pymil operation."""
    bound = {
        name: _bind(value)
        for name, value in op.inputs.items()
        if value is not None
    }
    compressed = {k: v.stored_as for k, v in bound.items() if v.stored_as}
    return Operation(
        name=op.name,
        type=op.op_type,
        inputs={name: binding.value for name, binding in bound.items()},
        outputs=tuple(var.name for var in op.outputs),
        dtypes=tuple(_dtype(var) for var in op.outputs),
        attributes={'compressed': compressed} if compressed else {},
    )


def _bind(value: Any) -> _Binding:
    """Resolve one parameter: constant, dense weights, or reference."""
    if isinstance(value, (list, tuple)):
        return _Binding(tuple(_bind(item).value for item in value))
    if value.op is None:
        return _Binding(Value(value.name))
    if value.op.op_type == 'const':
        return _Binding(_constant(value.val))
    if value.op.op_type.startswith(constexpr.PREFIX):
        dense = constexpr.decode(value.op)[value.op_output_idx]
        return _Binding(dense, value.op.op_type)
    return _Binding(Value(value.name))


def _constant(value: Any) -> Any:
    """Unwrap MIL's list of class labels; leave other constants alone."""
    items = getattr(value, 'ls', value)
    if not isinstance(items, (list, tuple)):
        return items
    # Labels are NumPy scalars here; users compare them with str and int.
    return tuple(getattr(item, 'item', lambda i=item: i)() for item in items)


def _dtype(var: Any) -> str:
    types = quiet.module('coremltools.converters.mil.mil.types')
    if types.is_dict(var.sym_type):
        return 'dictionary'
    return str(types.builtin_to_string(var.dtype))


def _constant_outputs(function: Any) -> Iterator[Operation]:
    """Model outputs that no operation computes, as ``identity``."""
    for var in function.outputs:
        bound = None if var.op is None else _bind(var)
        if bound is not None and not isinstance(bound.value, Value):
            yield Operation(
                name=f'{var.name}_identity',
                type='identity',
                inputs={'x': bound.value},
                outputs=(var.name,),
                dtypes=(_dtype(var),),
            )


def _check_weights(spec: Any, folder: Path) -> None:
    """Check that every weight lies inside its file.

    The native reader maps the file into memory and may kill the process on
    a short file, so the extents are verified first.
    """
    files: dict[str, Path] = {}
    for blob in _blobs(spec.mlProgram):
        name = blob.fileName.split('/')[-1]
        path = files.setdefault(name, Path(_weights_dir(folder)) / name)
        if not path.is_file():
            raise ProgramError(f'the weights file {path} is missing')
        _check_blob(path, blob.offset)


def _check_blob(path: Path, offset: int) -> None:
    """Check one blob record and the extent of the data it points to."""
    size = path.stat().st_size
    with path.open('rb') as stream:
        stream.seek(offset)
        record = stream.read(_BLOB_RECORD.size)
    needed = offset + 64
    if len(record) == _BLOB_RECORD.size:
        sentinel, _, length, start = _BLOB_RECORD.unpack(record)
        if sentinel != _BLOB_SENTINEL:
            raise ProgramError(
                f'the weights file {path} is damaged: no blob at byte '
                f'{offset}'
            )
        needed = max(needed, start + length)
    if size < needed:
        raise ProgramError(
            f'the weights file {path} is truncated: {size} bytes, the '
            f'program needs at least {needed}'
        )


def _blobs(program: Any) -> Iterator[Any]:
    """Yield every reference to a weights file in a MIL program."""
    for function in program.functions.values():
        for block in function.block_specializations.values():
            yield from _block_blobs(block)


def _block_blobs(block: Any) -> Iterator[Any]:
    for op in block.operations:
        values = [*op.attributes.values()]
        for argument in op.inputs.values():
            values += [binding.value for binding in argument.arguments]
        for value in values:
            if value.WhichOneof('value') == 'blobFileValue':
                yield value.blobFileValue
        for inner in op.blocks:
            yield from _block_blobs(inner)
