"""What a stored weight consists of: numbers near the values, by a bound that is derived."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.coreml.compress.codes import Indices, Masked, integers
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.compress.storage import DENSE, INT8, Joint, Palette, Sparse


def values(seed, size, dtype=np.float16, shape=(6, 8, 3, 3)):
    """Channels of different range, one of them zero."""
    rng = np.random.default_rng(seed)
    found = rng.normal(rng.normal(), 1, shape) * size * np.logspace(-2, 0, 6).reshape(6, 1, 1, 1)
    found[2] = 0
    return found.astype(dtype)


@given(
    seed=st.integers(0, 99),
    bits=st.sampled_from([4, 8]),
    block=st.sampled_from([1, 2, 8]),
    symmetric=st.booleans(),
    size=st.sampled_from([1e-7, 1e-5, 1e-3, 1.0, 100.0]),
    dtype=st.sampled_from([np.float16, np.float32]),
)
def test_integers_are_half_a_step_away(seed, bits, block, symmetric, size, dtype):
    """Scales of fp16, which has no numbers below 6e-8, too."""
    given_ = values(seed, size, dtype)
    found = integers(given_, bits, block, symmetric)
    assert found.codes.dtype == np.int8
    assert found.scale.dtype == dtype
    assert found.scale.shape == (6, 8 // block, 1, 1)
    low = 1 - 2 ** (bits - 1) if symmetric else -(2 ** (bits - 1))
    assert low <= found.codes.min() <= found.codes.max() <= 2 ** (bits - 1) - 1
    step = np.repeat(found.scale.astype(float), block, 1)
    assert np.all(np.abs(found.values() - given_) <= step * (0.5 + 1e-6))
    assert np.all(found.values()[2] == 0)
    if symmetric:
        assert not found.zero.any()


def test_integers_use_their_range():
    """A step is the range of the channel's values in so many parts."""
    given_ = values(0, 1.0, np.float32)
    both = np.abs(given_).max((1, 2, 3))
    np.testing.assert_allclose(
        integers(given_, 4, 8, True).scale.reshape(-1)[[0, 1, 3]], both[[0, 1, 3]] / 7, rtol=1e-6
    )
    reach = given_.max((1, 2, 3)).clip(0) - given_.min((1, 2, 3)).clip(None, 0)
    np.testing.assert_allclose(
        integers(given_, 8, 8, False).scale.reshape(-1)[[0, 1, 3]],
        reach[[0, 1, 3]] / 255,
        rtol=1e-6,
    )


def test_each_group_has_its_table():
    tables = np.array([[1, 2], [3, 4], [5, 6]], np.float16)
    indices = np.zeros((6, 1, 1, 2), np.uint8)
    indices[..., 1] = 1
    found = Indices(indices, tables, 1).values()
    assert found.reshape(6, 2).tolist() == [[1, 2], [1, 2], [3, 4], [3, 4], [5, 6], [5, 6]]


@pytest.mark.parametrize('code', [DENSE, INT8, Palette(4)], ids=lambda s: s.name)
def test_what_is_masked_is_zero(code):
    given_, sparse = values(1, 1.0), Sparse(50)
    storage = sparse if code is DENSE else Joint(sparse, code)
    found = storage.encode(given_, 'iOS18', Palettes())
    assert isinstance(found, Masked)
    smallest = np.abs(given_[~found.mask]).max()
    assert smallest <= np.abs(given_[found.mask]).min()
    assert not found.values()[~found.mask].any()
    error = np.abs(found.values() - given_)[found.mask]
    bound = {'dense': 0, 'int8': 0.01, 'palettize4': 0.3}[code.name]
    assert error.max() <= bound * np.abs(given_).max()


@pytest.mark.parametrize('bits', Palette.POINTS)
def test_tables_are_those_of_core_ml(bits):
    given_ = values(3, 1.0, shape=(6, 128, 1, 1))
    storage = Palette(bits)
    group = storage.group_size(given_.shape, 'iOS18')
    parts = [Palettes()(given_[i : i + group], bits) for i in range(0, 6, group)]
    wanted = np.concatenate([table[index].astype(float) for table, index in parts])
    np.testing.assert_array_equal(storage.encode(given_, 'iOS18', Palettes()).values(), wanted)
