"""Order, counting, bands and blocks of samples against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from runtime_kit import check, noise, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.errors import ProgramError

X = noise(3, 4, 5)


@pytest.mark.slow
def test_saved_program(tmp_path):
    def build(mb, x, n):
        return [
            mb.argsort(x=x, axis=-2, name='falling'),
            mb.argsort(x=x, axis=0, ascending=True, name='rising'),
            mb.band_part(x=x, lower=1, upper=-1, name='band'),
            mb.one_hot(
                indices=n, one_hot_vector_size=4, axis=0, on_value=2.5, off_value=-1.0, name='hot'
            ),
            mb.one_hot(indices=n, one_hot_vector_size=3, name='ints'),
        ]

    inputs = {'x': X, 'n': np.int32([2, 0, 3])}
    loaded = load_program(save_mil(build, inputs, tmp_path))
    got = loaded.predict(inputs)
    assert np.array_equal(got['falling'], np.argsort(-X, axis=-2))
    assert np.array_equal(got['rising'], np.argsort(X, axis=0))
    check(got['band'], X * np.triu(np.ones((4, 5)), -1))
    hot = np.full((4, 3), -1, np.float32)
    hot[[2, 0, 3], [0, 1, 2]] = 2.5
    check(got['hot'], hot)
    # 3 is beyond a vector of 3: no place is on.
    assert got['ints'].tolist() == [[0, 0, 1], [1, 0, 0], [0, 0, 0]]
    both = {k: torch.tensor(np.stack([v[::-1], v])) for k, v in inputs.items()}
    batch = loaded.predict_batch(both)
    for name, value in got.items():
        assert np.array_equal(batch[name][1].numpy(), value)


def test_shapes_that_follow_from_numbers(tmp_path):
    """non_zero and range_1d are computed once the numbers are known."""
    x = np.float32([[0, 1.5, 0], [-2, 0, 3]])

    def build(mb, x, n):
        found = mb.non_zero(x=x, name='places')
        count = mb.slice_by_index(x=mb.shape(x=found), begin=[0], end=[1], squeeze_mask=[True])
        return [
            found,
            mb.gather_nd(x=x, indices=found, name='values'),
            mb.range_1d(start=0, end=count, step=2, name='even'),
            mb.range_1d(start=mb.squeeze(x=n), end=-2, step=-3, name='down'),
            mb.one_hot(indices=np.int32([1, 0]), one_hot_vector_size=count, name='hot'),
        ]

    def wanted(x, n):
        places = np.transpose(np.nonzero(x))
        return {
            'places': places,
            'values': x[x != 0],
            'even': np.arange(0, len(places), 2),
            'down': np.arange(n, -2, -3),
            'hot': np.eye(len(places))[[1, 0]],
        }

    path = save_mil(build, {'x': x, 'n': np.int32([7])}, tmp_path)
    loaded = load_program(path)
    for given in (x, x * 0 + 1, x[::-1] - 1.5):
        got = loaded.predict({'x': given, 'n': np.int32([7])})
        for name, value in wanted(given, 7).items():
            assert np.array_equal(got[name], value), name


@pytest.mark.parametrize('shape', [(), (1,), (0, 2), (2, 1, 3), (4, 5)])
@pytest.mark.parametrize('dtype', [torch.float32, torch.int32, torch.bool])
def test_non_zero(shape, dtype):
    rng = np.random.default_rng(len(shape))
    x = torch.tensor(rng.integers(0, 2, shape)).to(dtype)
    found = OPS['non_zero'](x)
    assert found.dtype == torch.int32
    assert found.tolist() == torch.nonzero(x).tolist()


@pytest.mark.parametrize(
    'given',
    [
        (0, 10, 3),
        (0, 9, 3),
        (5, 5, 1),
        (5, 1, 1),
        (3, -4, -2),
        (-3, 4, 2),
        (2**31 - 3, 2**31 - 1, 1),
        (0.0, 1.0, 0.25),
        (1.5, -1.0, -0.5),
        (0.1, 2.0, 0.3),
        (-1.0, 1.0, 0.4),
    ],
)
def test_range_1d(given):
    whole = all(isinstance(n, int) for n in given)
    wanted = np.arange(*given)
    for numbers in (
        given,
        [torch.tensor(n, dtype=torch.int32 if whole else torch.float64) for n in given],
    ):
        found = OPS['range_1d'](*numbers)
        assert found.dtype == (torch.int32 if whole else torch.float32)
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-6, atol=1e-7)


def test_range_1d_without_a_step():
    with pytest.raises(ProgramError, match='step is 0'):
        OPS['range_1d'](0, 3, 0)


@pytest.mark.parametrize('lower', [-1, 0, 2, 9])
@pytest.mark.parametrize('upper', [-1, 0, 1, 9])
def test_band_part(lower, upper):
    """What is outside becomes 0, infinite or not."""
    x = torch.full((2, 3, 4), torch.inf)
    row, column = np.indices((3, 4))
    inside = ((lower < 0) | (row - column <= lower)) & ((upper < 0) | (column - row <= upper))
    found = OPS['band_part'](x, lower, upper)
    assert np.array_equal(found.numpy(), np.where(inside, np.inf, 0)[None].repeat(2, 0))
    flags = OPS['band_part'](x > 0, lower, upper)
    assert np.array_equal(flags[0].numpy(), inside)


@pytest.mark.parametrize('axis', [-3, -2, -1, 0, 1, 2])
@pytest.mark.parametrize('values', [(1, 0), (True, False), (0.5, -1.5)])
def test_one_hot(axis, values):
    on, off = values
    indices = np.array([[1, 0], [-1, 4], [3, 2]])
    wanted = np.where(np.moveaxis(indices[..., None] == np.arange(4), -1, axis), on, off)
    found = OPS['one_hot'](torch.tensor(indices), 4, axis, on, off)
    assert np.array_equal(found.numpy(), wanted)
    assert found.dtype == {bool: torch.bool, int: torch.int32, float: torch.float32}[type(on)]


def test_ties_keep_their_order():
    x = torch.tensor([1.0, 2, 1, 2, 1])
    assert OPS['argsort'](x).tolist() == [1, 3, 0, 2, 4]
    assert OPS['argsort'](x, 0, True).tolist() == [0, 2, 4, 1, 3]


PADDINGS = [[1, 2], [0, 3]]


def test_blocks_of_samples():
    """By its document: sample (i, j) has every b-th row, c-th column."""
    x = noise(2, 3, 5, 6)
    padded = np.pad(x, [(0, 0), (0, 0), *PADDINGS])
    found = OPS['space_to_batch'](torch.tensor(x), [4, 3], PADDINGS).numpy()
    assert found.shape == (24, 3, 2, 3)
    for i in range(4):
        for j in range(3):
            first = 2 * (3 * i + j)
            assert np.array_equal(found[first : first + 2], padded[:, :, i::4, j::3])
    back = OPS['batch_to_space'](torch.tensor(found), [4, 3], PADDINGS)
    assert np.array_equal(back.numpy(), x)


def test_blocks_of_samples_in_a_file(tmp_path):
    x = noise(1, 2, 4, 6)

    def build(mb, x):
        many = mb.space_to_batch(x=x, block_shape=[2, 3], paddings=[[0, 0], [0, 0]], name='many')
        return [
            many,
            mb.batch_to_space(x=many, block_shape=[2, 3], crops=[[1, 0], [2, 1]], name='back'),
        ]

    got = load_program(save_mil(build, {'x': x}, tmp_path)).predict({'x': x})
    check(got['many'][4], x[0, :, 1::2, 1::3])
    check(got['back'], x[:, :, 1:, 2:-1])


def test_blocks_that_do_not_fit():
    with pytest.raises(ProgramError, match=r'5 x 6 cannot.*blocks of 2 x 2'):
        OPS['space_to_batch'](torch.zeros(1, 1, 5, 6), [2, 2], [[0, 0], [0, 0]])
    with pytest.raises(ProgramError, match=r'3 samples.*2 x 2'):
        OPS['batch_to_space'](torch.zeros(3, 1, 5, 6), [2, 2], [[0, 0], [0, 0]])
    with pytest.raises(ProgramError, match=r'block_shape is \[0, 2\]'):
        OPS['space_to_batch'](torch.zeros(1, 1, 5, 6), [0, 2], [[0, 0], [0, 0]])
