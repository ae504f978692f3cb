"""Programs made operation by operation, as ``read_program`` would give them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mmpretrain_mobileone_ext.coreml.program.graph import Feature, Operation, Program, Value

IMAGE = (1, 16, 32, 32)


class Made:
    """Collects operations; each result is called as its operation.

    Args:
        shape: of the input ``x``, fp16.
        feature: instead of that one.
        format: 'mlprogram' or 'neuralnetwork'.
    """

    def __init__(self, shape=IMAGE, feature=None, format='mlprogram'):
        self.inputs = (feature or Feature('x', 'tensor', shape, 'fp16'),)
        self.format = format
        self.operations = []

    def op(self, kind, shape=IMAGE, dtype='fp16', of='x', blocks=(), packed=None, **inputs):
        """Append one that reads ``of``; returns its name."""
        name = f'{kind}_{len(self.operations)}'
        given = {'x': Value(of)} if isinstance(of, str) else {}
        if isinstance(of, (list, tuple)):
            given = {'values': tuple(Value(n) for n in of)}
        self.operations.append(
            Operation(
                name,
                kind,
                {**given, **inputs},
                (name,),
                (dtype,),
                {'compressed': {k: p.forms[-1] for k, p in packed.items()}, 'packed': packed}
                if packed
                else {},
                (shape,),
                blocks,
            )
        )
        return name

    def conv(self, weight=(16, 16, 3, 3), shape=IMAGE, of='x', **inputs):
        """A convolution with a weight of a shape."""
        return self.op('conv', shape, of=of, weight=np.zeros(weight, np.float16), **inputs)

    @property
    def program(self):
        outputs = (Feature(self.operations[-1].outputs[0], 'tensor'),)
        return Program(
            Path('made.mlpackage'),
            self.format,
            self.inputs,
            outputs,
            tuple(self.operations),
            None,
            '',
            '',
            {},
            7,
        )
