"""Write a package whose weights are stored as a plan says."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ExportError
from ..program import quiet
from ..program.passes import graph_pass, run_passes
from ..program.read import read_program
from ..targets import target_of
from .coding import DENSE, Form, Weight, find_weights, group_size, prune_threshold
from .kmeans import Palettes

#: Operation name to the form of its weight; others stay as they are.
Plan = Mapping[str, Form]
Configs = dict[str, Any]
#: coremltools' graph passes, in the order in which forms combine.
_PASSES = ('prune_weights', 'palettize_weights', 'linear_quantize_weights')


def apply_plan(source: Path, plan: Plan, out: Path, palettes: Palettes) -> Path:
    """Write a copy of ``source`` to ``out`` with weights stored by ``plan``.

    Interface, labels and metadata stay. Weights are pruned first; the values
    that are left then get a table or integers.

    Args:
        source: ``.mlpackage`` whose weights in the plan are dense.
        plan: operation name to form.
        out: ``.mlpackage`` that does not exist.
        palettes: remembers tables.

    Returns:
        ``out``.

    Raises:
        ExportError: the plan names an operation without weights, the file's
            deployment target cannot hold a form, or coremltools refuses.
        ProgramError: the file cannot be read.
    """
    program = read_program(source)
    system = target_of(program)
    weights = {w.name: w for w in find_weights(program)}
    chosen = {name: form for name, form in plan.items() if form != DENSE}
    _check(chosen, weights, system, source)
    run_passes(source, list(_passes(chosen, weights, system, palettes)), out)
    _check_stored(out, chosen)
    return out


def _check(plan: Plan, weights: Mapping[str, Weight], system: str, source: Path) -> None:
    for name, form in plan.items():
        if name not in weights:
            raise ExportError(
                f'{source} has no operation {name!r} with a weight; it has: {", ".join(weights)}'
            )
        if weights[name].stored_as:
            raise ExportError(
                f'{source}: the weight of {name!r} is already stored as {weights[name].stored_as}'
            )
        if system < form.oldest:
            raise ExportError(
                f'{source}: a weight stored as {form.name} needs a '
                f'deployment target of {form.oldest}; the file is for '
                f'{system}'
            )


def _check_stored(out: Path, plan: Plan) -> None:
    """coremltools skips what it cannot do with no more than a warning."""
    stored = {w.name: w.stored_as for w in find_weights(read_program(out))}
    missing = [name for name in plan if not stored.get(name)]
    if missing:
        raise ExportError(f'coremltools left the weights of {", ".join(missing)} as they were')


def _passes(
    plan: Plan, weights: Mapping[str, Weight], system: str, palettes: Palettes
) -> Iterator[Any]:
    """coremltools' passes that have something to do, with their options."""
    optimize = quiet.module('coremltools.optimize.coreml')
    configs = _configs(plan, weights, system, palettes)
    joint = any(form.pruned and form.code for form in plan.values())
    for name in _PASSES:
        if configs[name]:
            yield graph_pass(
                f'compression::{name}',
                config=optimize.OptimizationConfig(op_name_configs=configs[name]),
                joint_compression=joint and name != 'prune_weights',
            )


def _configs(
    plan: Plan, weights: Mapping[str, Weight], system: str, palettes: Palettes
) -> dict[str, Configs]:
    """Settings of every pass: operation name to coremltools' object."""
    found: dict[str, Configs] = {name: {} for name in _PASSES}
    for name, form in plan.items():
        weight = weights[name]
        for step, config in _settings(weight, form, system, palettes):
            for operation in (name, *weight.sharing):
                found[step][operation] = config
    return found


def _settings(
    weight: Weight, form: Form, system: str, palettes: Palettes
) -> Iterator[tuple[str, Any]]:
    """The passes that make a form, with coremltools' settings."""
    co = quiet.module('coremltools.optimize.coreml')
    if form.pruned:
        yield (
            'prune_weights',
            co.OpThresholdPrunerConfig(
                threshold=prune_threshold(weight.values, form.pruned),
                minimum_sparsity_percentile=0.0,
                weight_threshold=0,
            ),
        )
    if form.code == 'int8':
        yield (
            'linear_quantize_weights',
            co.OpLinearQuantizerConfig(mode='linear', dtype='int8', weight_threshold=0),
        )
    if form.code == 'table':
        size = group_size(weight.shape, form.bits, system)
        groups = dict(granularity='per_grouped_channel', group_size=size)
        yield (
            'palettize_weights',
            co.OpPalettizerConfig(
                mode='custom',
                lut_function=_lut_function(form, palettes),
                weight_threshold=0,
                **(groups if system == 'iOS18' else {}),
            ),
        )


def _lut_function(form: Form, palettes: Palettes) -> Callable[..., Any]:
    """What coremltools calls with the weights of one table."""

    def find(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        table, indices = palettes(values, form.bits, form.pruned > 0)
        return table, indices.reshape(-1)

    return find
