"""Predicting with the file as saved: images, batches, fp16, backends."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from runtime_kit import (
    LABELS,
    SIZE,
    TinyNet,
    classifier_config,
    image_input,
    photo,
    planar,
    preprocess,
    relative_error,
    save_mil,
    save_torch,
)

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import ProgramError


@pytest.fixture(scope='module')
def loaded(tiny_package):
    return load_program(tiny_package)


def test_facts(loaded):
    assert loaded.input_name == 'image'
    assert loaded.image_size == SIZE
    assert loaded.color_layout == 'RGB'
    assert loaded.classes == tuple(LABELS)


def test_classifier_output(loaded, tiny_net):
    outputs = loaded.predict({'image': Image.fromarray(photo())})
    with torch.no_grad():
        wanted = tiny_net(preprocess(planar(photo())))[0]
    assert set(outputs) == {'classLabel', 'classLabel_probs'}
    assert outputs['classLabel'] == LABELS[int(wanted.argmax())]
    scores = outputs['classLabel_probs']
    assert list(scores) == LABELS
    assert relative_error(list(scores.values()), wanted) < 1e-6


def test_perturbed_weight_is_noticed(loaded, tiny_net):
    """The comparison with torch fails for every parameter it depends on."""
    pixels = torch.cat([planar(photo(seed=i)) for i in range(3)])
    got = loaded.predict_batch({'image': pixels})['classLabel_probs']
    with torch.no_grad():
        assert relative_error(got, tiny_net(preprocess(pixels))) < 1e-6
        for name, _ in tiny_net.named_parameters():
            other = copy.deepcopy(tiny_net)
            other.get_parameter(name).view(-1)[0] += 0.05
            wanted = other(preprocess(pixels))
            assert relative_error(got, wanted) > 1e-5, name


def test_image_forms_agree(loaded):
    forms = [
        Image.fromarray(photo()),
        Image.fromarray(photo()).convert('RGBA'),
        photo(),
        np.asfortranarray(photo()),
        planar(photo()),
        planar(photo()).float(),
    ]
    results = [loaded.predict({'image': form}) for form in forms]
    assert all(result == results[0] for result in results)


@pytest.mark.parametrize('kind', ['mlprogram', 'neuralnetwork'])
def test_bgr(tmp_path, kind):
    """A BGR model sees a PIL image's channels reversed, biases per B, G, R."""
    net = TinyNet()
    path = save_torch(
        net,
        tmp_path,
        torch.rand(1, 3, *SIZE),
        kind=kind,
        inputs=[image_input((1, 3, *SIZE), 'BGR', scale=1 / 58, bias=[-1.0, -2.0, -3.0])],
        classifier_config=classifier_config(),
    )
    loaded = load_program(path)
    assert loaded.color_layout == 'BGR'
    results = [
        loaded.predict({'image': form})
        for form in (Image.fromarray(photo()), photo(), planar(photo()).flip(1))
    ]
    assert results[0] == results[1] == results[2]
    assert results[0] != loaded.predict({'image': planar(photo())})
    bias = torch.tensor([-1.0, -2.0, -3.0]).reshape(3, 1, 1)
    with torch.no_grad():
        wanted = net(planar(photo()).flip(1) / 58 + bias)[0]
    scores = results[0][loaded.program.predicted_probabilities_name]
    assert relative_error(list(scores.values()), wanted) < 1e-6


@pytest.mark.parametrize('kind', ['mlprogram', 'neuralnetwork'])
def test_grayscale(tmp_path, kind):
    net = TinyNet(channels=1)
    path = save_torch(
        net,
        tmp_path,
        torch.rand(1, 1, *SIZE),
        kind=kind,
        inputs=[image_input((1, 1, *SIZE), 'GRAYSCALE', scale=1 / 58, bias=-2.0)],
        classifier_config=classifier_config([3, 1, 4, 15, 9]),
    )
    loaded = load_program(path)
    gray = photo(channels=1)
    results = [
        loaded.predict({'image': form}) for form in (Image.fromarray(gray), gray, planar(gray))
    ]
    assert results[0] == results[1] == results[2]
    with torch.no_grad():
        wanted = net(planar(gray) / 58 - 2)[0]
    label = results[0]['classLabel']
    assert type(label) is int
    assert label == [3, 1, 4, 15, 9][int(wanted.argmax())]
    with pytest.raises(ProgramError, match=r'takes exactly .24, 16.'):
        loaded.predict({'image': photo()})


BAD_INPUTS = [
    ({}, "inputs are .*; the model takes a dictionary with .'image'."),
    ({'image': photo(), 'mask': photo()}, "'mask'"),
    ([photo()], 'inputs are list; .* a dictionary'),
    ({'image': Image.new('RGB', (24, 16))}, 'takes exactly .24, 16, 3.'),
    ({'image': photo().astype(np.float32)}, 'float32 array; allowed: uint8'),
    ({'image': photo(channels=1)}, 'takes exactly .24, 16, 3.'),
    ({'image': planar(photo())[0]}, 'takes exactly .1, 3, 24, 16.'),
    ({'image': 'photo.jpg'}, 'is a str; allowed: PIL image'),
]


