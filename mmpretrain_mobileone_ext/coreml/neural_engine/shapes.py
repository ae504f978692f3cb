"""Shapes of a program that states none: a ``neuralnetwork`` is run once to learn them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from ...errors import ProgramError
from ..program.graph import Feature, Operation, Program
from ..runtime.load import ReferenceProgram

_TYPES = {'int32': torch.int32}


def with_shapes(program: Program) -> Program:
    """The program with the shapes of its values, for the default size of its inputs.

    An ``mlprogram`` states them, and is returned as it is; so is what this returned. Where the
    reference runtime cannot run the program, its shapes are unknown: None.
    """
    if program.format == 'mlprogram' or any(op.shapes for op in program.operations):
        return program
    known = _run(program) if all(f.shape for f in program.inputs) else {}
    return replace(program, operations=tuple(_shaped(op, known) for op in program.operations))


def _run(program: Program) -> dict[str, Any]:
    """Every value of the program, for inputs of zeros; none where it cannot be run."""
    shown = [op for op in program.operations if op.type != 'classify']
    outputs = tuple(Feature(name, 'tensor') for op in shown for name in op.outputs)
    watched = replace(
        program, outputs=outputs, predicted_feature_name='', predicted_probabilities_name=''
    )
    try:
        run = ReferenceProgram(watched, 'fp32', False, torch.device('cpu'))
        return run.predict(
            {
                f.name: torch.zeros(f.shape, dtype=_TYPES.get(f.dtype, torch.float32))
                for f in program.inputs
            }
        )
    except ProgramError:
        return {}


def _shaped(op: Operation, values: dict[str, Any]) -> Operation:
    known = tuple(tuple(values[name].shape) if name in values else None for name in op.outputs)
    return replace(op, shapes=known)
