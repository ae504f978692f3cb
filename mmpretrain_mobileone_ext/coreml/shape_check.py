"""Proof that what is converted does not hold for one input shape only."""
from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import ExportError, ParityError
from ..parity import Tolerance
from .export_source import one_line
from .output_parity import worst
from .shapes import Shape

_SAME = Tolerance('trace', 1e-4)


def check_trace(graph: Callable[[Tensor], Any],
                traced: Callable[[Tensor], Any],
                shapes: Sequence[Shape]) -> None:
    """Run network and trace at every size and every batch size.

    A trace is made at the first shape, and Python numbers in the network's
    code stay in it as they were then.

    Raises:
        ExportError: the network, or its trace, is for the first shape only.
    """
    generator = torch.Generator().manual_seed(0)
    for shape in _others(shapes):
        pixels = 255 * torch.rand(shape, generator=generator)
        wanted = _run(graph, pixels, 'the network does not run on')
        fixed = f'the network fixes its input to {shapes[0]} and fails on'
        found = _run(traced, pixels, fixed)
        try:
            worst(wanted, found).require(_SAME, 'traced network')
        except ParityError as error:
            raise ExportError(f'{fixed} {shape} (N, C, H, W): '
                              f'{error}') from None


def _others(shapes: Sequence[Shape]) -> Iterator[Shape]:
    """One batch of each size and one size of each batch: no product."""
    first = shapes[0]
    for shape in shapes[1:]:
        if shape[0] == first[0] or shape[2:] == first[2:]:
            yield shape


def _run(network: Callable[[Tensor], Any], pixels: Tensor, what: str) -> Any:
    try:
        return network(pixels)
    # Any network runs here.
    except Exception as error:
        raise ExportError(f'{what} {tuple(pixels.shape)} (N, C, H, W): '
                          f'{one_line(error)}') from error


def check_classify(spec: Any) -> None:
    """Refuse a classifier that no device compiles.

    Core ML needs the shape of the probabilities to be known; coremltools
    converts without it (apple/coremltools#2764, #2793).

    Args:
        spec: ``Model`` with an ``mlProgram``.

    Raises:
        ExportError: their shape depends on that of the input.
    """
    for function in spec.mlProgram.functions.values():
        for block in function.block_specializations.values():
            _check_block(block)


def _check_block(block: Any) -> None:
    types = {output.name: output.type for op in block.operations
             for output in op.outputs}
    for op in block.operations:
        if op.type != 'classify':
            continue
        name = op.inputs['probabilities'].arguments[0].name
        sizes = types[name].tensorType.dimensions
        if any(s.WhichOneof('dimension') != 'constant' for s in sizes):
            raise ExportError(
                f'the shape of the probabilities ({name!r}) depends on the '
                'input shape after conversion, and Core ML compiles no such '
                'classifier; give one image size, or outputs=\'features\'')
