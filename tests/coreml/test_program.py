"""Reading Core ML files: what is found, and what is refused."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from runtime_kit import (
    LABELS,
    classifier_config,
    image_input,
    relative_error,
    save_mil,
    save_torch,
)

from mmpretrain_mobileone_ext.coreml import load_program, quiet, read_program
from mmpretrain_mobileone_ext.errors import ProgramError

SPEC = 'Data/com.apple.CoreML/model.mlmodel'
WEIGHTS = 'Data/com.apple.CoreML/weights/weight.bin'


@pytest.fixture(scope='module')
def tiny_model(tiny_net, tmp_path_factory):
    """The tiny classifier as ``.mlmodel``, on a BGR image."""
    return save_torch(
        tiny_net,
        tmp_path_factory.mktemp('nn'),
        torch.rand(1, 3, 24, 16),
        kind='neuralnetwork',
        inputs=[
            image_input(
                (1, 3, 24, 16), 'BGR', scale=1 / 58, bias=[-1, -2, -3]
            )
        ],
        classifier_config=classifier_config(),
    )


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


def test_array_features(tmp_path):
    path = save_torch(
        torch.nn.ReLU(),
        tmp_path,
        torch.rand(2, 3),
        inputs=[quiet.coremltools().TensorType(name='x', shape=(2, 3))],
    )
    program = read_program(path)
    assert [f.kind for f in (*program.inputs, *program.outputs)] == [
        'tensor',
        'tensor',
    ]
    assert (program.inputs[0].shape, program.inputs[0].dtype) == (
        (2, 3),
        'fp32',
    )
    assert program.inputs[0].color_layout is None
    assert program.classes is None
    assert program.predicted_feature_name == ''


def test_metadata(tiny_package, tmp_path):
    model = quiet.coremltools().models.MLModel(
        str(tiny_package), skip_model_load=True
    )
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
    palettize = co.OpPalettizerConfig(
        nbits=4, mode='kmeans', weight_threshold=16
    )
    quantize = co.OpLinearQuantizerConfig(
        mode='linear', dtype='int8', weight_threshold=16
    )
    prune = co.OpMagnitudePrunerConfig(
        target_sparsity=0.5, weight_threshold=16
    )
    return {
        'constexpr_lut_to_dense': (palettize, co.palettize_weights),
        'constexpr_affine_dequantize': (quantize, co.linear_quantize_weights),
        'constexpr_blockwise_shift_scale': (
            quantize,
            co.linear_quantize_weights,
        ),
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
        for file in (
            tmp_path / 'small.mlpackage',
            tmp_path / 'dense.mlpackage',
            path,
        )
    )
    assert relative_error(got, wanted) < 1e-6
    assert 1e-5 < relative_error(got, original) < 0.5


def test_quantized_neural_network(tiny_model, tmp_path):
    """fp16, linear and palettized layer weights of a ``.mlmodel``."""
    utils = quiet.module(
        'coremltools.models.neural_network.quantization_utils'
    )
    pixels = {'image': torch.randint(0, 256, (2, 3, 24, 16))}
    original = load_program(tiny_model)
    (name,) = [f.name for f in original.program.outputs if f.kind[0] == 'd']
    wanted = original.predict_batch(pixels)[name]
    model = quiet.coremltools().models.MLModel(
        str(tiny_model), skip_model_load=True
    )
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


def edited(source, folder, edit):
    """Copy a model and let ``edit(copy)`` damage it."""
    copy = folder / source.name
    if source.is_dir():
        shutil.copytree(source, copy)
    else:
        shutil.copy(source, copy)
    edit(copy)
    return copy


def rewrite(name, change):
    """Edit that rewrites the bytes of one file of a package."""

    def edit(copy):
        file = copy / name if name else copy
        file.write_bytes(change(file.read_bytes()))

    return edit


def respec(name, change):
    """Edit that changes the parsed specification."""

    def change_bytes(content):
        spec = quiet.coremltools().proto.Model_pb2.Model()
        spec.ParseFromString(content)
        change(spec)
        return spec.SerializeToString()

    return rewrite(name, change_bytes)


def drop_root(content):
    manifest = json.loads(content)
    del manifest['rootModelIdentifier']
    return json.dumps(manifest).encode()


def half(content):
    return content[: len(content) // 2]


def add_function(spec):
    functions = spec.mlProgram.functions
    functions['second'].CopyFrom(functions['main'])


def unknown_layer(spec):
    spec.neuralNetworkClassifier.layers[0].simpleRecurrent.SetInParent()


def mean_image(spec):
    step = spec.neuralNetworkClassifier.preprocessing[0]
    step.meanImage.SetInParent()


def unknown_color(spec):
    spec.description.input[0].type.imageType.colorSpace = 0


def sequence_output(spec):
    spec.description.output[0].type.sequenceType.SetInParent()


PACKAGE_DAMAGE = [
    (lambda p: (p / 'Manifest.json').unlink(), 'no Manifest.json'),
    (rewrite('Manifest.json', lambda b: b[:-9]), 'names no root model'),
    (rewrite('Manifest.json', lambda b: b'[]'), 'names no root model'),
    (rewrite('Manifest.json', drop_root), 'names no root model'),
    (lambda p: (p / SPEC).unlink(), 'model.mlmodel is missing'),
    (rewrite(SPEC, half), 'truncated or not a Core ML specification'),
    (rewrite(SPEC, lambda b: b''), 'holds no model'),
    (lambda p: (p / WEIGHTS).unlink(), 'weight.bin is missing'),
    (rewrite(WEIGHTS, half), 'weight.bin is truncated: .* needs at least'),
    (rewrite(WEIGHTS, lambda b: b[:10]), 'weight.bin is truncated'),
    (rewrite(WEIGHTS, lambda b: bytes(len(b))), 'is damaged: no blob'),
    (respec(SPEC, add_function), 'holds 2 functions .main, second.'),
    (respec(SPEC, unknown_color), 'INVALID_COLOR_SPACE; supported: RGB'),
    (respec(SPEC, sequence_output), 'is a sequenceType; supported'),
    (respec(SPEC, lambda s: s.pipeline.SetInParent()),
     'kind pipeline; supported: mlProgram'),
    (respec(SPEC, lambda s: s.treeEnsembleClassifier.SetInParent()),
     'kind treeEnsembleClassifier; supported: mlProgram'),
]

MODEL_DAMAGE = [
    (rewrite('', half), 'truncated or not a Core ML specification'),
    (rewrite('', lambda b: b'\x89PNG\r\n' + b), 'not a Core ML spec'),
    (rewrite('', lambda b: b''), 'holds no model'),
    (respec('', unknown_layer), 'simpleRecurrent.*implemented: .*convol'),
    (respec('', mean_image), 'mean image is not supported; allowed: scaler'),
]


@pytest.mark.parametrize(('edit', 'message'), PACKAGE_DAMAGE)
def test_damaged_package(tiny_package, tmp_path, edit, message):
    refuse(edited(tiny_package, tmp_path, edit), message)


@pytest.mark.parametrize(('edit', 'message'), MODEL_DAMAGE)
def test_damaged_model(tiny_model, tmp_path, edit, message):
    refuse(edited(tiny_model, tmp_path, edit), message)


def refuse(path, message):
    """One line that names the file and matches ``message``."""
    with pytest.raises(ProgramError, match=message) as caught:
        read_program(path)
    assert '\n' not in str(caught.value)
    assert str(path) in str(caught.value)


def test_not_core_ml(tmp_path):
    refuse(tmp_path / 'none.mlpackage', 'no such file or package')
    refuse(tmp_path, 'not a Core ML package')
    text = tmp_path / 'model.onnx'
    text.write_text('x')
    refuse(text, 'expected a .mlpackage folder or a .mlmodel file')
    refuse(17, 'path is an int .17.; allowed: str')


def test_every_truncation_is_refused(tiny_package, tmp_path):
    """The native reader maps weights: a short file must not get there."""
    copy = edited(tiny_package, tmp_path, lambda path: None)
    for name in (SPEC, WEIGHTS):
        content = (copy / name).read_bytes()
        for length in np.linspace(0, len(content) - 1, 12).astype(int):
            (copy / name).write_bytes(content[:length])
            with pytest.raises(ProgramError):
                read_program(copy)
        (copy / name).write_bytes(content)
    assert read_program(copy).classes == tuple(LABELS)


def test_random_damage_never_leaks_other_errors(tiny_package, tmp_path):
    """Some flipped bytes go unnoticed; none may surprise the caller."""
    copy = edited(tiny_package, tmp_path, lambda path: None)
    content = (copy / SPEC).read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for position in rng.integers(0, len(content), 25):
        broken = bytearray(content)
        broken[position] ^= 0xFF
        (copy / SPEC).write_bytes(bytes(broken))
        try:
            load_program(copy)
        except ProgramError as error:
            assert '\n' not in str(error)
            refused += 1
    assert refused > 5


def test_unsupported_array_mapping(tmp_path):
    path = save_torch(
        torch.nn.ReLU(),
        tmp_path,
        torch.rand(1, 2, 3),
        kind='neuralnetwork',
        inputs=[quiet.coremltools().TensorType(name='x', shape=(1, 2, 3))],
    )

    def old_mapping(spec):
        spec.neuralNetwork.arrayInputShapeMapping = 0

    respec('', old_mapping)(path)
    refuse(path, 'rank-5 mapping .* allowed: EXACT_ARRAY_MAPPING')


def test_undefined_value(tiny_model, tmp_path):
    def disconnect(spec):
        spec.neuralNetworkClassifier.layers[1].input[0] = 'nowhere'

    path = edited(tiny_model, tmp_path, respec('', disconnect))
    with pytest.raises(ProgramError, match="'nowhere', which nothing def"):
        load_program(path)


def test_unknown_operation(tmp_path):
    def build(mb, x):
        return mb.band_part(x=x, lower=1, upper=1, name='banded')

    path = save_mil(build, {'x': np.ones((3, 3))}, tmp_path)
    assert read_program(path).count_operations() == {'band_part': 1}
    with pytest.raises(
        ProgramError, match=r"'band_part' \(named 'banded'\).*conv_transpose"
    ):
        load_program(path)


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
