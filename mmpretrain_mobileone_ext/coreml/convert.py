"""The one place that drives coremltools' front end: trace and convert."""
from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import ExportError
from . import quiet
from .export_model import Prepared
from .export_options import ExportOptions
from .export_source import one_line, untouched_rng
from .preprocess import Preprocessing
from .shape_check import check_classify, check_trace
from .shapes import Shape, as_coremltools, input_shapes, is_classifier

INPUT = 'image'
LABEL = 'classLabel'
PROBABILITIES = 'classLabel_probs'


def convert_and_save(prepared: Prepared, pre: Preprocessing,
                     classes: Sequence[str], options: ExportOptions,
                     path: Path,
                     keep_fp32: frozenset[str] = frozenset()) -> None:
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
    shapes = input_shapes(pre, options)
    graph = prepared.graph(None if options.input == 'image' else pre.mean)
    try:
        with quiet.conversion() as ct, untouched_rng():
            traced = _trace(graph, shapes)
            model = ct.convert(
                traced,
                **_interface(ct, prepared, pre, classes, options, shapes),
                **_kind(ct, options, keep_fp32),
                skip_model_load=True)
            model = _finished(ct, model, options)
            model.save(str(path))
    except ExportError:
        raise
    # Whatever op is not supported, coremltools has its own error for it.
    except Exception as error:
        raise ExportError(
            f'coremltools cannot convert the network{_for_all(shapes)} '
            f'({one_line(error, 500)})') from error


def _for_all(shapes: Sequence[Shape]) -> str:
    if len(shapes) == 1:
        return ''
    return (f' for {len(shapes)} input shapes at once (without further sizes '
            'and batch sizes it may)')


def _interface(ct: Any, prepared: Prepared, pre: Preprocessing,
               classes: Sequence[str], options: ExportOptions,
               shapes: tuple[Shape, ...]) -> dict[str, Any]:
    """Inputs and outputs, as coremltools' ``convert`` takes them."""
    found: dict[str, Any] = {
        'inputs': [_input(ct, pre, options.input, shapes)]}
    if is_classifier(options):
        found['classifier_config'] = ct.ClassifierConfig(
            list(classes), predicted_feature_name=LABEL)
        return found
    found['outputs'] = [
        ct.TensorType(name=name, **_dtype(options))
        for name in prepared.features or (PROBABILITIES, )
    ]
    return found


def _dtype(options: ExportOptions) -> dict[str, Any]:
    """From iOS 16 on, the default of an mlprogram would be fp16."""
    import numpy as np

    return {'dtype': np.float32} if options.format == 'mlprogram' else {}


def _kind(ct: Any, options: ExportOptions,
          keep_fp32: frozenset[str]) -> dict[str, Any]:
    """Format, precision and target, as ``convert`` takes them."""
    found: dict[str, Any] = dict(
        convert_to=options.format,
        compute_units=getattr(ct.ComputeUnit, options.compute_units))
    if options.format == 'mlprogram':
        found.update(
            compute_precision=_precision(ct, options.precision, keep_fp32),
            minimum_deployment_target=getattr(ct.target,
                                              options.deployment_target))
    return found


def _precision(ct: Any, precision: str, keep_fp32: frozenset[str]) -> Any:
    if precision == 'fp32':
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(
        op_selector=lambda op: op.name not in keep_fp32)


def _trace(graph: torch.nn.Module, shapes: Sequence[Shape]) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        # The file is compared with the network on images: a trace that is
        # wrong for this size fails there, and not by a warning.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        traced = torch.jit.trace(graph, torch.zeros(shapes[0]),
                                 check_trace=False)
        check_trace(graph, traced, shapes)
    return traced


def _input(ct: Any, pre: Preprocessing, kind: str,
           shapes: tuple[Shape, ...]) -> Any:
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
        color_layout=getattr(ct.colorlayout, pre.layout or ''))


def _finished(ct: Any, model: Any, options: ExportOptions) -> Any:
    """Half-precision weights and our names, in a neuralnetwork."""
    if options.format == 'mlprogram':
        check_classify(model.get_spec())
        return model
    if options.precision != 'fp32':
        utils = quiet.module(
            'coremltools.models.neural_network.quantization_utils')
        # It prints a line a layer.
        with contextlib.redirect_stdout(io.StringIO()):
            model = utils.quantize_weights(model, 16)
    spec = model.get_spec()
    if is_classifier(options):
        ct.utils.rename_feature(
            spec, spec.description.predictedProbabilitiesName, PROBABILITIES)
        classifier = spec.neuralNetworkClassifier
        classifier.labelProbabilityLayerName = PROBABILITIES
    return ct.models.MLModel(spec, skip_model_load=True)
