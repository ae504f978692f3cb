"""A program as plain data: features, values, operations and blocks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ...errors import ProgramError

#: Sizes of a value, None for one that depends on the input.
Shape = tuple[Optional[int], ...]

#: Metadata entry in which a file says what its first input is.
LAYOUT = 'input_layout'
#: Its value where mean and std are left to the app.
NORMALIZED = 'normalized tensor'
_PIXELS = 'tensor'


@dataclass(frozen=True)
class Value:
    """A reference to the result of an operation or to a model input."""

    name: str


class Packed(NamedTuple):
    """How a constant lies in the file.

    Attributes:
        forms (tuple[str, ...]): ``constexpr_*`` operations that make it dense, the first one first;
            empty for a dense one.
        bits (int): Of an index into a table, or of a number as stored; 0 where that has no sense.
        bytes (int): Of all that it is made from.
    """

    forms: tuple[str, ...] = ()
    bits: int = 0
    bytes: int = 0


@dataclass(frozen=True)
class Feature:
    """One input or output of a model, as its interface declares it.

    Attributes:
        name (str): Name used in ``predict``'s dictionaries.
        kind (str): ``'image'``, ``'tensor'``, ``'dictionary'`` (label to probability), ``'string'``
            or ``'int64'`` (class label).
        shape (tuple[int, ...]): ``(1, C, H, W)`` for an image; the declared default shape for a
            tensor; empty when the file states none.
        shapes (tuple[tuple[int, ...], ...]): Every shape the input takes, the default first; just
            the default where it takes one only, or a range.
        ranges (tuple[tuple[int, int], ...]): Least and greatest size of each dimension, -1 for no
            limit; empty unless the file states ranges instead of shapes.
        dtype (str): ``'fp16'``, ``'fp32'``, ``'fp64'``, ``'int8'`` or ``'int32'`` for a tensor;
            ``'uint8'`` for an image.
        color_layout (str | None): ``'RGB'``, ``'BGR'``, ``'GRAYSCALE'`` or ``'GRAYSCALE_FLOAT16'``
            for an image, else None.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ''
    color_layout: Optional[str] = None
    shapes: tuple[tuple[int, ...], ...] = ()
    ranges: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        if self.shape and not self.shapes:
            object.__setattr__(self, 'shapes', (self.shape,))

    @property
    def is_flexible(self) -> bool:
        """Whether more shapes than one are allowed."""
        return len(self.shapes) > 1 or bool(self.ranges)

    @property
    def allowed(self) -> str:
        """The allowed shapes in words."""
        if self.ranges:
            sides = (
                f'{low}' if low == high else f'{low} to {"any" if high < 0 else high}'
                for low, high in self.ranges
            )
            return f'({", ".join(sides)})'
        many = ', '.join(str(shape) for shape in self.shapes)
        return f'one of {many}' if self.is_flexible else f'exactly {many}'

    def allows(self, shape: tuple[int, ...]) -> bool:
        """Whether a value of this shape may be given."""
        if not self.ranges:
            return tuple(shape) in self.shapes
        return len(shape) == len(self.ranges) and all(
            low <= size and (high < 0 or size <= high)
            for size, (low, high) in zip(shape, self.ranges)
        )


