"""What a converter makes of a layer that rounds what it reads."""

import numpy as np
import pytest
import torch
from helpers import assert_close
from torch import nn

from mmpretrain_mobileone_ext.coreml.compress.trained import (
    RoundedInput,
    Rounding,
    rounding_of,
    teach_rounding,
)
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.runtime.load import load_program
from mmpretrain_mobileone_ext.models import quantization as q

INPUTS = 0.03 * torch.arange(-150.0, 150).view(1, 3, 10, 10)


def traced(net):
    return torch.jit.trace(net, INPUTS)


def exported(net):
    return torch.export.export(net, (INPUTS,)).run_decompositions({})


@pytest.mark.filterwarnings('ignore::FutureWarning')
@pytest.mark.filterwarnings('ignore::DeprecationWarning')
@pytest.mark.parametrize('front_end', [traced, exported])
@pytest.mark.parametrize(('low', 'high'), [(-128, 127), (0, 255)])
@pytest.mark.parametrize('precision', ['FLOAT32', 'FLOAT16'])
def test_rounding_is_converted(tmp_path, front_end, low, high, precision):
    net = RoundedInput(nn.Conv2d(3, 4, 3), 0.011, low, high).eval()
    with torch.no_grad():
        wanted = net(INPUTS)
    with quiet.conversion() as ct, torch.no_grad():
        teach_rounding()
        teach_rounding()  # a second export in one process
        model = ct.convert(
            front_end(net),
            inputs=[ct.TensorType(name='x', shape=INPUTS.shape, dtype=np.float32)],
            outputs=[ct.TensorType(name='y', dtype=np.float32)],
            minimum_deployment_target=ct.target.iOS17,
            compute_precision=getattr(ct.precision, precision),
            skip_model_load=True,
        )
    path = tmp_path / 'a.mlpackage'
    model.save(str(path))
    program = read_program(path)
    (op,) = (op for op in program.operations if op.type == 'quantize')
    assert op.inputs['output_dtype'] == ('int8' if low else 'uint8')
    found = load_program(path).predict_batch({'x': INPUTS})['y']
    assert_close([wanted], [found], 1e-5 if precision == 'FLOAT32' else 2e-3)
    clipped = net.layer(INPUTS)
    with pytest.raises(AssertionError):
        assert_close([clipped], [found], 2e-3)


def test_what_rounds_is_told_in_words():
    assert not Rounding()
    assert Rounding((8,)).words == 'weights of 8 bits'
    assert Rounding((4, 8), (8,)).words == 'weights of 4 and 8 bits and activations of 8 bits'


def test_quantizers_that_are_off_round_nothing():
    net = nn.Sequential(q.QuantizedLinear.of(nn.Linear(2, 2), q.Quantizer(4)))
    assert not rounding_of(net)
    net[0].quantizer.phase = q.Quantizer.FROZEN
    assert rounding_of(net) == Rounding((4,))
