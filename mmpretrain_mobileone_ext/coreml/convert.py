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

INPUT = 'image'
LABEL = 'classLabel'
PROBABILITIES = 'classLabel_probs'


def convert_and_save(prepared: Prepared, pre: Preprocessing,
                     classes: Sequence[str], options: ExportOptions,
                     path: Path,
                     keep_fp32: frozenset[str] = frozenset()) -> None:
    """Convert and save to ``path``, whose suffix is that of the format.

    Args:
        prepared: the network.
        pre: what its input is.
        classes: labels in the order of the logits.
        options: format, precision, target and kind of input; precision
            'auto' is fp16 but for ``keep_fp32``.
        keep_fp32: names of the operations that stay in fp32.

    Raises:
        ExportError: coremltools cannot convert the network.
    """
    as_image = options.input == 'image'
    graph = prepared.graph(None if as_image else pre.mean)
    try:
        with quiet.conversion() as ct, untouched_rng():
            model = _convert(ct, graph, pre, classes, options, keep_fp32)
            model = _finished(ct, model, options)
            model.save(str(path))
    # Whatever op is not supported, coremltools has its own error for it.
    except Exception as error:
        raise ExportError(f'coremltools cannot convert the network '
                          f'({one_line(error, 500)})') from error


def _convert(ct: Any, graph: torch.nn.Module, pre: Preprocessing,
             classes: Sequence[str], options: ExportOptions,
             keep_fp32: frozenset[str]) -> Any:
    kind: dict[str, Any] = {}
    if options.format == 'mlprogram':
        kind = dict(
            compute_precision=_precision(ct, options.precision, keep_fp32),
            minimum_deployment_target=getattr(ct.target,
                                              options.deployment_target))
    return ct.convert(
        _trace(graph, torch.zeros(pre.shape)),
        inputs=[_input(ct, pre, options.input)],
        classifier_config=ct.ClassifierConfig(
            list(classes), predicted_feature_name=LABEL),
        convert_to=options.format,
        compute_units=getattr(ct.ComputeUnit, options.compute_units),
        skip_model_load=True,
        **kind)


def _precision(ct: Any, precision: str, keep_fp32: frozenset[str]) -> Any:
    if precision == 'fp32':
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(
        op_selector=lambda op: op.name not in keep_fp32)


def _trace(graph: torch.nn.Module, example: torch.Tensor) -> Any:
    with torch.no_grad(), warnings.catch_warnings():
        # The file is compared with the network on images: a trace that is
        # wrong for this size fails there, and not by a warning.
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        return torch.jit.trace(graph, example, check_trace=False)


def _input(ct: Any, pre: Preprocessing, kind: str) -> Any:
    if kind == 'tensor':
        import numpy as np

        # From iOS 16 on, the default would be fp16.
        return ct.TensorType(name=INPUT, shape=pre.shape, dtype=np.float32)
    bias = [0.0 - m for m in pre.mean]
    return ct.ImageType(
        name=INPUT,
        shape=pre.shape,
        scale=1.0,
        bias=bias[0] if pre.channels == 1 else bias,
        color_layout=getattr(ct.colorlayout, pre.layout or ''))


def _finished(ct: Any, model: Any, options: ExportOptions) -> Any:
    """Half-precision weights and our names, in a neuralnetwork."""
    if options.format == 'mlprogram':
        return model
    if options.precision != 'fp32':
        utils = quiet.module(
            'coremltools.models.neural_network.quantization_utils')
        # It prints a line a layer.
        with contextlib.redirect_stdout(io.StringIO()):
            model = utils.quantize_weights(model, 16)
    spec = model.get_spec()
    ct.utils.rename_feature(
        spec, spec.description.predictedProbabilitiesName, PROBABILITIES)
    classifier = spec.neuralNetworkClassifier
    classifier.labelProbabilityLayerName = PROBABILITIES
    return ct.models.MLModel(spec, skip_model_load=True)
