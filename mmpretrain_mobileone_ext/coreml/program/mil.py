"""Read the operations of an ``mlprogram``."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ...errors import ProgramError
from . import constexpr
from .budget import Ledger
from .constants import Constants, TensorType, packed_as, tensor_type
from .graph import Block, Operation, Packed, Shape, Value

#: Far beyond any network for images; bounds what reading takes.
MAX_OPERATIONS = 20_000
#: Nested blocks of MIL's control flow; no other operation has any.
_BLOCKS = {'cond': 2, 'while_loop': 2}


class Interface(NamedTuple):
    """What the main function takes and returns: names to types."""

    inputs: Mapping[str, TensorType]
    outputs: Mapping[str, Optional[Shape]]


def read_operations(
    spec: Any, folder: Path, ledger: Ledger
) -> tuple[tuple[Operation, ...], Interface]:
    """Return the operations of an ``mlprogram`` specification.

    Args:
        spec (Model): Parsed ``CoreML.Specification.Model`` with an ``mlProgram`` inside.
        folder (Path): Folder of the specification file; weights are stored below it
            (``@model_path`` in the file).
        ledger (Ledger): Takes the bytes of constants.

    Returns:
        tuple: Operations in execution order, compressed weights
        (``constexpr_*``) as dense values; and the function's interface.

    Raises:
        ProgramError: If the package holds several functions or states, if a weights file is
            missing, too short or damaged, or if a value is read that nothing defines.
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
    reader = _Reader(Constants(folder / 'weights', ledger), inputs)
    return reader.operations(block), Interface(inputs, reader.outputs(block))


def _count(block: Any) -> int:
    """Operations and nested blocks, at any depth."""
    return len(block.operations) + sum(
        1 + _count(inner) for op in block.operations for inner in op.blocks
    )


class _Stored(NamedTuple):
    """A constant, or a reference to what is computed.

    Attributes:
        value: it.
        packed: how it lies in the file.
        parts: what it is made from, by its place in the file, in bytes: some are in several
            constants.
    """

    value: Any
    packed: Packed = Packed()
    parts: Mapping[str, int] = {}


class _Declared(NamedTuple):
    """What the program says of a result; no shape for what is no tensor."""

    dtype: str
    shape: Optional[Shape]


