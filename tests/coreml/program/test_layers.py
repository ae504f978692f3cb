"""The table of layers fits Apple's protobuf and the operations of the runtime."""

from __future__ import annotations

import contextlib
import inspect

import numpy as np
import pytest

from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.budget import Ledger
from mmpretrain_mobileone_ext.coreml.program.neuralnetwork.registry import LAYERS, Emitter
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.errors import ProgramError

DIRECT = sorted(kind for kind, function in LAYERS.items() if function.__name__ == 'translate')


def layer(kind, inputs, **fields):
    made = quiet.coremltools().proto.NeuralNetwork_pb2.NeuralNetworkLayer(name='l')
    made.input.extend(inputs)
    made.output.append('y')
    params = getattr(made, kind)
    params.SetInParent()
    for name, value in fields.items():
        if isinstance(value, list):
            getattr(params, name).extend(value)
        else:
            setattr(params, name, value)
    return made


def translated(kind, inputs, **fields):
    emitter = Emitter({}, Ledger())
    emitter.enter(layer(kind, inputs, **fields))
    return emitter.operations


def test_kinds_are_those_of_the_protobuf():
    proto = quiet.coremltools().proto.NeuralNetwork_pb2.NeuralNetworkLayer
    known = {field.name for field in proto.DESCRIPTOR.oneofs_by_name['layer'].fields}
    assert set(LAYERS) <= known
    assert len(DIRECT) > 30


@pytest.mark.parametrize('kind', DIRECT)
def test_a_direct_layer_is_one_operation_with_its_parameters(kind):
    fits = []
    for count in (1, 2, 3):
        with contextlib.suppress(ProgramError):
            fits += translated(kind, ['a', 'b', 'c'][:count])
    assert fits
    for op in fits:
        inspect.signature(OPS[op.type].function).bind_partial(**op.inputs)


def test_fields_become_parameters():
    (op,) = translated('clip', ['x'], minVal=-1.0, maxVal=2.0)
    assert (op.type, op.inputs['alpha'], op.inputs['beta']) == ('clip', -1, 2)
    (op,) = translated('sliceStatic', ['x'], beginIds=[1], endIds=[4], strides=[2])
    assert (op.inputs['begin'], op.inputs['end'], op.inputs['stride']) == ([1], [4], [2])
    assert 'squeeze_mask' not in op.inputs
    (op,) = translated('lrn', ['x'], localSize=5)
    assert op.inputs['size'] == 5


def test_a_wrong_number_of_inputs_is_refused():
    with pytest.raises(ProgramError, match=r"'l' \(softmaxND\): a number of inputs other than 1"):
        translated('softmaxND', ['x', 'y'])
    with pytest.raises(ProgramError, match='a number of inputs other than 2'):
        translated('gather', ['x'])


def test_activations_with_weights():
    made = layer('activation', ['x'])
    made.activation.PReLU.alpha.floatValue.extend([0.25, 0.5])
    emitter = Emitter({}, Ledger())
    emitter.enter(made)
    (op,) = emitter.operations
    assert op.type == 'prelu'
    assert np.array_equal(op.inputs['alpha'], np.float32([0.25, 0.5]))


def test_more_than_two_inputs_are_combined_from_the_left():
    first, second = translated('max', ['a', 'b', 'c'])
    assert (first.type, second.type) == ('maximum', 'maximum')
    assert second.inputs['x'].name == first.outputs[0]
    assert second.outputs == ('y',)
    (op,) = translated('add', ['a'], alpha=3.0)
    assert (op.type, op.inputs['y']) == ('add', 3)
