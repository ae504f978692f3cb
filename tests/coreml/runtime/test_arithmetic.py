"""fp16 rounding, overflow and ranges of the reference runtime."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runtime_kit import (
    SIZE,
    classifier_config,
    image_input,
    photo,
    planar,
    relative_error,
    save_mil,
    save_torch,
)

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet


@pytest.fixture(scope='module')
def scaler(tmp_path_factory):
    """fp16 program: x * 300 * 300 - 5, which leaves fp16 for x > 0.73."""

    def build(mb, x):
        first = mb.mul(x=x, y=np.float32(300), name='first')
        second = mb.mul(x=first, y=np.float32(300), name='second')
        return mb.sub(x=second, y=np.float32(5), name='third')

    shape = np.zeros((1, 8))
    return save_mil(build, {'x': shape}, tmp_path_factory.mktemp('half'), half=True)


@pytest.mark.filterwarnings('ignore:overflow encountered')
def test_fp16_rounds_every_result(scaler):
    x = np.linspace(0.01, 0.7, 8, dtype=np.float32)[None]
    half = load_program(scaler, 'fp16')
    (got,) = half.predict({'x': x}).values()
    # NumPy rounds after every step, as the program declares.
    steps = np.float16(x) * np.float16(300) * np.float16(300)
    wanted = np.float32(steps - np.float16(5))
    assert np.array_equal(got, wanted)
    (single,) = load_program(scaler).predict({'x': x}).values()
    assert relative_error(single, x * 9e4 - 5) < 1e-6
    assert 1e-5 < relative_error(got, single) < 1e-2
    assert half.overflows == {}


def test_overflow_is_named_and_counted(scaler):
    x = torch.full((3, 1, 8), 0.5)
    x[0, 0, :2], x[2, 0, 5] = 0.8, -0.9
    loaded = load_program(scaler, 'fp16')
    outputs = loaded.predict_batch({'x': x}, chunk_size=2)
    (name,) = loaded.overflows
    # Only the operation where it happens, not the ones after it.
    assert name.startswith('second')
    assert loaded.overflows[name] == 3
    (result,) = outputs.values()
    assert int(result.isinf().sum()) == 3
    loaded.predict({'x': x[2]})
    assert loaded.overflows[name] == 4
    loaded.reset()
    assert loaded.overflows == {}
    full = load_program(scaler)
    full.predict_batch({'x': x})
    assert full.overflows == {}


def test_fp16_close_to_fp32(tiny_net, tmp_path):
    path = save_torch(
        tiny_net,
        tmp_path,
        torch.rand(1, 3, *SIZE),
        compute_precision=quiet.coremltools().precision.FLOAT16,
        inputs=[image_input((1, 3, *SIZE), scale=1 / 58)],
        classifier_config=classifier_config(),
    )
    pixels = {'image': torch.cat([planar(photo(seed=i)) for i in range(4)])}
    half, full = (
        load_program(path, arithmetic).predict_batch(pixels) for arithmetic in ('fp16', 'fp32')
    )
    assert torch.equal(half['classLabel_probs'], half['classLabel_probs'].half().float())
    error = relative_error(half['classLabel_probs'], full['classLabel_probs'])
    assert 1e-5 < error < 1e-2


def test_ranges(scaler):
    loaded = load_program(scaler, record_range=True)
    x = torch.linspace(-0.9, 0.5, 16).reshape(2, 1, 8)
    loaded.predict_batch({'x': x})
    peaks = {name.split('_')[0]: v for name, v in loaded.ranges.items()}
    assert peaks['first'] == pytest.approx(0.9 * 300, rel=1e-3)
    assert peaks['second'] == pytest.approx(0.9 * 9e4, rel=1e-3)
    loaded.predict({'x': 2 * x[0]})
    assert max(loaded.ranges.values()) == pytest.approx(1.8 * 9e4 + 5, 1e-3)
    loaded.reset()
    assert loaded.ranges == {}
    assert load_program(scaler).ranges == {}


@pytest.mark.parametrize('arithmetic', ['fp32', 'fp16'])
def test_a_value_with_two_readers_keeps_its_value(tmp_path, arithmetic):
    """A view of a value outlives the value's last reader, relu."""
    weight = np.float32([[[[1.0]], [[-1.0]]]])

    def build(mb, x):
        y = mb.conv(x=x, weight=weight, pad_type='valid')
        flat = mb.reshape(x=y, shape=[1, 1, 6])
        positive = mb.reshape(x=mb.relu(x=y), shape=[1, 1, 6])
        return mb.sub(x=flat, y=positive)

    x = np.linspace(-2, 2, 12, dtype=np.float32).reshape(1, 2, 2, 3)
    path = save_mil(build, {'x': x}, tmp_path)
    (got,) = load_program(path, arithmetic).predict({'x': x}).values()
    wanted = np.minimum(x[0, 0] - x[0, 1], 0).reshape(1, 1, 6)
    assert np.abs(wanted).max() > 0
    assert relative_error(got, wanted) < 1e-6
