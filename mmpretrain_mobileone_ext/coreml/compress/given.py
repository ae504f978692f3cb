"""Integers that a network was trained with, written as they are.

Which weight of a file belongs to which layer is found by its values: names change on the way
through a front end, and a value that matches is also the proof that nothing else changed it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional

import numpy as np

from ...errors import ExportError
from ..program import quiet
from ..program.graph import Program
from ..program.read import read_program
from .codes import Integers
from .storage import Scheme
from .weights import Weight, find_weights

_SHOWN = 3
_PASSES = 'coremltools.converters.mil.mil.passes.graph_pass'


class Trained(Scheme):
    """The integers that a network was trained with, which says what systems they need.

    The points are for ties: a file with integers differs from one without by rounded scales alone.
    """

    name = spelling = 'trained'
    max_drop = 0.2
    #: Where activations are rounded, a flipped step decides more than ties.
    max_drop_with_steps = 1.0
    no_network = 'a .mlmodel has no integers that are given'

    @classmethod
    def named(cls, name: str) -> Optional[Scheme]:
        return cls() if name == cls.name else None

    def alone(self, source: Path) -> ExportError:
        """Why a file without its network cannot be compressed so."""
        return ExportError(
            f'{source}: the integers of compress {self.name!r} are in the network, not in a file'
        )


@dataclass(frozen=True, eq=False)
class TrainedLayer:
    """A layer whose weight was trained rounded.

    Attributes:
        name: in the network.
        weight: float32, (O, I / groups, k, k) or (O, I): the integers times their scales.
        stored: the integers, with one scale a block of input channels.
    """

    name: str
    weight: np.ndarray
    stored: Integers


def match(
    weights: Sequence[Weight], layers: Sequence[TrainedLayer], source: Path
) -> dict[str, Integers]:
    """The integers of each weight of a file that was trained rounded.

    Args:
        weights: of the file, dense.
        layers: of the network.
        source: the file, for messages.

    Returns:
        Operation name to the integers, in the weight's shape, their scales in its dtype.

    Raises:
        ExportError: a layer has no weight in the file that has its values.
    """
    found: dict[str, Integers] = {}
    met: set[str] = set()
    for weight in weights:
        same = [layer for layer in layers if _is_of(weight.values, layer.weight)]
        if same:
            found[weight.name] = _as_stored(same[0].stored, weight.values)
            met.update(layer.name for layer in same)
    missing = [layer.name for layer in layers if layer.name not in met]
    if missing:
        more = ', ...' if len(missing) > _SHOWN else ''
        raise ExportError(
            f'{source.name}: no weight in it has the values of {", ".join(missing[:_SHOWN])}{more}'
            ", so compress 'trained' cannot store their integers; give --compress none"
        )
    return found


def _is_of(values: np.ndarray, weight: np.ndarray) -> bool:
    """Whether a weight of a file is a layer's, rounded to the file's numbers."""
    if values.size != weight.size or values.shape[:2] != weight.shape[:2]:
        return False
    wanted = weight.reshape(values.shape).astype(values.dtype).astype(np.float64)
    # coremltools keeps what fp16 has no number for from becoming 0.
    least = np.finfo(values.dtype).smallest_subnormal
    return bool((np.abs(values.astype(np.float64) - wanted) <= least).all())


def _as_stored(stored: Integers, values: np.ndarray) -> Integers:
    blocks = (*stored.scale.shape[:2], *[1] * (values.ndim - 2))
    return replace(
        stored,
        codes=stored.codes.reshape(values.shape),
        scale=stored.scale.reshape(blocks).astype(values.dtype),
        zero=stored.zero.reshape(blocks),
    )


def store_trained(source: Path, layers: Sequence[TrainedLayer], out: Path) -> Path:
    """Write a copy of ``source`` to ``out`` that holds the integers of trained layers.

    Interface, labels and metadata stay, and so do all other weights.

    Args:
        source: ``.mlpackage`` with the layers' weights, dense.
        layers: of the network that it was made from.
        out: ``.mlpackage`` that does not exist.

    Returns:
        ``out``.

    Raises:
        ExportError: a layer has no weight in the file, or coremltools does not store the integers
            so.
        ProgramError: the file cannot be read.
    """
    weights = {w.name: w for w in find_weights(read_program(source))}
    plan = match(tuple(weights.values()), layers, source)
    shared = {other: plan[name] for name in plan for other in weights[name].sharing}
    quiet.run_passes(source, [_pass({**plan, **shared})], out)
    _check(read_program(out), plan, out)
    return out


def _check(program: Program, plan: Mapping[str, Integers], out: Path) -> None:
    stored = {w.name: w for w in find_weights(program)}
    for name, given in plan.items():
        weight = stored.get(name)
        if weight is None or not weight.stored_as or not _equal(weight.values, given):
            raise ExportError(f'{out.name}: coremltools did not store the integers of {name!r}')


def _equal(values: np.ndarray, given: Integers) -> bool:
    return np.array_equal(values, given.values().astype(values.dtype))


def _pass(plan: Mapping[str, Integers]) -> Any:
    """A pass of coremltools that puts integers in the place of operations' weights."""
    base: Any = quiet.module(_PASSES).AbstractGraphPass

    class StoreIntegers(base):
        def apply(self, program: Any) -> None:
            for function in program.functions.values():
                with function:
                    _store_all(function, plan)

    return StoreIntegers()


def _store_all(function: Any, plan: Mapping[str, Integers]) -> None:
    for op in list(_operations(function)):
        if op.name in plan:
            _store(op, plan[op.name])


def _operations(block: Any) -> Iterator[Any]:
    for op in block.operations:
        yield op
        for inner in op.blocks:
            yield from _operations(inner)


def _store(op: Any, given: Integers) -> None:
    dense = op.weight.op
    if dense.op_type != 'const':  # the weight is shared, and is stored already
        return
    make = quiet.module('coremltools.converters.mil.frontend._utils')
    stored = make._construct_constexpr_dequant_op(
        given.codes, None, given.scale, axis=0, name=f'{dense.name}_trained', before_op=dense
    )
    block = dense.enclosing_block
    block.replace_uses_of_var_after_op(
        anchor_op=dense, old_var=dense.outputs[0], new_var=stored, no_check_var_types=True
    )
    block.remove_ops([dense])
