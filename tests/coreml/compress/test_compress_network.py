"""``.mlmodel``: 8 bits and tables, over coremltools' own quantizer."""

from __future__ import annotations

import numpy as np
import pytest
from compress_kit import NAMES, images, save_small, scores_of
from runtime_kit import relative_error

from mmpretrain_mobileone_ext.coreml.compress import compress_file
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.errors import ExportError

BOUNDS = {'int8': 0.02, 'palettize8': 0.02, 'palettize6': 0.05, 'palettize4': 0.2, 'palettize2': 1}


@pytest.fixture(scope='module')
def wide(tmp_path_factory):
    """With fp32 weights."""
    return save_small(tmp_path_factory.mktemp('nn'), kind='neuralnetwork')


@pytest.fixture(scope='module')
def half(wide):
    """With fp16 weights, as the exporter writes them."""
    ct = quiet.coremltools()
    utils = quiet.module('coremltools.models.neural_network.quantization_utils')
    model = ct.models.MLModel(str(wide), skip_model_load=True)
    spec = utils.quantize_weights(model, 16)
    path = wide.with_name('half.mlmodel')
    ct.models.utils.save_spec(getattr(spec, 'get_spec', lambda: spec)(), str(path))
    return path


def layers_of(path):
    spec = quiet.coremltools().models.utils.load_spec(str(path))
    return [
        getattr(la, la.WhichOneof('layer'))
        for la in spec.neuralNetworkClassifier.layers
        if la.WhichOneof('layer') in ('convolution', 'innerProduct')
    ]


@pytest.mark.parametrize('scheme', BOUNDS)
def test_schemes(half, scheme, tmp_path, capfd):
    out = compress_file(half, scheme, tmp_path / 'out.mlmodel')
    assert capfd.readouterr().out == ''
    assert out.stat().st_size < 0.8 * half.stat().st_size
    error = relative_error(scores_of(out, images()), scores_of(half, images()))
    assert 1e-5 < error < BOUNDS[scheme]
    program = read_program(out)
    assert program.classes == tuple(NAMES)
    assert program.metadata['author'] == 'A. Author'


def test_dense_values(half, tmp_path):
    """Decoded from the specification by NumPy alone."""
    out = compress_file(half, 'palettize4', tmp_path / 'out.mlmodel')
    before = [np.frombuffer(la.weights.float16Value, np.float16) for la in layers_of(half)]
    after = layers_of(out)
    bits = [la.weights.quantization.numberOfBits for la in after]
    assert bits == [8, 8, 4, 8, 4, 8]
    large = after[4].weights
    table = np.array(large.quantization.lookupTableQuantization.floatValue)
    assert len(table) == 16
    packed = np.frombuffer(large.rawValue, np.uint8)
    indices = np.stack([packed >> 4, packed & 15], 1).reshape(-1)
    error = table[indices] - before[4].astype(float)
    assert np.linalg.norm(error) < 0.25 * np.linalg.norm(before[4])
    found = read_program(out)
    convs = [op for op in found.operations if op.type == 'conv']
    np.testing.assert_allclose(
        np.asarray(convs[4].inputs['weight']).reshape(-1), table[indices], rtol=1e-6
    )


def test_fp32_weights_too(wide, half, tmp_path):
    a = compress_file(wide, 'int8', tmp_path / 'a.mlmodel')
    b = compress_file(half, 'int8', tmp_path / 'b.mlmodel')
    x = images()
    assert relative_error(scores_of(a, x), scores_of(b, x)) < 0.01


def test_biases_stay(half, tmp_path):
    out = compress_file(half, 'int8', tmp_path / 'out.mlmodel')
    for before, after in zip(layers_of(half), layers_of(out)):
        assert before.bias == after.bias
        assert not after.weights.float16Value
        assert not after.weights.floatValue


def test_refused(half, tmp_path):
    done = compress_file(half, 'int8', tmp_path / 'done.mlmodel')
    out = tmp_path / 'out.mlmodel'
    with pytest.raises(ExportError, match='are already compressed'):
        compress_file(done, 'palettize4', out)
    for scheme in ('prune50', 'joint', 'w8a8'):
        with pytest.raises(ExportError, match=r'needs an .mlpackage'):
            compress_file(half, scheme, out)
    assert not out.exists()
