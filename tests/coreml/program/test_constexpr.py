"""Compressed weights are decoded as coremltools and NumPy decode them."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runtime_kit import save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import constexpr, quiet
from mmpretrain_mobileone_ext.coreml.program.budget import Ledger
from mmpretrain_mobileone_ext.errors import ProgramError

RNG = np.random.default_rng(0)


def decode(kind, **inputs):
    return constexpr.decode(kind, 'w', inputs, Ledger())


def half(*shape):
    return RNG.normal(size=shape).astype(np.float16)


def packed(numbers, bits):
    """Numbers in a stream of bits, least significant first, in Python."""
    stream = ''.join(format(int(n), f'0{bits}b')[::-1] for n in numbers)
    stream += '0' * (-len(stream) % 8)
    return np.array([int(stream[i : i + 8][::-1], 2) for i in range(0, len(stream), 8)], np.uint8)


@settings(deadline=None, max_examples=40)
@given(bits=st.sampled_from([1, 2, 4, 6, 8]), data=st.data())
def test_packed_tables(bits, data):
    shape = tuple(data.draw(st.lists(st.integers(1, 5), min_size=1, max_size=4)))
    count = int(np.prod(shape))
    indices = np.array(
        data.draw(st.lists(st.integers(0, 2**bits - 1), min_size=count, max_size=count))
    )
    lut = half(2**bits)
    (got,) = decode(
        'constexpr_lut_to_dense',
        indices=packed(indices, bits),
        lut=lut,
        shape=np.array(shape, np.uint32),
    )
    assert got.dtype == np.float16
    np.testing.assert_array_equal(got, lut[indices].reshape(shape))


@pytest.mark.parametrize('groups', [(1, 1, 1), (2, 1, 1), (6, 1, 1), (1, 4, 1), (3, 2, 5)])
def test_tables_of_groups(groups):
    indices = RNG.integers(0, 16, (6, 4, 5)).astype(np.uint8)
    lut = half(*groups, 16, 1)
    (got,) = decode('constexpr_lut_to_dense', indices=indices, lut=lut, vector_axis=None)
    for place in np.ndindex(6, 4, 5):
        own = tuple(p // (n // g) for p, n, g in zip(place, (6, 4, 5), groups))
        assert got[place] == lut[(*own, indices[place], 0)]


@pytest.mark.parametrize('axis', [0, 1, -1])
def test_tables_of_vectors(axis):
    """Against coremltools' own decoder."""
    utils = quiet.module('coremltools.optimize._utils')
    indices = RNG.integers(0, 4, (4, 6)).astype(np.uint8)
    lut = half(1, 1, 4, 2)
    (got,) = decode('constexpr_lut_to_dense', indices=indices, lut=lut, vector_axis=np.int32(axis))
    wanted = utils.lut_to_dense(indices, lut, axis % 2)
    np.testing.assert_array_equal(got, wanted)
    assert not np.array_equal(got.T, wanted.T[::-1])


def test_affine():
    data = RNG.integers(-128, 128, (3, 4, 2)).astype(np.int8)
    scale, zero = half(4), np.array([0, 5, -128, 127], np.int8)
    (got,) = decode(
        'constexpr_affine_dequantize',
        quantized_data=data,
        zero_point=zero,
        scale=scale,
        axis=np.int32(1),
    )
    for place in np.ndindex(*data.shape):
        exact = (int(data[place]) - int(zero[place[1]])) * float(scale[place[1]])
        assert got[place] == np.float16(exact)
    (scalar,) = decode(
        'constexpr_affine_dequantize',
        quantized_data=data,
        zero_point=np.int8(3),
        scale=np.float16(0.5),
        axis=np.int32(0),
    )
    np.testing.assert_array_equal(scalar, (data.astype(np.float16) - 3) / 2)


