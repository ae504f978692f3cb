"""Read a ``neuralnetwork`` model (``.mlmodel``) as MIL operations."""

from __future__ import annotations

from typing import Any

import numpy as np

from ....errors import ProgramError
from ..budget import Ledger
from ..graph import Operation, Value
from ..mil import MAX_OPERATIONS
from . import layers  # noqa: F401
from .registry import Emitter

__all__ = ['read_operations']

_EXACT = 1
_BIAS_ORDER = {
    'RGB': ('redBias', 'greenBias', 'blueBias'),
    'BGR': ('blueBias', 'greenBias', 'redBias'),
    'GRAYSCALE': ('grayBias',),
}


def read_operations(spec: Any, kind: str, ledger: Ledger) -> tuple[Operation, ...]:
    """Return a neural network's layers in the vocabulary of MIL.

    Args:
        spec (Model): Parsed ``CoreML.Specification.Model``.
        kind (str): ``'neuralNetwork'`` or ``'neuralNetworkClassifier'``.
        ledger (Ledger): Takes the bytes of the weights.

    Returns:
        tuple[Operation, ...]: Image preprocessing, layers, and for a classifier a final
        ``classify``.

    Raises:
        ProgramError: If a layer kind, a variant of one, or the input mapping is not supported.
    """
    network = getattr(spec, kind)
    _check_mapping(spec, network)
    if len(network.layers) > MAX_OPERATIONS:
        raise ProgramError(
            f'the network has {len(network.layers)} layers; allowed: {MAX_OPERATIONS}'
        )
    renamed: dict[str, str] = {}
    emitter = Emitter(renamed, ledger)
    for step in network.preprocessing:
        emitter.operations += _preprocess(step, spec, renamed)
    for item in network.layers:
        emitter.enter(item)
    if kind == 'neuralNetworkClassifier':
        emitter.operations.append(_classify(spec, network))
    return tuple(emitter.operations)


def _check_mapping(spec: Any, network: Any) -> None:
    """Refuse the rank-5 array inputs of files older than Core ML 3."""
    has_array = any(
        item.type.WhichOneof('Type') == 'multiArrayType' for item in spec.description.input
    )
    if has_array and network.arrayInputShapeMapping != _EXACT:
        raise ProgramError(
            'array inputs with the rank-5 mapping of Core ML 2 are not '
            'supported; allowed: EXACT_ARRAY_MAPPING'
        )


def _preprocess(step: Any, spec: Any, renamed: dict[str, str]) -> list[Operation]:
    """Image preprocessing: ``channelScale * x + bias`` per channel."""
    image = next(item for item in spec.description.input if step.featureName in ('', item.name))
    if step.WhichOneof('preprocessor') != 'scaler':
        raise ProgramError(
            f'input {image.name!r}: preprocessing by a mean image is not supported; allowed: scaler'
        )
    layout = image.type.imageType
    names = _BIAS_ORDER[layout.ColorSpace.Name(layout.colorSpace)]
    bias = [getattr(step.scaler, name) for name in names]
    scaled, biased = f'{image.name}__scaled__', f'{image.name}__biased__'
    renamed[image.name] = biased
    factor = np.float32(step.scaler.channelScale)
    offset = np.array(bias, np.float32).reshape(1, -1, 1, 1)
    return [_binary('mul', image.name, factor, scaled), _binary('add', scaled, offset, biased)]


def _binary(op_type: str, x: str, y: Any, output: str) -> Operation:
    return Operation(
        name=output,
        type=op_type,
        inputs={'x': Value(x), 'y': y},
        outputs=(output,),
        dtypes=('fp32',),
        attributes={'layer': 'preprocessing'},
    )


def _classify(spec: Any, network: Any) -> Operation:
    """The classifier's head: label and dictionary of probabilities."""
    labels = getattr(network, str(network.WhichOneof('ClassLabels')))
    description = spec.description
    source = network.labelProbabilityLayerName
    if not source:
        source = network.layers[-1].output[0]
    # The dictionary usually shares its name with the layer it comes from.
    return Operation(
        name='classify',
        type='classify',
        inputs={'probabilities': Value(source), 'classes': tuple(labels.vector)},
        outputs=(description.predictedFeatureName, description.predictedProbabilitiesName),
        dtypes=('string', 'dictionary'),
        attributes={'layer': 'classifier'},
    )
