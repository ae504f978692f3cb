"""Write a package whose weights are stored as a plan says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import ExportError
from ..program import quiet
from ..program.passes import graph_pass, run_passes
from ..program.read import read_program
from ..targets import target_of
from .kmeans import Palettes
from .storage import DENSE, PASSES, Joint, Storage
from .weights import Weight, find_weights

#: Operation name to how its weight is stored; others stay as they are.
Plan = Mapping[str, Storage]


def apply_plan(source: Path, plan: Plan, out: Path, palettes: Palettes) -> Path:
    """Write a copy of ``source`` to ``out`` with weights stored by ``plan``.

    Interface, labels and metadata stay. Weights are pruned first; the values that are left then get
    a table or integers.

    Args:
        source: ``.mlpackage`` whose weights in the plan are dense.
        plan: operation name to storage.
        out: ``.mlpackage`` that does not exist.
        palettes: remembers tables.

    Returns:
        ``out``.

    Raises:
        ExportError: the plan names an operation without weights, the file's deployment target
            cannot hold a weight so, or coremltools refuses.
        ProgramError: the file cannot be read.
    """
    program = read_program(source)
    system = target_of(program)
    weights = {w.name: w for w in find_weights(program)}
    chosen = {name: storage for name, storage in plan.items() if storage != DENSE}
    _check(chosen, weights, system, source)
    run_passes(source, list(_passes(chosen, weights, system, palettes)), out)
    _check_stored(out, chosen)
    return out


def _check(plan: Plan, weights: Mapping[str, Weight], system: str, source: Path) -> None:
    for name, storage in plan.items():
        if name not in weights:
            raise ExportError(
                f'{source} has no operation {name!r} with a weight; it has: {", ".join(weights)}'
            )
        if weights[name].stored_as:
            raise ExportError(
                f'{source}: the weight of {name!r} is already stored as {weights[name].stored_as}'
            )
        if system < storage.oldest:
            raise ExportError(
                f'{source}: a weight stored as {storage.name} needs a deployment target of '
                f'{storage.oldest}; the file is for {system}'
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
    configs: dict[str, dict[str, Any]] = {name: {} for name in PASSES}
    for name, storage in plan.items():
        weight = weights[name]
        for step, config in storage.passes(weight.values, system, palettes).items():
            configs[step].update(dict.fromkeys((name, *weight.sharing), config))
    joint = any(isinstance(storage, Joint) for storage in plan.values())
    for step, found in configs.items():
        if found:
            yield graph_pass(
                f'compression::{step}',
                config=optimize.OptimizationConfig(op_name_configs=found),
                joint_compression=joint and step != PASSES[0],
            )
