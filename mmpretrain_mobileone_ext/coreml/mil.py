"""Read the operations of an ``mlprogram`` (the MIL inside a package)."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..errors import ProgramError
from . import constexpr
from .budget import Ledger
from .graph import Block, Operation, Value
from .mil_values import Constants, TensorType, tensor_type

#: Far beyond any network for images; bounds what reading takes.
MAX_OPERATIONS = 20_000

# How many nested blocks an operation has; others have none.
_BLOCKS = {'cond': 2, 'while_loop': 2}
# Parameters that are lists of values, even of one.
_LISTS = ('values', 'loop_vars')

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
        raise ProgramError(
            f'the function has no block for its operation set '
            f'{function.opset!r}'
        )
    block = function.block_specializations[function.opset]
    count = _count(block)
    if count > MAX_OPERATIONS:
        raise ProgramError(
            f'the program has {count} operations; allowed: {MAX_OPERATIONS}'
        )
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

    def _define(
        self, spec: Any, stored: Optional[list[_Stored]] = None
    ) -> None:
        """Make the results of one operation known, each name once."""
        if stored is not None and len(stored) != len(spec.outputs):
            raise ProgramError(
                f'operation {spec.type!r} has {len(spec.outputs)} results; '
                f'allowed: {len(stored)}'
            )
        for index, output in enumerate(spec.outputs):
            if output.name in self._shapes:
                raise ProgramError(f'two values are named {output.name!r}')
            self._shapes[output.name] = _declared(output.type)
            if stored is not None:
                self._stored[output.name] = stored[index]._replace(
                    dtype=_dtype(output.type)
                )

    def _attribute(self, spec: Any, name: str) -> Any:
        if name not in spec.attributes:
            raise ProgramError(f'operation {spec.type!r} has no {name!r}')
        return self._constants.read(spec.attributes[name])

    def _operation(self, spec: Any) -> Operation:
        bound = {
            parameter: self._bind(parameter, argument)
            for parameter, argument in spec.inputs.items()
        }
        compressed = {k: v.stored_as for k, v in bound.items() if v.stored_as}
        return Operation(
            name=self._name(spec),
            type=spec.type,
            inputs={name: item.value for name, item in bound.items()},
            outputs=tuple(output.name for output in spec.outputs),
            dtypes=tuple(_dtype(output.type) for output in spec.outputs),
            attributes={'compressed': compressed} if compressed else {},
            shapes=tuple(_declared(output.type) for output in spec.outputs),
            blocks=self._blocks(spec),
        )

    def _blocks(self, spec: Any) -> tuple[Block, ...]:
        wanted = _BLOCKS.get(spec.type, 0)
        if len(spec.blocks) != wanted:
            raise ProgramError(
                f'operation {spec.type!r} has {len(spec.blocks)} nested '
                f'blocks; allowed: {wanted}'
            )
        return tuple(self._block(block) for block in spec.blocks)

    def _block(self, block: Any) -> Block:
        inputs = {item.name: tensor_type(item.type) for item in block.inputs}
        twice = [name for name in inputs if name in self._shapes]
        if twice or len(inputs) != len(block.inputs):
            raise ProgramError(
                f'two values are named {(twice or list(inputs))[0]!r}'
            )
        inner = _Reader(self._constants, self._ledger, inputs, self)
        operations = inner.operations(block)
        return Block(tuple(inputs), operations, tuple(block.outputs))

    def _name(self, spec: Any) -> str:
        if 'name' in spec.attributes:
            return str(self._attribute(spec, 'name'))
        return spec.outputs[0].name if spec.outputs else spec.type

    def _bind(self, parameter: str, argument: Any) -> _Stored:
        """Resolve one parameter: constant, dense weights, or reference."""
        items = [self._bound(binding) for binding in argument.arguments]
        if parameter not in _LISTS and len(items) == 1:
            return items[0]
        return _Stored(tuple(item.value for item in items))

    def _bound(self, binding: Any) -> _Stored:
        if binding.WhichOneof('binding') == 'value':
            return _Stored(self._constants.read(binding.value))
        if binding.name not in self._shapes:
            raise ProgramError(
                f'an operation reads {binding.name!r}, which nothing defines'
            )
        return self._stored.get(binding.name, _Stored(Value(binding.name)))

    def _decoded(self, spec: Any) -> list[_Stored]:
        """Dense results of a ``constexpr_*`` operation."""
        named = {
            name: _Variable(self._constants.read(value))
            for name, value in spec.attributes.items()
            if name != 'name'
        }
        for name, argument in spec.inputs.items():
            value = self._bind(name, argument).value
            if isinstance(value, Value):
                raise ProgramError(
                    f'{spec.type!r} reads {value.name!r}, which is no '
                    f'constant'
                )
            named[name] = _Variable(value)
        op = _Compressed(spec.type, self._name(spec), named)
        return [_Stored(v, spec.type)
                for v in constexpr.decode(op, self._ledger)]

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