@pytest.mark.parametrize(('inputs', 'message'), BAD_INPUTS)
def test_bad_inputs(loaded, inputs, message):
    with pytest.raises(ProgramError, match=message):
        loaded.predict(inputs)


BAD_BATCHES = [
    ({'image': photo()}, 'ndarray; a batch must be a torch tensor'),
    ({'image': torch.zeros(2, 3, 16, 24)}, 'takes exactly .1, 3, 24, 16.'),
    ({'image': torch.zeros(0, 3, 24, 16)}, 'at least 1'),
]


@pytest.mark.parametrize(('inputs', 'message'), BAD_BATCHES)
def test_bad_batches(loaded, inputs, message):
    with pytest.raises(ProgramError, match=message):
        loaded.predict_batch(inputs)


def test_batch_equals_loop_of_single(loaded):
    photos = [photo(seed=i) for i in range(5)]
    pixels = torch.cat([planar(p) for p in photos])
    batch = loaded.predict_batch({'image': pixels})
    assert batch['classLabel'].dtype == torch.int64
    for i, array in enumerate(photos):
        single = loaded.predict({'image': array})
        scores = list(single['classLabel_probs'].values())
        assert relative_error(batch['classLabel_probs'][i], scores) < 1e-6
        assert LABELS[batch['classLabel'][i]] == single['classLabel']


def test_chunks_do_not_change_the_result(loaded):
    pixels = torch.cat([planar(photo(seed=i)) for i in range(5)])
    results = [loaded.predict_batch({'image': pixels}, chunk_size=size) for size in (1, 2, 5, 64)]
    for result in results:
        assert result['classLabel_probs'].shape == (5, 5)
        assert torch.equal(result['classLabel'], results[0]['classLabel'])
        assert relative_error(result['classLabel_probs'], results[0]['classLabel_probs']) < 1e-6
    with pytest.raises(ProgramError, match=r'chunk_size is 0; allowed: >= 1'):
        loaded.predict_batch({'image': pixels}, chunk_size=0)


def test_tensor_model(tmp_path, tiny_net):
    """No classifier: arrays in, arrays out, under the declared names."""
    ct = quiet.coremltools()
    path = save_torch(
        tiny_net,
        tmp_path,
        torch.rand(1, 3, *SIZE),
        inputs=[ct.TensorType(name='pixels', shape=(1, 3, *SIZE))],
        outputs=[ct.TensorType(name='scores')],
    )
    loaded = load_program(path)
    assert (loaded.color_layout, loaded.classes) == (None, None)
    assert loaded.image_size == SIZE
    x = torch.randn(4, 3, *SIZE)
    with torch.no_grad():
        wanted = tiny_net(x)
    single = loaded.predict({'pixels': x[:1].numpy()})['scores']
    assert isinstance(single, np.ndarray)
    assert relative_error(single, wanted[:1]) < 1e-6
    batch = loaded.predict_batch({'pixels': x})['scores']
    assert relative_error(batch, wanted) < 1e-6
    with pytest.raises(ProgramError, match=r'takes exactly .1, 3, 24, 16.'):
        loaded.predict({'pixels': x})
    with pytest.raises(ProgramError, match=r'is a list; allowed: array or'):
        loaded.predict({'pixels': x.tolist()})


def test_two_inputs(tmp_path):
    def build(mb, x, y):
        return mb.add(x=x, y=mb.reduce_sum(x=y, axes=[0], keep_dims=True))

    x, y = torch.randn(6, 1, 4), torch.randn(6, 3, 4)
    path = save_mil(build, {'x': x[0], 'y': y[0]}, tmp_path)
    (got,) = load_program(path).predict_batch({'x': x, 'y': y}).values()
    assert relative_error(got, (x + y.sum(1, keepdim=True))[:, 0]) < 1e-6
    with pytest.raises(ProgramError, match=r'sizes are .*must be equal'):
        load_program(path).predict_batch({'x': x, 'y': y[:2]})


CHOICES = [
    ({'arithmetic': 'bf16'}, "'bf16'; allowed: fp32, fp16"),
    ({'backend': 'onnx'}, "'onnx'; allowed: reference, coreml"),
    ({'backend': 'coreml', 'compute_units': 'GPU'}, "'GPU'; allowed: ALL"),
]


@pytest.mark.parametrize(('options', 'message'), CHOICES)
def test_unknown_options(tiny_package, options, message):
    with pytest.raises(ProgramError, match=message):
        load_program(tiny_package, **options)


def test_failing_operation_is_named(tiny_package, monkeypatch):
    from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS, Op

    def broken(**_):
        raise RuntimeError('shapes\ndo not fit')

    monkeypatch.setitem(OPS, 'softmax', Op(broken))
    with pytest.raises(ProgramError, match=r"'softmax' \(named .*\) failed: shapes do not"):
        load_program(tiny_package).predict({'image': photo()})


def test_unknown_attribute():
    import mmpretrain_mobileone_ext.coreml as package

    with pytest.raises(AttributeError, match=r'no_such_name'):
        package.no_such_name  # noqa: B018
