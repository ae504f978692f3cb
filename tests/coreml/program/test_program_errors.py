"""Damaged, foreign and unsupported files: one clear line each."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from runtime_kit import LABELS, save_mil, save_torch

from mmpretrain_mobileone_ext.coreml import load_program, read_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import ProgramError

SPEC = 'Data/com.apple.CoreML/model.mlmodel'
WEIGHTS = 'Data/com.apple.CoreML/weights/weight.bin'


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


def root_at(path):
    """Edit that points the manifest somewhere else."""

    def change(content):
        manifest = json.loads(content)
        root = manifest['rootModelIdentifier']
        manifest['itemInfoEntries'][root]['path'] = path
        return json.dumps(manifest).encode()

    return rewrite('Manifest.json', change)


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
    (root_at(5), 'root model 5 is not a file inside'),
    (root_at('../../other/model.mlmodel'), 'is not a file inside'),
    (root_at('/etc/passwd'), 'is not a file inside'),
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
    (respec(SPEC, lambda s: s.pipeline.SetInParent()), 'kind pipeline; supported: mlProgram'),
    (
        respec(SPEC, lambda s: s.treeEnsembleClassifier.SetInParent()),
        'kind treeEnsembleClassifier; supported: mlProgram',
    ),
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


def refusal(path):
    """The message if the model is refused, empty if it still loads."""
    try:
        load_program(path)
    except ProgramError as error:
        return str(error)
    return ''


def test_random_damage_never_leaks_other_errors(tiny_package, tmp_path):
    """Some flipped bytes go unnoticed; none may surprise the caller."""
    copy = edited(tiny_package, tmp_path, lambda path: None)
    content = (copy / SPEC).read_bytes()
    rng = np.random.default_rng(0)
    messages = []
    for position in rng.integers(0, len(content), 25):
        broken = bytearray(content)
        broken[position] ^= 0xFF
        (copy / SPEC).write_bytes(bytes(broken))
        messages.append(refusal(copy))
    assert sum(map(bool, messages)) > 5
    assert not any('\n' in message for message in messages)


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
        return mb.sliding_windows(x=x, axis=0, size=2, name='windows')

    path = save_mil(build, {'x': np.ones((3, 3))}, tmp_path)
    assert read_program(path).count_operations() == {'sliding_windows': 1}
    says = r"'sliding_windows' \(named 'windows'\).*conv_transpose"
    with pytest.raises(ProgramError, match=says):
        load_program(path)
