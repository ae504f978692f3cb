"""Reading Core ML files: what is found, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runtime_kit import LABELS, classifier_config, image_input, relative_error, save_mil, save_torch

from mmpretrain_mobileone_ext.coreml import load_program, read_program
from mmpretrain_mobileone_ext.coreml.program import quiet

SPEC = 'Data/com.apple.CoreML/model.mlmodel'
WEIGHTS = 'Data/com.apple.CoreML/weights/weight.bin'


def test_package_interface(tiny_package):
    program = read_program(tiny_package)
    assert program.path == tiny_package
    assert program.format == 'mlprogram'
    assert program.spec_version == 7
    (image,) = program.inputs
    assert (image.name, image.kind) == ('image', 'image')
    assert (image.shape, image.dtype) == ((1, 3, 24, 16), 'uint8')
    assert image.color_layout == 'RGB'
    assert [f.kind for f in program.outputs] == ['string', 'dictionary']
    assert program.classes == tuple(LABELS)
    assert program.predicted_feature_name == 'classLabel'
    assert program.predicted_probabilities_name == 'classLabel_probs'


def test_operations_in_order(tiny_package):
    operations = read_program(tiny_package).operations
    types = [op.type for op in operations]
    assert types[:3] == ['mul', 'add', 'conv']
    assert types[-2:] == ['softmax', 'classify']
    assert not any('const' in name for name in types)
    conv = operations[2]
    assert conv.inputs['weight'].shape == (8, 3, 3, 3)
    assert conv.inputs['pad_type'] == 'custom'
    assert conv.dtypes == ('fp32',)
    assert conv.inputs['x'].name == operations[1].outputs[0]


def test_neural_network_interface(tiny_model):
    program = read_program(str(tiny_model))
    assert program.format == 'neuralnetwork'
    assert program.inputs[0].color_layout == 'BGR'
    assert program.classes == tuple(LABELS)
    layers = [op.attributes['layer'] for op in program.operations]
    assert layers[:3] == ['preprocessing', 'preprocessing', 'convolution']
    assert layers[-1] == 'classifier'


def test_neural_network_in_a_package(tiny_model, tmp_path):
    models = quiet.coremltools().models
    model = models.MLModel(str(tiny_model), skip_model_load=True)
    path = tmp_path / 'network.mlpackage'
    model.save(str(path))
    program = read_program(path)
    assert program.format == 'neuralnetwork'
    alone = read_program(tiny_model)
    assert program.count_operations() == alone.count_operations()


def test_array_features(tmp_path):
    path = save_torch(
        torch.nn.ReLU(),
        tmp_path,
        torch.rand(2, 3),
        inputs=[quiet.coremltools().TensorType(name='x', shape=(2, 3))],
    )
    program = read_program(path)
    assert [f.kind for f in (*program.inputs, *program.outputs)] == ['tensor', 'tensor']
    assert (program.inputs[0].shape, program.inputs[0].dtype) == ((2, 3), 'fp32')
    assert program.inputs[0].color_layout is None
    assert program.classes is None
    assert program.predicted_feature_name == ''


def test_metadata(tiny_package, tmp_path):
    model = quiet.coremltools().models.MLModel(str(tiny_package), skip_model_load=True)
    model.author, model.license, model.version = 'A. Author', 'MIT', '1.2'
    model.short_description = 'ants and bees'
    model.user_defined_metadata['mean'] = '[1, 2, 3]'
    path = tmp_path / 'named.mlpackage'
    model.save(str(path))
    metadata = read_program(path).metadata
    assert metadata['author'] == 'A. Author'
    assert metadata['license'] == 'MIT'
    assert metadata['version'] == '1.2'
    assert metadata['description'] == 'ants and bees'
    assert metadata['mean'] == '[1, 2, 3]'
    assert 'com.github.apple.coremltools.version' in metadata
    assert 'author' not in read_program(tiny_package).metadata


def compressions(coremltools):
    """Compression name to (configuration, function)."""
    co = coremltools.optimize.coreml
    palettize = co.OpPalettizerConfig(nbits=4, mode='kmeans', weight_threshold=16)
    quantize = co.OpLinearQuantizerConfig(mode='linear', dtype='int8', weight_threshold=16)
    prune = co.OpMagnitudePrunerConfig(target_sparsity=0.5, weight_threshold=16)
    return {
        'constexpr_lut_to_dense': (palettize, co.palettize_weights),
        'constexpr_affine_dequantize': (quantize, co.linear_quantize_weights),
        'constexpr_blockwise_shift_scale': (quantize, co.linear_quantize_weights),
        'constexpr_sparse_to_dense': (prune, co.prune_weights),
    }


COMPRESSED = [
    ('iOS16', 'constexpr_lut_to_dense'),
    ('iOS16', 'constexpr_affine_dequantize'),
    ('iOS16', 'constexpr_sparse_to_dense'),
    ('iOS18', 'constexpr_lut_to_dense'),
    ('iOS18', 'constexpr_blockwise_shift_scale'),
    ('iOS18', 'constexpr_sparse_to_dense'),
]


@pytest.mark.parametrize(('target', 'stored_as'), COMPRESSED)
def test_compressed_weights(tiny_net, tmp_path, target, stored_as):
    """Against coremltools' own decompression, written out and read back."""
    with quiet.conversion() as ct:
        co = quiet.module('coremltools.optimize.coreml')
        shape = (1, 3, 24, 16)
        path = save_torch(
            tiny_net,
            tmp_path,
            torch.rand(shape),
            inputs=[image_input(shape, scale=1 / 255)],
            classifier_config=classifier_config(),
            minimum_deployment_target=ct.target[target],
        )
        model = ct.models.MLModel(str(path), skip_model_load=True)
        config, compress = compressions(ct)[stored_as]
        small = compress(model, co.OptimizationConfig(global_config=config))
        small.save(str(tmp_path / 'small.mlpackage'))
        dense = co.decompress_weights(small)
        dense.save(str(tmp_path / 'dense.mlpackage'))
    program = read_program(tmp_path / 'small.mlpackage')
    conv = next(op for op in program.operations if op.type == 'conv')
    assert conv.attributes['compressed'] == {'weight': stored_as}
    pixels = {'image': torch.randint(0, 256, (2, *shape[1:]))}
    got, wanted, original = (
        load_program(file).predict_batch(pixels)['classLabel_probs']
        for file in (tmp_path / 'small.mlpackage', tmp_path / 'dense.mlpackage', path)
    )
    assert relative_error(got, wanted) < 1e-6
    assert 1e-5 < relative_error(got, original) < 0.5


