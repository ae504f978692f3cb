"""W8A8: ranges from our runtime, placed by coremltools, executed here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from compress_kit import SHAPE, images, save_small, scores_of, small_net
from runtime_kit import relative_error, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.compress import compress_file
from mmpretrain_mobileone_ext.coreml.compress.activations import (
    compress_activations,
    measure_ranges,
)
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.errors import ExportError

X = np.random.default_rng(0).normal(size=(2, 3, 4)).astype(np.float32) * 40
X[0, :, 0], X[1, :, 1] = 300, -300


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp('w8a8'), 'iOS17')


@pytest.mark.parametrize(
    ('scale', 'zero', 'axis', 'dtype'),
    [
        (0.5, None, None, 'int8'),
        (0.25, 3, None, 'int8'),
        (0.31, 130, None, 'uint8'),
        ([0.5, 0.1, 2.0], None, 1, 'int8'),
        ([0.5, 0.1, 2.0], [1, -2, 3], -2, 'int8'),
    ],
)
def test_operations(scale, zero, axis, dtype, tmp_path):
    """quantize and dequantize against coremltools' NumPy, saturation too."""
    utils = quiet.module('coremltools.optimize._utils')
    kind = np.dtype(dtype)
    inputs = dict(scale=np.asarray(scale, np.float32))
    if zero is not None:
        inputs['zero_point'] = np.asarray(zero, kind)
    if axis is not None:
        inputs['axis'] = np.int32(axis)

    def build(mb, x):
        steps = mb.quantize(input=x, output_dtype=dtype, **inputs)
        return mb.dequantize(input=steps, **inputs)

    path = save_mil(build, {'x': X}, tmp_path, 'iOS17')
    loaded = load_program(path)
    assert loaded.program.count_operations() == {'quantize': 1, 'dequantize': 1}
    (got,) = loaded.predict({'x': X}).values()
    wide = {
        k: utils.promote_rank_to_same_as_data(v, X, axis) for k, v in inputs.items() if k != 'axis'
    }
    shift = wide.get('zero_point')
    steps = utils.quantize_by_scale_and_zp(X, wide['scale'], shift, dtype)
    wanted = utils.dequantize_by_scale_and_zp(steps, wide['scale'], shift)
    np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6)
    assert (steps == np.iinfo(kind).max).any()
    assert np.abs(got - X).max() > 1e-3
    batch = loaded.predict_batch({'x': torch.tensor(np.stack([X, -X]))})
    (both,) = batch.values()
    np.testing.assert_allclose(both[0], wanted, rtol=1e-6, atol=1e-6)


def test_half_to_even(tmp_path):
    x = np.float32([0.5, 1.5, 2.5, -0.5, -1.5])

    def build(mb, x):
        steps = mb.quantize(input=x, scale=np.float32(1), output_dtype='int8')
        return mb.dequantize(input=steps, scale=np.float32(1))

    loaded = load_program(save_mil(build, {'x': x}, tmp_path, 'iOS17'))
    (got,) = loaded.predict({'x': x}).values()
    assert got.tolist() == [0, 2, 2, 0, -2]


def test_ranges_are_those_of_torch(source):
    net = small_net()
    pixels = images(10)['image']
    ranges = measure_ranges(read_program(source), [{'image': pixels[:6]}, {'image': pixels[6:]}])
    assert ranges['image'] == (float(pixels.min()), float(pixels.max()))
    with torch.no_grad():
        values = torch.nn.Sequential(*net[:10])(pixels)
    wanted = (min(float(v.min()) for v in values), max(float(v.max()) for v in values))
    program = read_program(source)
    last = [op for op in program.operations if op.type == 'relu'][-1]
    assert ranges[last.outputs[0]] == pytest.approx(wanted, rel=5e-3)
    only = measure_ranges(program, [{'image': pixels[:1]}])
    assert only[last.outputs[0]][1] < ranges[last.outputs[0]][1]


def test_structure_and_scores(source, tmp_path):
    out = compress_file(source, 'w8a8', tmp_path / 'out.mlpackage', [images(32, seed=3)])
    counted = read_program(out).count_operations()
    assert counted['quantize'] == counted['dequantize'] == 5
    before = scores_of(source, images())
    good = relative_error(scores_of(out, images()), before)
    assert 0 < good < 0.05
    # Calibrated on images ten times as dark, values saturate.
    dark = {'image': images(32, seed=3)['image'] / 10}
    bad = compress_activations(source, tmp_path / 'bad.mlpackage', [dark])
    assert relative_error(scores_of(bad, images()), before) > 4 * good


def test_stem_and_classifier_read_fp16(source, tmp_path):
    out = compress_file(source, 'w8a8', tmp_path / 'out.mlpackage', [images(8)])
    program = read_program(out)
    makers = {name: op.type for op in program.operations for name in op.outputs}
    layers = [op for op in program.operations if op.type in ('conv', 'linear')]
    read = [makers.get(op.inputs['x'].name) for op in layers]
    assert read[1:-1] == ['dequantize'] * 4
    assert 'dequantize' not in (read[0], read[-1])
    assert all(
        op.attributes['compressed']['weight'] == 'constexpr_affine_dequantize' for op in layers
    )


def test_values_without_a_range(tmp_path):
    net = small_net()
    with torch.no_grad():
        net[4].weight.mul_(1e6)
    source = save_small(tmp_path, 'iOS17', net=net)
    out = tmp_path / 'out.mlpackage'
    with pytest.raises(ExportError, match=r'activations .* are not finite'):
        compress_file(source, 'w8a8', out, [images(4)])
    nothing = {'image': torch.full((1, *SHAPE[1:]), float('nan'))}
    with pytest.raises(ExportError, match='not finite'):
        compress_activations(source, out, [nothing])
    assert not out.exists()
