"""The one place that drives coremltools' front end: trace and convert."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from ..errors import ExportError, ParityError
from ..models.preprocessing import Preprocessing
from ..utils.machine import untouched_rng
from ..utils.parity import Tolerance, worst
from ..utils.text import one_line
from .program import quiet

Shape = tuple[int, int, int, int]
INPUT = 'image'
LABEL = 'classLabel'
PROBABILITIES = 'classLabel_probs'
_SAME = Tolerance('trace', 1e-4)


class Network(Protocol):
    """What is converted; ``export.network`` has it."""

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the outputs of a backbone; none of a classifier."""

    def graph(self, mean: Any) -> torch.nn.Module:
        """The module to trace; ``mean`` None where the input subtracts."""


class Request(Protocol):
    """What is asked for; ``export.options`` has it."""

    @property
    def format(self) -> str:
        """'mlprogram' or 'neuralnetwork'."""

    @property
    def precision(self) -> str:
        """'fp16', 'fp32' or 'auto'."""

    @property
    def deployment_target(self) -> str:
        """Oldest iOS."""

    @property
    def compute_units(self) -> str:
        """A name of ``coremltools.ComputeUnit``."""

    @property
    def input(self) -> str:
        """'image' or 'tensor'."""

    @property
    def is_classifier(self) -> bool:
        """Whether the program says a label."""

    def input_shapes(self, pre: Preprocessing) -> tuple[Shape, ...]:
        """Every shape (N, C, H, W) of the input, the default first."""


def check_trace(
    graph: Callable[[Tensor], Any], traced: Callable[[Tensor], Any], shapes: Sequence[Shape]
) -> None:
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
            raise ExportError(f'{fixed} {shape} (N, C, H, W): {error}') from None


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
        raise ExportError(
            f'{what} {tuple(pixels.shape)} (N, C, H, W): {one_line(error)}'
        ) from error


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
    types = {output.name: output.type for op in block.operations for output in op.outputs}
    for op in block.operations:
        if op.type != 'classify':
            continue
        name = op.inputs['probabilities'].arguments[0].name
        sizes = types[name].tensorType.dimensions
        if any(s.WhichOneof('dimension') != 'constant' for s in sizes):
            raise ExportError(
                f'the shape of the probabilities ({name!r}) depends on the '
                'input shape after conversion, and Core ML compiles no such '
                "classifier; give one image size, or outputs='features'"
            )


def convert_and_save(
    prepared: Network,
    pre: Preprocessing,
    classes: Sequence[str],
    options: Request,
    path: Path,
    keep_fp32: frozenset[str] = frozenset(),
) -> None:
    """Convert and save to ``path``, whose suffix is that of the format.

    The input is ``image``. A classifier outputs ``classLabel`` and the
    dictionary ``classLabel_probs``; with more ``batch_sizes`` than 1 only
    ``classLabel_probs``, float32 (N, classes). A backbone outputs float32
    maps under ``prepared.features``.

    Args:
        prepared: the network.
        pre: what its input is.
        classes: labels in the order of the logits; unused for features.
        options: what is asked for; precision 'auto' is fp16 but for
            ``keep_fp32``, names of operations.

    Raises:
        ExportError: coremltools cannot convert the network, or not for
            every size and batch size.
    """
    shapes = options.input_shapes(pre)
    graph = prepared.graph(None if options.input == 'image' else pre.mean)
    try:
        with quiet.conversion() as ct, untouched_rng():
            traced = _trace(graph, shapes)
            model = ct.convert(
                traced,
                **_interface(ct, prepared, pre, classes, options, shapes),
                **_kind(ct, options, keep_fp32),
                skip_model_load=True,
            )
            model = _finished(ct, model, options)
            model.save(str(path))
    except ExportError:
        raise
    # Whatever op is not supported, coremltools has its own error for it.
    except Exception as error:
        raise ExportError(
            f'coremltools cannot convert the network{_for_all(shapes)} ({one_line(error, 500)})'
        ) from error