def test_quantized_neural_network(tiny_model, tmp_path):
    """fp16, linear and palettized layer weights of a ``.mlmodel``."""
    utils = quiet.module('coremltools.models.neural_network.quantization_utils')
    pixels = {'image': torch.randint(0, 256, (2, 3, 24, 16))}
    original = load_program(tiny_model)
    (name,) = [f.name for f in original.program.outputs if f.kind[0] == 'd']
    wanted = original.predict_batch(pixels)[name]
    model = quiet.coremltools().models.MLModel(str(tiny_model), skip_model_load=True)
    for bits, mode, limit in (
        (16, 'linear', 1e-3),
        (8, 'linear', 0.02),
        (6, 'linear', 0.2),
        (6, 'linear_lut', 0.3),
    ):
        small = utils.quantize_weights(model, bits, mode)
        path = tmp_path / f'{mode}{bits}.mlmodel'
        # A specification here, a model on macOS.
        small = getattr(small, 'get_spec', lambda small=small: small)()
        quiet.coremltools().models.utils.save_spec(small, str(path))
        got = load_program(path).predict_batch(pixels)[name]
        assert 1e-7 < relative_error(got, wanted) < limit


def test_constant_output(tmp_path):
    def build(mb, x):
        return [mb.relu(x=x), mb.const(val=np.float32([1, 2]), name='fixed')]

    path = save_mil(build, {'x': -np.ones((2, 2))}, tmp_path)
    outputs = load_program(path).predict({'x': -np.ones((2, 2))})
    assert outputs['fixed'].tolist() == [1, 2]


def test_programs_are_frozen(tiny_package):
    program = read_program(tiny_package)
    with pytest.raises(AttributeError):
        program.format = 'other'
