"""Drift of every operation against arithmetic done by hand."""

import numpy as np
import pytest
import torch
from runtime_kit import RNG, noise, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.report.layers import measure_drift

X = noise(1, 3, 8, 8)
SCALE = noise(1, 3, 1, 1)


def chain(mb, x):
    """x * SCALE, then its exponential."""
    x = mb.mul(x=x, y=SCALE, name='scaled')
    return mb.exp(x=mb.relu(x=x, name='cut'), name='grown')


def measured(build, folder, batch, half=True, **inputs):
    path = save_mil(build, inputs or {'x': X}, folder, half=half)
    rows = measure_drift(read_program(path), [{'x': batch}])
    # coremltools adds to the names of what it casts.
    return {r.type: r for r in rows}, path


def batch(count=5):
    return torch.from_numpy(RNG.uniform(-3, 3, (count, *X.shape)).astype(np.float32))


def half(values):
    return values.astype(np.float16).astype(np.float32)


def relative(rounded, exact):
    exact, rounded = exact.astype(np.float64), rounded.astype(np.float64)
    return np.linalg.norm(rounded - exact) / np.linalg.norm(exact)


def test_every_operation_is_what_numpy_says(tmp_path):
    images = batch()
    rows, _ = measured(chain, tmp_path, images)
    x = images.numpy()
    # coremltools stores the constant in fp16.
    scale = half(SCALE)
    exact = x * scale
    rounded = half(half(x) * scale)
    assert rows['mul'].relative == pytest.approx(relative(rounded, exact), rel=1e-5)
    assert rows['mul'].peak == pytest.approx(np.abs(exact).max(), rel=1e-6)
    exact, rounded = np.maximum(exact, 0), np.maximum(rounded, 0)
    assert rows['relu'].relative == pytest.approx(relative(rounded, exact), rel=1e-5)
    grown = relative(half(np.exp(rounded)), np.exp(exact))
    assert rows['exp'].relative == pytest.approx(grown, rel=1e-3)
    assert {r.dtype for r in rows.values()} <= {'fp16', 'fp32'}
    assert all(r.overflows == 0 for r in rows.values())


def test_the_figure_moves_with_one_value(tmp_path):
    images = batch()
    rows, _ = measured(chain, tmp_path, images)
    images[0, 0, 0, 0] += 1
    other, _ = measured(chain, tmp_path, images)
    assert rows['mul'].relative != other['mul'].relative


def test_images_one_by_one_give_the_same(tmp_path):
    images = batch(7)
    _, path = measured(chain, tmp_path, images)
    program = read_program(path)
    whole = measure_drift(program, [{'x': images}])
    parts = measure_drift(program, ({'x': image[None]} for image in images))
    for one, other in zip(whole, parts):
        assert one.relative == pytest.approx(other.relative, rel=1e-9)
        assert (one.name, one.peak) == (other.name, other.peak)


def test_the_last_operation_is_the_files_output(tmp_path):
    images = batch()
    rows, path = measured(chain, tmp_path, images)
    name = load_program(path).program.outputs[0].name
    outputs = [load_program(path, a).predict_batch({'x': images})[name] for a in ('fp16', 'fp32')]
    wanted = relative(*(o.numpy() for o in outputs))
    assert list(rows.values())[-1].relative == pytest.approx(wanted, rel=1e-9)


def test_overflow_is_counted_where_it_happens(tmp_path):

    def build(mb, x):
        x = mb.mul(x=x, y=np.float32(30000), name='large')
        return mb.mul(x=x, y=np.float32(2**-14), name='small')

    images = batch()
    path = save_mil(build, {'x': X}, tmp_path, half=True)
    first, *_, last = [
        r for r in measure_drift(read_program(path), [{'x': images}]) if r.type == 'mul'
    ]
    beyond = np.abs(half(images.numpy()) * np.float32(30000)) >= 65520
    assert 0 < first.overflows == int(beyond.sum())
    assert first.relative is None
    assert first.peak > 65504
    assert last.overflows == first.overflows  # it arrives there


def test_a_file_in_fp32_does_not_drift(tmp_path):
    rows, _ = measured(chain, tmp_path, batch(), half=False)
    assert {r.relative for r in rows.values()} == {0.0}


def test_whole_numbers_are_left_out_and_all_results_counted(tmp_path):

    def build(mb, x):
        one, two = mb.split(x=x, num_splits=2, axis=3, name='halves')
        where = mb.reduce_argmax(x=two, axis=3, name='where')
        return [mb.exp(x=one, name='grown'), where]

    images = batch()
    rows, _ = measured(build, tmp_path, images)
    assert 'reduce_argmax' not in rows
    # Both results together hold all of x.
    x = images.numpy()
    assert rows['split'].peak == np.abs(x).max()
    assert rows['split'].relative == pytest.approx(relative(half(x), x), rel=1e-6)


def test_zero_is_not_divided_by(tmp_path):
    rows, _ = measured(chain, tmp_path, torch.zeros(2, *X.shape))
    assert rows['mul'].relative == 0.0
    assert rows['mul'].peak == 0.0


def test_progress_counts_images(tmp_path):
    _, path = measured(chain, tmp_path, batch())
    seen = []
    measure_drift(read_program(path), [{'x': batch(9)}], seen.append)
    assert sum(seen) == 9