@pytest.mark.parametrize('blocks', [(1, 1), (6, 1), (3, 1), (6, 2), (1, 4)])
@pytest.mark.parametrize('shifted', [False, True])
def test_blocks(blocks, shifted):
    data = RNG.integers(-128, 128, (6, 4)).astype(np.int8)
    scale = half(*blocks)
    offset = RNG.integers(-9, 9, blocks).astype(np.int8) if shifted else None
    inputs = dict(data=data, scale=scale)
    (got,) = decode(
        'constexpr_blockwise_shift_scale', **inputs, **({'offset': offset} if shifted else {})
    )
    for place in np.ndindex(6, 4):
        own = tuple(p // (n // b) for p, n, b in zip(place, (6, 4), blocks))
        shift = int(offset[own]) if shifted else 0
        assert got[place] == np.float16((int(data[place]) - shift) * float(scale[own]))


def test_sparse_packed_and_not():
    mask = RNG.integers(0, 2, (3, 5)).astype(np.uint8)
    values = half(int(mask.sum()))
    wanted = np.zeros((3, 5), np.float16)
    wanted[mask == 1] = values
    for inputs in (
        dict(mask=mask),
        dict(mask=packed(mask.reshape(-1), 1), shape=np.array([3, 5], np.uint32)),
    ):
        (got,) = decode('constexpr_sparse_to_dense', nonzero_data=values, **inputs)
        np.testing.assert_array_equal(got, wanted)


def test_chains():
    """Sparse with a table, whose entries are scaled integers."""
    mask = np.array([[1, 0, 1], [0, 1, 1]], np.uint8)
    (entries,) = decode(
        'constexpr_blockwise_shift_scale',
        data=np.array([-2, 0, 3, 7], np.int8).reshape(1, 1, 4, 1),
        scale=np.full((1, 1, 1, 1), 0.5, np.float16),
    )
    same, values = decode(
        'constexpr_lut_to_sparse',
        indices_mask=mask,
        indices_nonzero_data=np.array([3, 0, 2, 1], np.uint8),
        lut=entries,
        vector_axis=None,
    )
    (got,) = decode('constexpr_sparse_to_dense', nonzero_data=values, mask=same)
    np.testing.assert_array_equal(got, [[3.5, 0, -1], [0, 1.5, 0]])


def test_sparse_integers_and_vectors():
    mask = np.array([[1, 0], [1, 1]], np.uint8)
    same, values = decode(
        'constexpr_sparse_blockwise_shift_scale',
        data_mask=mask,
        nonzero_data=np.array([4, -6, 8], np.int8),
        scale=np.array([[0.5], [0.25]], np.float16),
        offset=np.array([[2], [0]], np.int8),
    )
    np.testing.assert_array_equal(same, mask)
    np.testing.assert_array_equal(values, [1.0, -1.5, 2.0])
    wide, values = decode(
        'constexpr_lut_to_sparse',
        indices_mask=mask,
        indices_nonzero_data=np.array([1, 0, 1], np.uint8),
        lut=np.array([[[[1, 2], [3, 4]]]], np.float16),
        vector_axis=np.int32(0),
    )
    np.testing.assert_array_equal(wide, [[1, 0], [1, 0], [1, 1], [1, 1]])
    np.testing.assert_array_equal(values, [3, 4, 1, 3, 2, 4])


def test_cast_and_unknown():
    (got,) = decode('constexpr_cast', source_val=np.float16([1.5]), output_dtype='fp32')
    assert got.dtype == np.float32
    assert got.tolist() == [1.5]
    with pytest.raises(ProgramError, match=r"'constexpr_new' \(named 'w'\)"):
        decode('constexpr_new')


def test_table_of_scaled_integers_in_a_file(tmp_path):
    """coremltools writes such chains, and its own decoder reads them."""

    def build(mb, x):
        lut = mb.constexpr_blockwise_shift_scale(
            data=np.array([-4, 1, 3, 7], np.int8).reshape(1, 1, 4, 1),
            scale=np.full((1, 1, 1, 1), 0.5, np.float32),
        )
        indices = np.array([[0, 1, 2], [3, 3, 0]])
        uint2 = quiet.module('coremltools.converters.mil.mil.types').np_uint2_dtype
        weight = mb.constexpr_lut_to_dense(indices=indices.astype(uint2), lut=lut)
        return mb.linear(x=x, weight=weight)

    x = np.float32([[1, 10, 100]])
    path = save_mil(build, {'x': x}, tmp_path, 'iOS18')
    loaded = load_program(path)
    (linear,) = [op for op in loaded.program.operations if op.type == 'linear']
    assert linear.attributes['compressed'] == {'weight': 'constexpr_lut_to_dense'}
    (got,) = loaded.predict({'x': x}).values()
    np.testing.assert_allclose(got, [[-2 + 5 + 150, 3.5 + 35 - 200]])
