"""Weights and activations of 8 bits (W8A8), for iOS 17 and later.

coremltools calibrates activations by running the model in Core ML, which only macOS has. The ranges
come from the reference runtime instead; the graph passes that place ``quantize`` and ``dequantize``
are coremltools' own.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional

import torch
from torch import Tensor

from ...errors import ExportError
from ..program import quiet
from ..program.graph import Feature, Program
from ..program.quiet import graph_pass, run_passes
from ..program.read import read_program
from ..runtime.load import ReferenceProgram
from .storage import Scheme
from .weights import find_weights

_FLOATS = ('fp16', 'fp32')
_AT_ONCE = 4  # images; all values of a program are alive at the same time

Batches = Iterable[Mapping[str, Tensor]]
#: Value name to its least and largest number.
Ranges = dict[str, tuple[float, float]]


class W8A8(Scheme):
    """Weights and activations of 8 bits.

    :func:`compress_activations` makes them.
    """

    name = 'w8a8'
    max_drop = 0.5
    oldest = 'iOS17'
    reads = 'quantized activations'
    no_network = 'a .mlmodel has no quantized activations'

    @classmethod
    def named(cls, name: str) -> Optional[Scheme]:
        return cls() if name == cls.name else None


def compress_activations(source: Path, out: Path, batches: Batches) -> Path:
    """Write ``source`` with weights and activations of 8 bits to ``out``.

    Weights get a scale for each output channel, activations one scale, both symmetric about zero.
    What the stem and the classifier read stays fp16: pixels have 8 bits before their mean is
    subtracted, and the classifier reads few numbers.

    Args:
        source: ``.mlpackage`` for iOS 17 or later, with dense weights.
        out: ``.mlpackage`` that does not exist.
        batches: what to calibrate on, as of ``LoadedProgram.predict_batch``.

    Returns:
        ``out``.

    Raises:
        ExportError: nothing to calibrate on, values that are not finite, or coremltools refuses.
        ProgramError: the file cannot be read or executed.
    """
    program = read_program(source)
    ranges = measure_ranges(program, batches)
    if not ranges:
        raise ExportError(
            f'{source}: activations are quantized by the '
            'ranges that they have on images; none were given'
        )
    wild = [
        name
        for name, (low, high) in ranges.items()
        if not float('-inf') < low <= high < float('inf')
    ]
    if wild:
        raise ExportError(
            f'{source}: activations {", ".join(wild)} are not finite, and have no range'
        )
    run_passes(source, _passes(program, ranges), out)
    if 'quantize' not in read_program(out).count_operations():
        raise ExportError(f'{source}: coremltools quantized no activation')
    return out


def measure_ranges(program: Program, batches: Batches) -> Ranges:
    """Least and largest number of every floating-point value of a program.

    Args:
        program: a Core ML file, as read from disk.
        batches: inputs as of ``LoadedProgram.predict_batch``.

    Returns:
        Value name to (least, largest), the model's inputs among them; empty without batches.

    Raises:
        ProgramError: the file cannot be executed, or fed so.
    """
    names = [
        name
        for op in program.operations
        for name, dtype in zip(op.outputs, op.dtypes)
        if dtype in _FLOATS
    ]
    shown = replace(program, outputs=tuple(Feature(name, 'tensor') for name in names))
    runtime = ReferenceProgram(shown, 'fp16', False, torch.device('cpu'))
    ranges: Ranges = {}
    for batch in batches:
        count = len(next(iter(batch.values())))
        for start in range(0, count, _AT_ONCE):
            part = {k: v[start : start + _AT_ONCE] for k, v in batch.items()}
            _widen(ranges, {**part, **runtime.predict_batch(part)})
    return ranges


def _widen(ranges: Ranges, values: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        # nan has no order: amin and amax keep it, and so must the range.
        found = torch.stack([value.amin(), value.amax()]).double()
        if name in ranges:
            known = torch.tensor(ranges[name], dtype=torch.float64)
            found = torch.stack([torch.minimum(found, known)[0], torch.maximum(found, known)[1]])
        ranges[name] = (float(found[0]), float(found[1]))


def _passes(program: Program, ranges: Ranges) -> list[Any]:
    co = quiet.module('coremltools.optimize.coreml')
    eight = co.OpLinearQuantizerConfig(mode='linear_symmetric', dtype='int8', weight_threshold=0)
    weights = find_weights(program)
    inner = {w.name: None if w.role else eight for w in weights}
    activations = co.OptimizationConfig(global_config=eight, op_name_configs=inner)
    placed = dict(
        config=activations,
        activation_stats={
            name: {'rmin': low, 'rmax': high} for name, (low, high) in ranges.items()
        },
    )
    pair = 'quantize_dequantize_pair'
    return [
        graph_pass(f'compression::insert_prefix_{pair}', **placed),
        graph_pass(f'compression::insert_suffix_{pair}', **placed),
        graph_pass('common::dequantize_quantize_pair_elimination'),
        graph_pass(
            'compression::linear_quantize_weights',
            config=co.OptimizationConfig(op_name_configs={w.name: eight for w in weights}),
            joint_compression=False,
        ),
    ]
