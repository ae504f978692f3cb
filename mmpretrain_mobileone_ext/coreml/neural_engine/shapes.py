"""Shapes of a program that states none: a ``neuralnetwork`` is run without data to learn them."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from ...errors import ProgramError
from ..program.budget import Ledger, Meter, NeedsValuesError, memory_of, work_of
from ..program.graph import Feature, Operation, Program
from ..runtime.arithmetic import arithmetic_of
from ..runtime.executor import Executor

#: Numbers of a tensor whose bytes torch can still count.
_MOST = 2**60
_TYPES = {'int32': torch.int32}


def with_shapes(program: Program) -> Program:
    """The program with the shapes of its values, for the default size of its inputs.

    An ``mlprogram`` states them, and is returned as it is; so is what this returned. Where the
    reference runtime cannot run the program, or shapes depend on numbers, they are unknown: None.
    """
    if program.format == 'mlprogram' or any(op.shapes for op in program.operations):
        return program
    known = _shapes(program) if all(map(_is_possible, program.inputs)) else {}
    return replace(program, operations=tuple(_shaped(op, known) for op in program.operations))


def _is_possible(feature: Feature) -> bool:
    """Whether its default shape is stated, and one that a tensor can have."""
    shape = feature.shape
    return bool(shape) and min(shape) >= 0 and math.prod(shape) <= _MOST


def _shapes(program: Program) -> dict[str, tuple[int, ...]]:
    """Of every value; of none where the program cannot be run, or sizes depend on values.

    Values without data take no memory, so that there may be any amount of them.
    """
    shown = [op for op in program.operations if op.type != 'classify']
    outputs = tuple(Feature(name, 'tensor') for op in shown for name in op.outputs)
    watched = replace(
        program, outputs=outputs, predicted_feature_name='', predicted_probabilities_name=''
    )
    inputs = {
        f.name: torch.empty(f.shape, dtype=_TYPES.get(f.dtype, torch.float32), device='meta')
        for f in program.inputs
    }
    constants = Ledger(memory_of(program.path))
    try:
        run = Executor(watched, arithmetic_of('fp32'), False, torch.device('cpu'), constants)
        with torch.no_grad(), Meter(Ledger(math.inf), work_of(program.path)) as meter:
            values, _ = run(inputs, meter=meter)
    except (ProgramError, NeedsValuesError):
        return {}
    return {name: tuple(value.shape) for name, value in values.items()}


def _shaped(op: Operation, shapes: dict[str, tuple[int, ...]]) -> Operation:
    return replace(op, shapes=tuple(shapes.get(name) for name in op.outputs))
