"""The weights of a Core ML file, and every way to store one."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from ...errors import ExportError
from ..program.graph import Operation, Program
from .kmeans import SUM_WEIGHT, Palettes

#: Operation to the axis of its weight that counts output channels.
_OUTPUT_AXIS = {'conv': 0, 'conv_transpose': 1, 'linear': 0}


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight, and the operation that uses it.

    Attributes:
        name: of the operation in the file.
        op_type: 'conv', 'conv_transpose' or 'linear'.
        values: fp16 or fp32, output channels first: (O, I / groups, kH, kW)
            or (O, I).
        depthwise: every filter sees one input channel.
        role: 'first' (stem), 'last' (classifier) or ''.
        stored_as: the ``constexpr_*`` operation it is stored with, '' if it
            is not compressed.
        sharing: further operations that use the same stored weight.
    """

    name: str
    op_type: str
    values: np.ndarray
    depthwise: bool
    role: str
    stored_as: str
    sharing: tuple[str, ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        """Of ``values``."""
        return self.values.shape


def find_weights(program: Program) -> tuple[Weight, ...]:
    """Return the weights of a program, in execution order.

    The first one is the stem; the last one is the classifier if it is
    linear: a network without a head has no last layer in this sense.
    """
    found = [
        op
        for op in program.operations
        if op.type in _OUTPUT_AXIS and isinstance(op.inputs.get('weight'), np.ndarray)
    ]
    weights: dict[int, Weight] = {}
    for i, op in enumerate(found):
        same = weights.get(id(op.inputs['weight']))
        last = i == len(found) - 1 and op.type == 'linear'
        weights[id(op.inputs['weight'])] = (
            replace(same, sharing=(*same.sharing, op.name))
            if same
            else _weight(op, 'first' if i == 0 else 'last' if last else '')
        )
    return tuple(weights.values())


def _weight(op: Operation, role: str) -> Weight:
    values = np.moveaxis(op.inputs['weight'], _OUTPUT_AXIS[op.type], 0)
    compressed = op.attributes.get('compressed', {})
    return Weight(
        name=op.name,
        op_type=op.type,
        values=values,
        depthwise=op.type == 'conv'
        and values.shape[1] == 1
        and int(op.inputs.get('groups', 1)) == values.shape[0] > 1,
        role=role,
        stored_as=compressed.get('weight', ''),
    )


#: Entries of a table: 2 to the power of one of these. 3 bits need iOS 18.
TABLE_BITS = (8, 6, 4, 3, 2, 1)
_NAME = re.compile(
    r'^(?:prune(?P<pruned>\d{1,2}))?(?P<plus>\+)?'
    r'(?P<code>int8|palettize(?P<bits>\d))?$'
)
_RECORD = 64  # bytes: MILBlob aligns every array and puts a record before it
_SMALLEST_GROUP = 8
_TABLE_SHARE = 16


@dataclass(frozen=True)
class Form:
    """One way to store a weight; all fields at rest: as it is.

    Attributes:
        code: '' (fp16 or fp32 values), 'int8' (scaled integers, a scale and
            a zero point for each output channel) or 'table' (k-means
            clusters and an index for each weight).
        bits: of a table's indices; 8 for int8; 0 without a code.
        pruned: percent of the weights, the smallest, that become zero and
            are not stored; 0 for none.
    """

    code: str = ''
    bits: int = 0
    pruned: int = 0

    @property
    def name(self) -> str:
        """'dense', 'int8', 'palettize4', 'prune50', 'prune50+int8', ..."""
        code = f'palettize{self.bits}' if self.code == 'table' else self.code
        pruned = f'prune{self.pruned}' if self.pruned else ''
        return '+'.join(part for part in (pruned, code) if part) or 'dense'

    @cached_property
    def oldest(self) -> str:
        """The oldest deployment target that reads this form."""
        joint = self.pruned > 0 and self.code != ''
        return 'iOS18' if joint or self.bits == 3 else 'iOS16'


DENSE = Form()
INT8 = Form('int8', 8)


def table(bits: int, pruned: int = 0) -> Form:
    """The form 'palettize<bits>', perhaps pruned."""
    return Form('table', bits, pruned)


def parse_form(name: str) -> Form:
    """The form of a name such as 'prune50+palettize4'.

    Raises:
        ExportError: the name is none.
    """
    found = _NAME.match(name)
    form = DENSE
    if found and name:
        form = Form(
            'table' if found['bits'] else found['code'] or '',
            int(found['bits'] or (8 if found['code'] else 0)),
            int(found['pruned'] or 0),
        )
    known = form.code != 'table' or form.bits in TABLE_BITS
    if form.name != name or not known:
        raise ExportError(
            f'weights cannot be stored as {name!r}; allowed: dense, int8, '
            f'palettize<bits> with bits of {", ".join(map(str, TABLE_BITS))}, '
            'prune<percent> with 1 to 99, and prune<percent>+int8 or '
            'prune<percent>+palettize<bits>'
        )
    return form


def group_size(shape: tuple[int, ...], bits: int, target: str) -> int:
    """Output channels that share one table.

    Before iOS 18 a weight has one table. Since then it may have one for
    every group of channels, which follows channels of different range:
    small groups, but of at least 8 channels, and only while all tables
    together stay under 1/16 of the indices.

    Args:
        shape: of the weight, output channels first.
        bits: of an index.
        target: deployment target.

    Returns:
        A divisor of ``shape[0]``.
    """
    channels = shape[0]
    if target != 'iOS18':
        return channels
    indices = int(np.prod(shape)) * bits / 8
    most = max(1, int(indices / _TABLE_SHARE / (2 * 2**bits)))
    return min(
        size
        for size in range(1, channels + 1)
        if channels % size == 0
        and (size == channels or (size >= _SMALLEST_GROUP and channels // size <= most))
    )


def stored_bytes(form: Form, shape: tuple[int, ...], target: str, itemsize: int = 2) -> int:
    """Bytes of one weight in a package, table and bookkeeping included.

    Counted as MILBlob stores arrays: aligned to 64 bytes, each with a
    record of 64 bytes; plus what the operation adds to the specification,
    an average as measured. That makes small weights not worth some forms.

    Args:
        shape: of the weight, output channels first.
        itemsize: bytes of a weight as it is: 2 for fp16.
    """
    count, channels = int(np.prod(shape)), shape[0]
    kept = count - count * form.pruned // 100
    mask = [-(-count // 8)] if form.pruned else []
    if form.code == 'int8':
        arrays = [kept, channels * itemsize, channels]
    elif form.code == 'table':
        groups = channels // group_size(shape, form.bits, target)
        entries = groups * 2**form.bits
        arrays = [-(-kept * form.bits // 8)]
        # Arrays of fewer than 10 numbers stand in the specification.
        arrays += [entries * itemsize] if entries >= 10 else []
    else:
        arrays = [kept * itemsize]
    spec = _SPEC[form.code, form.pruned > 0]
    return spec + sum(_RECORD + -(-n // _RECORD) * _RECORD for n in mask + arrays)


#: Code, pruned or not, to the bytes that coremltools' operation takes in the
#: specification beyond a constant; MobileOne's names are about 50 letters.
_SPEC = {
    ('', False): 0,
    ('int8', False): 200,
    ('table', False): 130,
    ('', True): 130,
    ('int8', True): 700,
    ('table', True): 660,
}


def prune_threshold(values: np.ndarray, percent: int) -> float:
    """The magnitude up to which ``percent`` of the values become zero.

    coremltools finds it by ``numpy.percentile`` in the dtype of the weight;
    in fp16 that overflows for more than 65504 weights and then prunes
    nothing at all (coremltools 9.0, NumPy 2).

    Args:
        values: a weight of any shape.
        percent: 1 to 99.
    """
    magnitudes = np.abs(values.reshape(-1).astype(np.float64))
    count = max(1, len(magnitudes) * percent // 100)
    return float(np.partition(magnitudes, count - 1)[count - 1])


def approximate(values: np.ndarray, form: Form, target: str, palettes: Palettes) -> np.ndarray:
    """What ``values`` become when they are stored in ``form``.

    Args:
        values: fp16 or fp32, output channels first.
        target: deployment target, which decides how many tables there are.
        palettes: clusters, and remembers.

    Returns:
        float64, of the same shape.
    """
    dense, kept = values.astype(np.float64), np.ones(values.shape, bool)
    if form.pruned:
        kept = np.abs(dense) > prune_threshold(values, form.pruned)
        dense = np.where(kept, dense, 0)
    if form.code == 'int8':
        dense = int8(dense)
    elif form.code == 'table':
        size = group_size(values.shape, form.bits, target)
        sparse = np.where(kept, values, 0).astype(values.dtype)
        for start in range(0, len(values), size):
            part = slice(start, start + size)
            table, indices = palettes(sparse[part], form.bits, form.pruned > 0)
            dense[part] = table[indices]
    return np.where(kept, dense, 0)


def int8(values: np.ndarray, per_channel: bool = True) -> np.ndarray:
    """Round to 256 equidistant numbers from the least to the largest.

    That is coremltools' mode 'linear': zero is always among the numbers.

    Args:
        values: output channels first.
        per_channel: an own scale for every output channel; else one.

    Returns:
        float64, of the same shape.
    """
    rows = values.astype(np.float64).reshape(len(values) if per_channel else 1, -1)
    low = np.minimum(rows.min(1, keepdims=True), 0)
    high = np.maximum(rows.max(1, keepdims=True), 0)
    scale = (high - low) / 255
    scale[scale == 0] = 1
    zero = np.round(-128 - low / scale)
    steps = np.clip(np.round(rows / scale) + zero, -128, 127)
    return ((steps - zero) * scale).reshape(values.shape)


def relative_error(values: np.ndarray, approximation: np.ndarray) -> float:
    """||approximation - values|| / ||values||; 0 for a weight of zeros."""
    exact = values.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(approximation - exact)) / norm if norm else 0.0


def output_error(values: np.ndarray, approximation: np.ndarray) -> float:
    """What an approximation does to the output, as a share, squared.

    sum(e^2) + SUM_WEIGHT * sum(e)^2 of each filter's errors e, relative to
    the same of the weights: inputs behind a ReLU have a mean, see
    :mod:`.palette`. 0 for a weight of zeros.
    """
    exact = values.astype(np.float64)
    norm = _energy(exact)
    return _energy(approximation - exact) / norm if norm else 0.0


def _energy(values: np.ndarray) -> float:
    rows = values.reshape(len(values), -1)
    return float((rows**2).sum() + SUM_WEIGHT * (rows.sum(1) ** 2).sum())
