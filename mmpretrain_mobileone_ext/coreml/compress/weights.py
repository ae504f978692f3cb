"""The weights of a Core ML file, and what an approximation does to them."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..program.graph import Operation, Program
from .kmeans import SUM_WEIGHT

#: Operation to the axis of its weight that counts output channels.
_OUTPUT_AXIS = {'conv': 0, 'conv_transpose': 1, 'linear': 0}


@dataclass(frozen=True, eq=False)
class Weight:
    """One weight, and the operation that uses it.

    Attributes:
        name: of the operation in the file.
        op_type: 'conv', 'conv_transpose' or 'linear'.
        values: fp16 or fp32, output channels first: (O, I / groups, kH, kW) or (O, I).
        depthwise: every filter sees one input channel.
        role: 'first' (stem), 'last' (classifier) or ''.
        stored_as: the ``constexpr_*`` operation it is stored with, '' if it is not compressed.
        sharing: further operations that use the same stored weight.
    """

    name: str
    op_type: str
    values: np.ndarray
    depthwise: bool
    role: str
    stored_as: str
    sharing: tuple[str, ...] = ()


def find_weights(program: Program) -> tuple[Weight, ...]:
    """Return the weights of a program, in execution order.

    The first one is the stem; the last one is the classifier if it is linear: a network without a
    head has no last layer in this sense.
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


def relative_error(values: np.ndarray, approximation: np.ndarray) -> float:
    """||approximation - values|| / ||values||; 0 for a weight of zeros."""
    exact = values.astype(np.float64)
    norm = float(np.linalg.norm(exact))
    return float(np.linalg.norm(approximation - exact)) / norm if norm else 0.0


def output_error(values: np.ndarray, approximation: np.ndarray) -> float:
    """What an approximation does to the output, as a share, squared.

    sum(e^2) + SUM_WEIGHT * sum(e)^2 of each filter's errors e, relative to the same of the weights:
    inputs behind a ReLU have a mean, see :mod:`.kmeans`. 0 for a weight of zeros.
    """
    exact = values.astype(np.float64)
    norm = _energy(exact)
    return _energy(approximation - exact) / norm if norm else 0.0


def _energy(values: np.ndarray) -> float:
    rows = values.reshape(len(values), -1)
    return float((rows**2).sum() + SUM_WEIGHT * (rows.sum(1) ** 2).sum())
