"""The typed form of a Core ML file: features, operations, program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional


@dataclass(frozen=True)
class Value:
    """A reference to the result of an operation or to a model input."""

    name: str


@dataclass(frozen=True)
class Feature:
    """One input or output of a model, as its interface declares it.

    Attributes:
        name (str): Name used in ``predict``'s dictionaries.
        kind (str): ``'image'``, ``'tensor'``, ``'dictionary'`` (label to
            probability), ``'string'`` or ``'int64'`` (class label).
        shape (tuple[int, ...]): ``(1, C, H, W)`` for an image; the declared
            default shape for a tensor; empty when the file states none.
        dtype (str): ``'fp16'``, ``'fp32'``, ``'fp64'``, ``'int8'`` or
            ``'int32'`` for a tensor; ``'uint8'`` for an image.
        color_layout (str | None): ``'RGB'``, ``'BGR'``, ``'GRAYSCALE'`` or
            ``'GRAYSCALE_FLOAT16'`` for an image, else None.
    """

    name: str
    kind: str
    shape: tuple[int, ...] = ()
    dtype: str = ''
    color_layout: Optional[str] = None


@dataclass(frozen=True, eq=False)
class Operation:
    """One operation, named and spelled as in the MIL documentation.

    Attributes:
        name (str): Name of the operation in the file.
        type (str): MIL operation type, e.g. ``'conv'``. Layers of a
            ``neuralnetwork`` are expressed in the same vocabulary.
        inputs (Mapping[str, Any]): MIL parameter name to a :class:`Value`,
            a tuple of them, or a constant: NumPy array or scalar, str,
            tuple of class labels.
        outputs (tuple[str, ...]): Names of the results.
        dtypes (tuple[str, ...]): Declared dtype of each result: ``'fp16'``,
            ``'fp32'``, ``'int32'``, ``'bool'``, ...
        attributes (Mapping[str, Any]): ``'layer'``: the layer kind this
            operation was read from (``neuralnetwork`` only);
            ``'compressed'``: parameter name to the ``constexpr_*``
            operation its weights are stored with (``mlprogram`` only).
    """

    name: str
    type: str
    inputs: Mapping[str, Any]
    outputs: tuple[str, ...]
    dtypes: tuple[str, ...]
    attributes: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Program:
    """A Core ML model as saved on disk.

    Attributes:
        path (Path): File or package that was read.
        format (str): ``'mlprogram'`` or ``'neuralnetwork'``.
        inputs (tuple[Feature, ...]): Model inputs.
        outputs (tuple[Feature, ...]): Model outputs.
        operations (tuple[Operation, ...]): Operations, in execution order;
            constants are folded into the operations that use them.
        classes (tuple | None): Class labels (str or int) of a classifier.
        predicted_feature_name (str): Output holding the predicted label;
            empty if the model is no classifier.
        predicted_probabilities_name (str): Output holding the label to
            probability dictionary; empty if there is none.
        metadata (Mapping[str, str]): User-defined entries, plus ``author``,
            ``license``, ``version`` and ``description`` where set.
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
        """Return how often each operation type occurs, commonest first."""
        return dict(Counter(op.type for op in self.operations).most_common())