class _Reader:
    """Translates one block; knows the values that are defined so far.

    Args:
        constants: reads constants.
        inputs: names of what the block is called with, to their types.
        around: reader of the block around it.
    """

    def __init__(
        self,
        constants: Constants,
        inputs: Mapping[str, TensorType],
        around: Optional[_Reader] = None,
    ) -> None:
        self._constants = constants
        #: Of this block first, then of those around it.
        self._stored: ChainMap[str, _Stored] = around._stored.new_child() if around else ChainMap()
        self._known: ChainMap[str, _Declared] = around._known.new_child() if around else ChainMap()
        for name, item in inputs.items():
            self._known[name] = _Declared(item.kind.name, item.shape)

    def operations(self, block: Any) -> tuple[Operation, ...]:
        """All operations but constants, then constant outputs."""
        found = []
        for spec in block.operations:
            types = [_declared(output.type) for output in spec.outputs]
            if spec.type == 'const':
                self._define(spec, types, [self._constant(spec, types)])
            elif spec.type.startswith(constexpr.PREFIX):
                self._define(spec, types, self._decoded(spec))
            else:
                found.append(self._operation(spec, types))
                self._define(spec, types)
        return (*found, *self._constant_outputs(block))

    def outputs(self, block: Any) -> dict[str, Optional[Shape]]:
        """Names of the results and their declared shapes."""
        return {name: self._known[name].shape for name in block.outputs}

    def _define(
        self, spec: Any, types: Sequence[_Declared], stored: Optional[Sequence[_Stored]] = None
    ) -> None:
        """Make the results of one operation known, each name once."""
        if stored is not None and len(stored) != len(types):
            raise ProgramError(
                f'operation {spec.type!r} has {len(types)} results; allowed: {len(stored)}'
            )
        for index, output in enumerate(spec.outputs):
            if output.name in self._known:
                raise ProgramError(f'two values are named {output.name!r}')
            self._known[output.name] = types[index]
            if stored is not None:
                self._stored[output.name] = stored[index]

    def _attribute(self, spec: Any, name: str) -> Any:
        if name not in spec.attributes:
            raise ProgramError(f'operation {spec.type!r} has no {name!r}')
        return self._constants.read(spec.attributes[name])

    def _operation(self, spec: Any, types: Sequence[_Declared]) -> Operation:
        bound = {name: self._bind(argument) for name, argument in spec.inputs.items()}
        packed = {k: v.packed for k, v in bound.items() if v.packed.forms}
        compressed = {k: v.forms[-1] for k, v in packed.items()}
        return Operation(
            name=self._name(spec),
            type=spec.type,
            inputs={name: item.value for name, item in bound.items()},
            outputs=tuple(output.name for output in spec.outputs),
            dtypes=tuple(declared.dtype for declared in types),
            attributes={'compressed': compressed, 'packed': packed} if packed else {},
            shapes=tuple(declared.shape for declared in types),
            blocks=self._blocks(spec),
        )

    def _blocks(self, spec: Any) -> tuple[Block, ...]:
        wanted = _BLOCKS.get(spec.type, 0)
        if len(spec.blocks) != wanted:
            raise ProgramError(
                f'operation {spec.type!r} has {len(spec.blocks)} nested blocks; allowed: {wanted}'
            )
        return tuple(self._block(block) for block in spec.blocks)

    def _block(self, block: Any) -> Block:
        inputs = {item.name: tensor_type(item.type) for item in block.inputs}
        twice = [name for name in inputs if name in self._known]
        if twice or len(inputs) != len(block.inputs):
            raise ProgramError(f'two values are named {(twice or list(inputs))[0]!r}')
        inner = _Reader(self._constants, inputs, self)
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
            return self._value(binding.value)
        if binding.name not in self._known:
            raise ProgramError(f'an operation reads {binding.name!r}, which nothing defines')
        return self._stored.get(binding.name, _Stored(Value(binding.name)))

    def _decoded(self, spec: Any) -> list[_Stored]:
        """Dense results of a ``constexpr_*`` operation."""
        name = self._name(spec)
        stored = {n: self._value(v) for n, v in spec.attributes.items() if n != 'name'}
        for parameter, argument in spec.inputs.items():
            stored[parameter] = self._bind(argument)
            if isinstance(stored[parameter].value, Value):
                raise ProgramError(
                    f'{spec.type!r} reads {stored[parameter].value.name!r}, which is no constant'
                )
        inputs = {n: item.value for n, item in stored.items()}
        dense = constexpr.decode(spec.type, name, inputs, self._constants.ledger)
        parts = {
            part or f'{name}.{parameter}': size
            for parameter, item in stored.items()
            for part, size in item.parts.items()
        }
        packed = constexpr.packed(spec.type, inputs, {n: s.packed for n, s in stored.items()})
        packed = packed._replace(bytes=sum(parts.values()))
        return [_Stored(value, packed, parts) for value in dense]

    def _constant(self, spec: Any, types: Sequence[_Declared]) -> _Stored:
        value = self._attribute(spec, 'val')
        packed = packed_as(types[0].dtype if types else '', value)
        place = _place(spec.attributes['val']) or (spec.outputs[0].name if spec.outputs else '')
        return _Stored(value, packed, {place: packed.bytes})

    def _value(self, spec: Any) -> _Stored:
        """A constant that stands where it is used, without a name."""
        value = self._constants.read(spec)
        packed = packed_as(_declared(spec.type).dtype, value)
        return _Stored(value, packed, {_place(spec): packed.bytes})

    def _constant_outputs(self, block: Any) -> Iterator[Operation]:
        """Model outputs that no operation computes, as ``identity``."""
        for name in block.outputs:
            if name not in self._known:
                raise ProgramError(f'output {name!r} is never computed')
            if name in self._stored:
                yield Operation(
                    name=f'{name}_identity',
                    type='identity',
                    inputs={'x': self._stored[name].value},
                    outputs=(name,),
                    dtypes=(self._known[name].dtype,),
                )


def _place(value: Any) -> str:
    """Where a ``MIL.Value`` lies among the weights, '' for one in the specification."""
    if value.WhichOneof('value') != 'blobFileValue':
        return ''
    return f'{value.blobFileValue.fileName}@{value.blobFileValue.offset}'


def _declared(spec: Any) -> _Declared:
    kind = spec.WhichOneof('type')
    if kind == 'tensorType':
        tensor = tensor_type(spec)
        return _Declared(tensor.kind.name, tensor.shape)
    return _Declared('dictionary' if kind == 'dictionaryType' else str(kind), None)