def _for_all(shapes: Sequence[Shape]) -> str:
    if len(shapes) == 1:
        return ''
    return f' for {len(shapes)} input shapes at once (without further sizes and batch sizes it may)'


def _interface(
    ct: Any,
    prepared: Network,
    pre: Preprocessing,
    classes: Sequence[str],
    options: Request,
    shapes: tuple[Shape, ...],
) -> dict[str, Any]:
    """Inputs and outputs, as coremltools' ``convert`` takes them."""
    found: dict[str, Any] = {'inputs': [_input(ct, pre, options.input, shapes)]}
    if options.is_classifier:
        found['classifier_config'] = ct.ClassifierConfig(
            list(classes), predicted_feature_name=LABEL
        )
        return found
    found['outputs'] = [
        ct.TensorType(name=name, **_dtype(options))
        for name in prepared.features or (PROBABILITIES,)
    ]
    return found


def _dtype(options: Request) -> dict[str, Any]:
    """From iOS 16 on, the default of an mlprogram would be fp16."""
    import numpy as np

    return {'dtype': np.float32} if options.format == 'mlprogram' else {}


def _kind(ct: Any, options: Request, keep_fp32: frozenset[str]) -> dict[str, Any]:
    """Format, precision and target, as ``convert`` takes them."""
    found: dict[str, Any] = dict(
        convert_to=options.format, compute_units=getattr(ct.ComputeUnit, options.compute_units)
    )
    if options.format == 'mlprogram':
        found.update(
            compute_precision=_precision(ct, options.precision, keep_fp32),
            minimum_deployment_target=getattr(ct.target, options.deployment_target),
        )
    return found


def _precision(ct: Any, precision: str, keep_fp32: frozenset[str]) -> Any:
    if precision == 'fp32':
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(op_selector=lambda op: op.name not in keep_fp32)


def _trace(graph: torch.nn.Module, shapes: Sequence[Shape]) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        # The file is compared with the network on images: a trace that is
        # wrong for this size fails there, and not by a warning.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(graph, torch.zeros(shapes[0]), check_trace=False)
        check_trace(graph, traced, shapes)
    return traced


def _input(ct: Any, pre: Preprocessing, kind: str, shapes: tuple[Shape, ...]) -> Any:
    shape = as_coremltools(ct, shapes)
    if kind == 'tensor':
        import numpy as np

        # From iOS 16 on, the default would be fp16.
        return ct.TensorType(name=INPUT, shape=shape, dtype=np.float32)
    bias = [0.0 - m for m in pre.mean]
    return ct.ImageType(
        name=INPUT,
        shape=shape,
        scale=1.0,
        bias=bias[0] if pre.channels == 1 else bias,
        color_layout=getattr(ct.colorlayout, pre.layout or ''),
    )


def _finished(ct: Any, model: Any, options: Request) -> Any:
    """Half-precision weights and our names, in a neuralnetwork."""
    if options.format == 'mlprogram':
        check_classify(model.get_spec())
        return model
    if options.precision != 'fp32':
        utils = quiet.module('coremltools.models.neural_network.quantization_utils')
        # It prints a line a layer.
        with contextlib.redirect_stdout(io.StringIO()):
            model = utils.quantize_weights(model, 16)
    spec = model.get_spec()
    if options.is_classifier:
        ct.utils.rename_feature(spec, spec.description.predictedProbabilitiesName, PROBABILITIES)
        classifier = spec.neuralNetworkClassifier
        classifier.labelProbabilityLayerName = PROBABILITIES
    return ct.models.MLModel(spec, skip_model_load=True)


def as_coremltools(ct: Any, shapes: tuple[Shape, ...]) -> Any:
    """The ``shape`` argument of an input type of coremltools."""
    if len(shapes) == 1:
        return shapes[0]
    return ct.EnumeratedShapes(list(shapes), default=shapes[0])
