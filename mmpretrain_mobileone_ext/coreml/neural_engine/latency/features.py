"""What an estimate of time knows of a file: one record a layer, made of its program.

A layer is an operation that moves or computes something. Whether it costs a pass of its own over
its map is decided here: a function of one map, whose operand nobody else reads, is computed at the
output of what makes that map (S. H. Bryngelson, "Apple Neural Engine", arXiv 2606.22283, ch. 13 and
20).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional

import numpy as np

from ....errors import ProgramError
from ...program.graph import Operation, Program, Value, sources, walk
from ...runtime.engine.chips import BYTES, CHIPS, Chip
from ..shapes import with_shapes
from ..view import numbers
from ..weights import weights_of

Shape = tuple[int, ...]

#: Bytes of a number on the engine, which computes in fp16.
FP16 = BYTES
#: Of the program's inputs, where a layer says what it reads.
INPUT = -1

#: Functions of one map; those that the engine looks up in a table of 33 knots.
TABLES = frozenset(
    (
        *('gelu', 'sigmoid', 'tanh', 'silu', 'elu', 'softplus', 'softplus_parametric'),
        *('erf', 'exp', 'exp2', 'log', 'rsqrt', 'sqrt', 'inverse', 'sin', 'cos'),
        *('softsign',),
    )
)
_EXACT = frozenset(
    (
        *('relu', 'relu6', 'clip', 'leaky_relu', 'prelu', 'sigmoid_hard'),
        *('thresholded_relu', 'abs', 'clamped_relu', 'scaled_tanh', 'linear_activation'),
        *('square', 'sign', 'batch_norm'),
    )
)
_ARITHMETIC = frozenset(
    (
        *('add', 'sub', 'mul', 'real_div', 'maximum', 'minimum', 'pow', 'floor_div'),
        *('mod', 'select', 'equal', 'not_equal', 'greater', 'greater_equal', 'less'),
        *('less_equal', 'logical_and'),
    )
)
_NORMS = frozenset(('layer_norm', 'instance_norm', 'l2_norm', 'local_response_norm'))
#: Change what a map is called, not where its numbers lie.
_FREE = frozenset(
    (
        *('reshape', 'squeeze', 'expand_dims', 'flatten2d', 'identity', 'cast'),
        *('classify', 'shape', 'quantize', 'dequantize', 'fill', 'range_1d'),
    )
)
#: Change where a map begins in memory: what writes or reads it does so at another address.
_ADDRESSED = frozenset(
    (*('concat', 'split', 'slice_by_index', 'slice_by_size', 'pad', 'stack', 'crop'),)
)
_CONVOLUTIONS = frozenset(('conv', 'conv_transpose'))
_PRODUCTS = frozenset(('matmul', 'einsum', 'scaled_dot_product_attention'))
#: Parameters that come first among the maps that a layer reads.
_FIRST = ('x', 'query', 'key')


@dataclass(frozen=True)
class Layer:
    """One operation, as far as its time depends on it.

    Attributes:
        name: of the operation in the file.
        type: MIL operation type.
        kind: 'conv', 'depthwise', 'linear', 'matmul', 'pool', 'reduce' (over a whole map),
            'function' (of one map), 'arithmetic' (of several), 'norm', 'softmax', 'move' (the same
            numbers in another order), 'address' (in the same order elsewhere), 'free'.
        inputs: shapes of the maps it reads, constants left out.
        outputs: shapes of what it makes.
        reads: places in the list of the layers that make the inputs, :data:`INPUT` for the
            program's.
        macs: multiply-adds.
        weights: numbers in its constants.
        weight_bits: that one of them takes on its way from memory.
        kernel, stride: of a convolution or pooling, (height, width).
        groups: of a convolution.
        is_fused: costs no pass of its own.
        dilation: of a convolution, (height, width).
    """

    name: str
    type: str
    kind: str
    inputs: tuple[Shape, ...]
    outputs: tuple[Shape, ...]
    reads: tuple[int, ...] = ()
    macs: int = 0
    weights: int = 0
    weight_bits: float = 8 * FP16
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    groups: int = 1
    is_fused: bool = False
    dilation: tuple[int, int] = (1, 1)

    @property
    def has_table(self) -> bool:
        """Whether it looks its function up in a table."""
        return self.type in TABLES

    @property
    def map_bytes(self) -> tuple[int, ...]:
        """Of each map that it reads or makes, fp16."""
        return tuple(FP16 * math.prod(shape) for shape in (*self.inputs, *self.outputs))

    @property
    def is_pass(self) -> bool:
        """Whether it runs over its maps on its own."""
        return self.kind not in ('free', 'address') and not self.is_fused

    @property
    def weight_bytes(self) -> float:
        """As the file stores them."""
        return self.weights * self.weight_bits / 8

    @property
    def uses_winograd(self) -> bool:
        """Dense, 3 x 3, steps of 1 (ch. 20); its products are then 2.25 times fewer."""
        is_dense = self.kind == 'conv' and self.groups == 1
        return is_dense and self.kernel == (3, 3) and self.stride == self.dilation == (1, 1)


def layers_of(program: Program, chip: Chip = CHIPS['A14']) -> tuple[Layer, ...]:
    """The layers of a saved file, in execution order.

    Args:
        program: as read from disk, with sizes that are fixed.
        chip: whose engine reads the weights, which not every engine reads as they are stored.

    Raises:
        ProgramError: an operation whose result has no fixed shape or an axis of size 0, whose
            parameters or ranks are none that it can have, or nested blocks.
    """
    program = with_shapes(program)
    shapes = _shapes(program)
    readers = Counter(name for op in walk(program.operations) for name in sources(op))
    for feature in program.outputs:
        readers[feature.name] += 1
    found: list[Layer] = []
    maker: dict[str, int] = {}
    for op in program.operations:
        layer = _layer(op, shapes, maker, readers, found, chip)
        maker.update(dict.fromkeys(op.outputs, len(found)))
        found.append(layer)
    return tuple(found)


def has_attention(layers: Sequence[Layer]) -> bool:
    """Whether two maps are multiplied with each other."""
    return any(layer.kind == 'matmul' for layer in layers)


def _shapes(program: Program) -> dict[str, Shape]:
    """Of every value that has a fixed one."""
    known: dict[str, Shape] = {f.name: f.shape for f in program.inputs}
    for op in program.operations:
        if op.blocks:
            raise ProgramError(
                f'{program.path}: {op.name!r} is a {op.type} with nested blocks, whose time '
                'depends on values'
            )
        for name, shape in zip(op.outputs, _declared(op)):
            if shape is not None:
                known[name] = shape
    return known


def _declared(op: Operation) -> Iterator[Optional[Shape]]:
    shapes = op.shapes or (None,) * len(op.outputs)
    for shape in shapes:
        fixed = shape is not None and None not in shape
        yield tuple(int(n or 0) for n in shape or ()) if fixed else None


def _layer(
    op: Operation,
    shapes: Mapping[str, Shape],
    maker: Mapping[str, int],
    readers: Mapping[str, int],
    before: Sequence[Layer],
    chip: Chip,
) -> Layer:
    read = [n for n in _read(op) if n in shapes]
    outputs = _outputs(op, shapes)
    weight = _weight(op)
    layer = Layer(
        name=op.name,
        type=op.type,
        kind='free',
        inputs=tuple(shapes[n] for n in read),
        outputs=outputs,
        reads=tuple(maker.get(n, INPUT) for n in read),
        weights=0 if weight is None else int(weight.size),
        weight_bits=8 * FP16 if weight is None else _bits(op, weight.size, chip),
        **_geometry(op, weight),
    )
    layer = replace(layer, kind=_kind(layer, op))
    layer = replace(layer, macs=_macs(layer, weight, op))
    return replace(layer, is_fused=_is_fused(layer, read, readers, before))


def _read(op: Operation) -> list[str]:
    """Names of the values it reads; a file keeps parameters in no order."""
    first = [op.inputs.get(parameter) for parameter in _FIRST]
    names = (value.name for value in first if isinstance(value, Value))
    return list(dict.fromkeys((*names, *sources(op))))


def _outputs(op: Operation, shapes: Mapping[str, Shape]) -> tuple[Shape, ...]:
    """Shapes of its results."""
    found = tuple(shapes[n] for n in op.outputs if n in shapes)
    if any(0 in shape for shape in found):
        raise ProgramError(
            f'operation {op.name!r} ({op.type}) makes an axis of size 0, so that its time cannot '
            'be estimated'
        )
    if not found and op.type != 'classify':
        raise ProgramError(
            f'operation {op.name!r} ({op.type}) has no fixed shape, so that its time cannot be '
            'estimated'
        )
    return found


def _weight(op: Operation) -> Optional[np.ndarray]:
    """The largest constant of several numbers."""
    arrays = [v for v in op.inputs.values() if isinstance(v, np.ndarray) and v.ndim > 1]
    return max(arrays, key=lambda a: a.size) if arrays else None


def _bits(op: Operation, size: int, chip: Chip) -> float:
    """Of a number of the weight, as it comes from memory; fp16 where that is not known."""
    moved = [w.moved_bytes for w in weights_of(op, chip) if w.size == size]
    return 8 * moved[0] / size if moved and moved[0] else 8 * FP16


def _geometry(op: Operation, weight: Optional[np.ndarray]) -> dict[str, Any]:
    """Kernel, strides and groups of what slides over a map."""
    if op.type in _CONVOLUTIONS and weight is not None and weight.ndim >= 3:
        kernel = (1, *weight.shape[2:]) if weight.ndim == 3 else weight.shape[2:4]
        return dict(
            kernel=_pair(kernel),
            stride=_pair(_numbers(op, 'strides')),
            groups=_numbers(op, 'groups')[0],
            dilation=_pair(_numbers(op, 'dilations')),
        )
    if op.type.endswith('_pool'):
        return dict(
            kernel=_pair(_numbers(op, 'kernel_sizes')), stride=_pair(_numbers(op, 'strides'))
        )
    return {}


def _numbers(op: Operation, parameter: str) -> tuple[int, ...]:
    """One or more, each 1 where the file leaves them out."""
    found = numbers(op, parameter) if parameter in op.inputs else (1, 1)
    if not found or min(found) < 1:
        raise ProgramError(
            f'operation {op.name!r} ({op.type}) has {parameter} that are no constant numbers of 1 '
            'or more, so that its time cannot be estimated'
        )
    return found


def _pair(values: Sequence[int]) -> tuple[int, int]:
    """Height and width; a height of 1 where there is no second number."""
    height, width = (1, *values)[-2:]
    return height, width


#: Of what needs no further look.
_KINDS: dict[str, str] = {
    **dict.fromkeys(_NORMS, 'norm'),
    **dict.fromkeys(_FREE, 'free'),
    **dict.fromkeys(_ADDRESSED, 'address'),
    **dict.fromkeys(TABLES | _EXACT, 'function'),
    'softmax': 'softmax',
    'linear': 'linear',
}


def _kind(layer: Layer, op: Operation) -> str:
    if not layer.reads:
        return 'free'
    if op.type in _CONVOLUTIONS:
        _check_rank(layer, layer.inputs[:1], 3)
        return 'depthwise' if layer.groups == layer.inputs[0][1] > 1 else 'conv'
    if op.type in _PRODUCTS:
        return 'linear' if layer.weights else 'matmul'
    if op.type in _ARITHMETIC:
        return 'function' if len(layer.reads) == 1 else 'arithmetic'
    if op.type.endswith('_pool'):
        return 'reduce' if all(n == 1 for n in layer.outputs[0][2:]) else 'pool'
    return 'reduce' if op.type.startswith('reduce_') else _KINDS.get(op.type, 'move')


def _check_rank(layer: Layer, read: Sequence[Shape], least: int) -> None:
    """What a layer reads first, and makes, has so many axes at least."""
    rank = min(map(len, (*read, layer.outputs[0])))
    if rank < least:
        raise ProgramError(
            f'operation {layer.name!r} ({layer.type}) has a map of rank {rank}; its time can be '
            f'estimated from {least} on'
        )


def _macs(layer: Layer, weight: Optional[np.ndarray], op: Operation) -> int:
    if layer.kind in ('conv', 'depthwise') and weight is not None:
        # A transposed one has (C_in, C_out / groups, kH, kW).
        pixels = layer.inputs[0] if op.type == 'conv_transpose' else layer.outputs[0]
        return math.prod(pixels) * math.prod(weight.shape[1:])
    if layer.kind == 'linear':
        return math.prod(layer.outputs[0]) * _inner(layer, weight)
    if layer.kind == 'matmul':
        is_attention = op.type == 'scaled_dot_product_attention'
        if is_attention and len(layer.inputs) > 1:
            _check_rank(layer, layer.inputs[:2], 2)
            query, key = layer.inputs[:2]
            return 2 * math.prod(query) * key[-2]
        return math.prod(layer.outputs[0]) * _inner(layer, weight)
    return 0


def _inner(layer: Layer, weight: Optional[np.ndarray]) -> int:
    """The length of a product's sums."""
    # A product with a vector has an axis less.
    *batch, rows, columns = (1, 1, *layer.outputs[0])
    if weight is not None:
        return layer.weights // columns if layer.weights % columns == 0 else weight.shape[-1]
    # Of (B, M, K) and (B, K, N), transposed or not, in either order.
    pairs = math.prod(map(math.prod, layer.inputs))
    return max(1, math.isqrt(pairs // max(1, rows * columns * math.prod(batch) ** 2)))


def _is_fused(
    layer: Layer, read: Sequence[str], readers: Mapping[str, int], before: Sequence[Layer]
) -> bool:
    """Whether it is computed where its only operand is made, before that is stored."""
    # Sigmoid linear units are a table and a product, in this order; both need the map.
    if layer.kind != 'function' or layer.type == 'silu' or len(layer.reads) != 1:
        return False
    (source,) = layer.reads
    return source != INPUT and readers[read[0]] == 1 and before[source].kind != 'free'


def as_rows(layers: Sequence[Layer]) -> list[list[Any]]:
    """Plain values for JSON, a row a layer."""
    return [list(asdict(layer).values()) for layer in layers]


def from_rows(rows: Sequence[Sequence[Any]]) -> tuple[Layer, ...]:
    """Undo :func:`as_rows`."""
    return tuple(Layer(*(_tuples(value) for value in row)) for row in rows)


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