@dataclass(frozen=True, eq=False)
class Block:
    """Operations inside of an operation: a branch, or a loop's body.

    They read what is defined before the operation, too; what they define is known inside only.

    Attributes:
        inputs (tuple[str, ...]): Names of what the block is called with.
        operations (tuple[Operation, ...]): In execution order.
        outputs (tuple[str, ...]): Names of its results.
    """

    inputs: tuple[str, ...]
    operations: tuple[Operation, ...]
    outputs: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation, named and spelled as in the MIL documentation.

    Attributes:
        name (str): Name of the operation in the file.
        type (str): MIL operation type, e.g. ``'conv'``. Layers of a ``neuralnetwork`` are expressed
            in the same vocabulary.
        inputs (Mapping[str, Any]): MIL parameter name to a :class:`Value`, a tuple of them, or a
            constant: NumPy array or scalar, str, tuple of class labels.
        outputs (tuple[str, ...]): Names of the results.
        dtypes (tuple[str, ...]): Declared dtype of each result: ``'fp16'``, ``'fp32'``,
            ``'int32'``, ``'bool'``, ...
        shapes (tuple): Declared shape of each result, with None for a size that depends on the
            input; None, or missing, for what has none.
        attributes (Mapping[str, Any]): ``'layer'``: the layer kind this operation was read from
            (``neuralnetwork`` only); ``'compressed'``: parameter name to the ``constexpr_*``
            operation its weights are stored with, ``'packed'``: to their :class:`Packed`
            (``mlprogram`` only).
        blocks (tuple[Block, ...]): The two branches of ``cond``; condition and body of
            ``while_loop``.
    """

    name: str
    type: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    dtypes: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)
    shapes: tuple[Optional[Shape], ...] = ()
    blocks: tuple[Block, ...] = ()


@dataclass(frozen=True, eq=False)
class Program:
    """A Core ML model as saved on disk.

    Attributes:
        path (Path): File or package that was read.
        format (str): ``'mlprogram'`` or ``'neuralnetwork'``.
        inputs (tuple[Feature, ...]): Model inputs.
        outputs (tuple[Feature, ...]): Model outputs.
        operations (tuple[Operation, ...]): Operations, in execution order; constants are folded
            into the operations that use them.
        classes (tuple | None): Class labels (str or int) of a classifier.
        predicted_feature_name (str): Output holding the predicted label; empty if the model is no
            classifier.
        predicted_probabilities_name (str): Output holding the label to probability dictionary;
            empty if there is none.
        metadata (Mapping[str, str]): User-defined entries, plus ``author``, ``license``,
            ``version`` and ``description`` where set.
        spec_version (int): Core ML specification version (6 is iOS 15).
    """

    path: Path
    format: str
    inputs: tuple[Feature, ...]
    outputs: tuple[Feature, ...]
    operations: tuple[Operation, ...]
    classes: Optional[tuple[Any, ...]]
    predicted_feature_name: str
    predicted_probabilities_name: str
    metadata: Mapping[str, str]
    spec_version: int

    def count_operations(self) -> dict[str, int]:
        """Return how often each operation type occurs, commonest first.

        Those of nested blocks count once, however often they run.
        """
        types = (op.type for op in walk(self.operations))
        return dict(Counter(types).most_common())


def walk(operations: Iterable[Operation]) -> Iterator[Operation]:
    """Operations, and those of their nested blocks."""
    for op in operations:
        yield op
        for block in op.blocks:
            yield from walk(block.operations)


def sources(op: Operation) -> Iterator[str]:
    """Names of the values an operation reads, its nested blocks, too."""
    for value in op.inputs.values():
        items = value if isinstance(value, tuple) else (value,)
        yield from (i.name for i in items if isinstance(i, Value))
    for block in op.blocks:
        yield from _outer(block)


def _outer(block: Block) -> Iterator[str]:
    """Names of the values a nested block reads from around it."""
    own = set(block.inputs)
    for op in block.operations:
        yield from (name for name in sources(op) if name not in own)
        own.update(op.outputs)
    yield from (name for name in block.outputs if name not in own)


def takes_normalized(program: Program) -> bool:
    """Whether the first input is (pixels - mean) / std, not pixels.

    An image is pixels 0 to 255. A tensor can be either; the files that this package makes say
    which.

    Raises:
        ProgramError: a tensor, and the file does not say which.
    """
    if program.inputs[0].kind == 'image':
        return False
    said = program.metadata.get(LAYOUT)
    if said not in (_PIXELS, NORMALIZED):
        raise ProgramError(
            f'{program.path} takes a tensor and does not say whether mean '
            "and std are the app's work; add --cfg-options "
            'model.type=CoreMLClassifier and model.normalize=True, or False '
            'for pixels 0 to 255'
        )
    return said == NORMALIZED
