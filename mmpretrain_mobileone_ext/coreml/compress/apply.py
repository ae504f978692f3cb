"""Apply a plan: write a compressed ``.mlpackage`` or ``.mlmodel``."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import ExportError
from ...utils.text import one_line
from ..program import quiet
from ..program.quiet import graph_pass, run_passes
from ..program.read import read_program
from ..targets import target_of
from .kmeans import Palettes
from .scheme import AUTO, check_scheme, storage_for
from .storage import DENSE, PASSES, Joint, Storage
from .weights import Weight, find_weights

#: Operation name to how its weight is stored; others stay as they are.
Plan = Mapping[str, Storage]


@dataclass(frozen=True)
class Store:
    """How files of one format hold weights.

    Attributes:
        read: the dense weights of a file for a deployment target, in execution order; refuses a
            target that cannot hold others.
        write: a copy of the first file to a new one with weights stored by a plan, as
            :func:`apply_plan`.
        size: bytes of a weight stored one way, for a deployment target.
    """

    read: Callable[[Path, str], tuple[Weight, ...]]
    write: Callable[[Path, Plan, Path, Palettes], Path]
    size: Callable[[Storage, np.ndarray, str], int] = Storage.size


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


def _read(source: Path, target: str) -> tuple[Weight, ...]:
    check_scheme(AUTO, target, 'mlprogram')
    program = read_program(source)
    if target_of(program) != target:
        raise ExportError(f'{source} is for {target_of(program)}, not for {target}')
    return find_weights(program)


MLPACKAGE = Store(_read, apply_plan)


def compress_network(source: Path, storage: Storage, out: Path) -> Path:
    """Write ``source`` with int8 or palettized weights to ``out``.

    coremltools' quantizer reads fp32 weights only, and leaves a network of fp16 weights as it is
    without a word: they are widened for it first. Biases stay as they are.

    Args:
        source: ``.mlmodel``.
        storage: int8 or a table; see :func:`.scheme.storage_for` for layers that keep more bits.
        out: ``.mlmodel``.

    Returns:
        ``out``.

    Raises:
        ExportError: the file holds no convolution or inner product, or weights that are compressed
            already.
    """
    utils = quiet.module('coremltools.models.neural_network.quantization_utils')
    ct = quiet.coremltools()
    spec = ct.models.utils.load_spec(str(source))
    stored = dict(_storages(spec, storage, source))
    for own in sorted(set(stored.values()), key=lambda s: s.name):
        spec = _quantize(utils, spec, own, {name for name, s in stored.items() if s == own})
    ct.models.utils.save_spec(spec, str(out))
    return out


def _storages(spec: Any, wanted: Storage, source: Path) -> Iterator[tuple[str, Storage]]:
    """Name and storage of the layers to compress, their weights as fp32."""
    network = getattr(spec, spec.WhichOneof('Type'))
    found = [
        layer
        for layer in network.layers
        if layer.WhichOneof('layer') in ('convolution', 'innerProduct')
    ]
    if not found:
        raise ExportError(f'{source} has no convolution or inner product')
    for i, layer in enumerate(found):
        kind = str(layer.WhichOneof('layer'))
        content, conv = getattr(layer, kind), kind == 'convolution'
        if content.weights.HasField('quantization'):
            raise ExportError(f'{source}: the weights of {layer.name!r} are already compressed')
        _widen(content.weights)
        last = i == len(found) - 1 and not conv
        depthwise = conv and content.nGroups > 1 == content.kernelChannels
        role = 'first' if i == 0 else 'last' if last else ''
        count = len(content.weights.floatValue)
        yield layer.name, storage_for(wanted, role, depthwise, count)


def _widen(weights: Any) -> None:
    if weights.float16Value:
        halves = np.frombuffer(weights.float16Value, np.float16)
        weights.floatValue.extend(halves.astype(np.float32))
        weights.float16Value = b''


def _quantize(utils: Any, spec: Any, storage: Storage, names: set[str]) -> Any:
    """One call of coremltools' quantizer, which prints every layer."""
    model = quiet.coremltools().models.MLModel(spec, skip_model_load=True)
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            result = utils.quantize_weights(model, selector=_Selector(names), **storage.quantizer())
    except Exception as error:
        # What it raises is a plain Exception.
        raise ExportError(
            f'coremltools cannot store weights as {storage.name}: {one_line(error)}'
        ) from error
    # A specification where Core ML is missing, a model on macOS.
    return result.get_spec() if hasattr(result, 'get_spec') else result


class _Selector:
    """coremltools asks it which layers to quantize; never their biases."""

    def __init__(self, names: set[str]):
        self._names = names

    def do_quantize(self, layer: Any, weight_param: str = 'weights') -> bool:
        """Whether to quantize ``weight_param`` of a layer."""
        return layer.name in self._names and weight_param == 'weights'
