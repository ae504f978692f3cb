"""The one place that drives coremltools: convert a network, and save it."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import ExportError
from ..models.preprocessing import Preprocessing
from ..utils.machine import untouched_rng
from ..utils.text import one_line
from .compress.trained import teach_rounding
from .front_end import FrontEnds, Shape
from .program import quiet
from .targets import FRONT_END

INPUT = 'image'
LABEL = 'classLabel'
PROBABILITIES = 'classLabel_probs'
#: What coremltools leaves in a package of an exported network; no app needs it.
_DEBUG = 'executorch_debug_handle_mapping.json'


def convert_and_save(
    network: Any,
    preprocessing: Preprocessing,
    labels: Sequence[str],
    options: Any,
    path: Path,
    keep_fp32: frozenset[str] = frozenset(),
) -> None:
    """Convert a network and save it to ``path``, as ``Format.convert``.

    The input is ``image``. A classifier outputs ``classLabel`` and the dictionary
    ``classLabel_probs``; with more ``batch_sizes`` than 1 only ``classLabel_probs``, float32 (N,
    classes). A backbone outputs float32 maps (N, C, H, W) under ``network.features``.

    Args:
        network: an ``export.network.Prepared``.
        preprocessing: what its input is.
        labels: class labels in the order of the logits; unused for features.
        options: an ``export.options.ExportOptions``; precision 'auto' is fp16 but for
            ``keep_fp32``.
        keep_fp32: names of operations.

    Raises:
        ExportError: coremltools cannot convert the network, or not for every size and batch size.
    """
    shapes = options.input_shapes(preprocessing)
    mean = None if options.input == 'image' else preprocessing.mean
    front_ends = network.once(
        (FrontEnds, mean, shapes), lambda: FrontEnds(network.graph(mean), shapes)
    )
    is_program = options.format.name == 'mlprogram'
    try:
        with quiet.conversion() as ct, untouched_rng():
            teach_rounding()
            settings = dict(
                inputs=[_input(ct, preprocessing, options.input, shapes)],
                convert_to=options.format.name,
                compute_units=getattr(ct.ComputeUnit, options.compute_units),
                skip_model_load=True,
                **_outputs(ct, network.features, labels, options, is_program),
                **(_typing(ct, options, keep_fp32) if is_program else {}),
            )

            def convert(program: Any) -> Any:
                model = ct.convert(program, **settings)
                if not is_program:
                    return _finished(ct, model, options)
                check_classify(model.get_spec())
                return model

            model, front_end = front_ends.convert(convert)
            model.user_defined_metadata[FRONT_END] = front_end
            _save(model, path)
    except ExportError:
        raise
    # Whatever op is not supported, coremltools has its own error for it.
    except Exception as error:
        raise ExportError(
            f'coremltools cannot convert the network{_for_all(shapes)} ({one_line(error, 500)})'
        ) from error


def _save(model: Any, path: Path) -> None:
    model.save(str(path))
    if path.is_dir():
        (path / _DEBUG).unlink(missing_ok=True)


def _for_all(shapes: Sequence[Shape]) -> str:
    if len(shapes) == 1:
        return ''
    return f' for {len(shapes)} input shapes at once (without further sizes and batch sizes it may)'


def _input(ct: Any, pre: Preprocessing, kind: str, shapes: tuple[Shape, ...]) -> Any:
    shape = as_coremltools(ct, shapes)
    if kind == 'tensor':
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


def as_coremltools(ct: Any, shapes: tuple[Shape, ...]) -> Any:
    """The ``shape`` argument of an input type of coremltools."""
    if len(shapes) == 1:
        return shapes[0]
    return ct.EnumeratedShapes(list(shapes), default=shapes[0])


def _outputs(
    ct: Any, features: Sequence[str], labels: Sequence[str], options: Any, is_program: bool
) -> dict[str, Any]:
    if options.is_classifier:
        return {
            'classifier_config': ct.ClassifierConfig(list(labels), predicted_feature_name=LABEL)
        }
    # From iOS 16 on, the default of an mlprogram would be fp16.
    dtype = {'dtype': np.float32} if is_program else {}
    return {'outputs': [ct.TensorType(name=n, **dtype) for n in features or (PROBABILITIES,)]}


def _typing(ct: Any, options: Any, keep_fp32: frozenset[str]) -> dict[str, Any]:
    """Precision and target of an mlprogram."""
    if options.precision == 'fp32':
        precision = ct.precision.FLOAT32
    else:
        precision = ct.transform.FP16ComputePrecision(
            op_selector=lambda op: op.name not in keep_fp32
        )
    return {
        'compute_precision': precision,
        'minimum_deployment_target': getattr(ct.target, options.deployment_target),
    }


def _finished(ct: Any, model: Any, options: Any) -> Any:
    """A neuralnetwork with half-precision weights and our names."""
    if options.precision != 'fp32':
        utils = quiet.module('coremltools.models.neural_network.quantization_utils')
        # It prints a line a layer.
        with contextlib.redirect_stdout(io.StringIO()):
            model = utils.quantize_weights(model, 16)
    spec = model.get_spec()
    if options.is_classifier:
        ct.utils.rename_feature(spec, spec.description.predictedProbabilitiesName, PROBABILITIES)
        spec.neuralNetworkClassifier.labelProbabilityLayerName = PROBABILITIES
    return ct.models.MLModel(spec, skip_model_load=True)


def check_classify(spec: Any) -> None:
    """Refuse a classifier that no device compiles.

    Core ML needs the shape of the probabilities to be known; coremltools converts without it
    (apple/coremltools#2764, #2793).

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
