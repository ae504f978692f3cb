"""Weights as found in files, and what approximations do to them."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_kit import save_small, small_net
from hypothesis import given
from hypothesis import strategies as st
from runtime_kit import save_torch
from torch import nn

from mmpretrain_mobileone_ext.coreml.compress.apply import apply_plan
from mmpretrain_mobileone_ext.coreml.compress.kmeans import SUM_WEIGHT, Palettes
from mmpretrain_mobileone_ext.coreml.compress.storage import (
    DENSE,
    INT8,
    Joint,
    Palette,
    Sparse,
    int8,
)
from mmpretrain_mobileone_ext.coreml.compress.weights import (
    find_weights,
    output_error,
    relative_error,
)
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.read import read_program


def test_weights_of_a_file(tmp_path):
    net = small_net()
    found = find_weights(read_program(save_small(tmp_path, net=net)))
    layers = [m for m in net if hasattr(m, 'weight')]
    assert len(found) == len(layers) == 6
    for weight, layer in zip(found, layers):
        np.testing.assert_array_equal(weight.values, layer.weight.detach().half().numpy())
        assert weight.stored_as == ''
    assert [w.op_type for w in found] == ['conv'] * 5 + ['linear']
    assert [w.role for w in found] == ['first', '', '', '', '', 'last']
    assert [w.depthwise for w in found] == [False, True, False, True, False, False]


def test_no_head_and_transposed(tmp_path):
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.ConvTranspose2d(6, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1)
    ).eval()
    ct = quiet.coremltools()
    path = save_torch(
        net, tmp_path, torch.rand(1, 3, 8, 8), inputs=[ct.TensorType('image', shape=(1, 3, 8, 8))]
    )
    found = find_weights(read_program(path))
    assert [w.role for w in found] == ['first', '', '']
    assert found[1].op_type == 'conv_transpose'
    np.testing.assert_allclose(found[1].values, net[2].weight.detach().numpy().swapaxes(0, 1))


class Twice(nn.Module):
    """One convolution, used in two places."""

    def __init__(self):
        super().__init__()
        self.stem, self.conv = nn.Conv2d(3, 32, 3), nn.Conv2d(32, 32, 1)

    def forward(self, x):
        return self.conv(torch.relu(self.conv(torch.relu(self.stem(x)))))


def test_shared_weights(tmp_path):
    ct = quiet.coremltools()
    path = save_torch(
        Twice().eval(),
        tmp_path,
        torch.rand(1, 3, 8, 8),
        inputs=[ct.TensorType('image', shape=(1, 3, 8, 8))],
        compute_precision=ct.precision.FLOAT16,
    )
    stem, conv = find_weights(read_program(path))
    assert (stem.sharing, len(conv.sharing)) == ((), 1)
    for storage in (Palette(4), INT8, Sparse(50)):
        out = apply_plan(
            path, {conv.name: storage}, tmp_path / f'{storage.name}.mlpackage', Palettes()
        )
        program = read_program(out)
        used = [op for op in program.operations if op.type == 'conv'][1:]
        assert {op.name for op in used} == {conv.name, *conv.sharing}
        assert all(op.attributes['compressed'] for op in used)
        np.testing.assert_array_equal(*[op.inputs['weight'] for op in used])


@given(st.integers(0, 10**6), st.booleans())
def test_int8(seed, per_channel):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(4, 6)) * 10 ** rng.uniform(-3, 2, (4, 1))
    values[2] = 0
    found = int8(values, per_channel)
    rows = values if per_channel else values.reshape(1, -1)
    step = (np.maximum(rows.max(1), 0) - np.minimum(rows.min(1), 0)) / 255
    step = np.broadcast_to(step[:, None], values.shape)
    assert (np.abs(found - values) <= 1.01 * step).all()
    assert (found[2] == 0).all()
    for row, own in zip(found, step):
        assert len(np.unique(np.round(row / max(own[0], 1e-12)))) <= 256


def test_approximations():
    rng = np.random.default_rng(0)
    values = rng.normal(size=(16, 8)).astype(np.float16)
    exact = DENSE.approximate(values, 'iOS16', Palettes())
    assert np.array_equal(exact, values)
    half = Sparse(50).approximate(values, 'iOS16', Palettes())
    assert (half == 0).mean() == 0.5
    assert np.array_equal(half[half != 0], values[half != 0])
    both = Joint(Sparse(50), Palette(2)).approximate(values, 'iOS18', Palettes())
    assert np.array_equal(both == 0, half == 0)
    assert len(np.unique(both)) <= 5
    errors = [
        relative_error(values, Palette(bits).approximate(values, 'iOS16', Palettes()))
        for bits in (8, 6, 4, 2, 1)
    ]
    assert errors == sorted(errors)
    assert errors[0] < 1e-3
    assert errors[-1] > 0.3


def test_groups_of_channels():
    """With a table for each group, a large group does not spoil a small."""
    rng = np.random.default_rng(0)
    values = rng.normal(size=(64, 512)).astype(np.float16)
    values[:32] *= np.float16(0.01)
    one, many = (
        Palette(4).approximate(values, target, Palettes())[:32] for target in ('iOS16', 'iOS18')
    )
    assert relative_error(values[:32], many) < 0.15
    assert relative_error(values[:32], one) > 0.5


def test_output_error():
    values = np.array([[1.0, -1.0], [2.0, 2.0]])
    shifted = values + np.array([[0.1, 0.1], [0, 0]])
    swapped = values + np.array([[0.1, -0.1], [0, 0]])
    energy = 10 + SUM_WEIGHT * 16
    assert output_error(values, values) == 0
    assert output_error(values, shifted) == pytest.approx((0.02 + SUM_WEIGHT * 0.04) / energy)
    assert output_error(values, swapped) == pytest.approx(0.02 / energy)
    assert output_error(np.zeros((2, 2)), np.zeros((2, 2))) == 0
    assert relative_error(np.zeros(2), np.ones(2)) == 0
