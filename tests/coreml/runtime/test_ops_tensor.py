"""MIL products, normalizations and data movement against NumPy and torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from runtime_kit import PER_CHANNEL, SMALL, X, check, noise, run, run_all, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS, implemented
from mmpretrain_mobileone_ext.errors import ProgramError


def test_linear_matmul_einsum(tmp_path):
    weight, bias, other = noise(4, 3), noise(4), noise(2, 3)

    def build(mb, x):
        dense = mb.linear(x=x, weight=weight, bias=bias)
        square = mb.matmul(x=x, y=other, transpose_y=True)
        return mb.matmul(x=square, y=dense, transpose_x=True)

    loaded = load_program(save_mil(build, {'x': SMALL}, tmp_path))
    (got,) = loaded.predict({'x': SMALL}).values()
    dense = SMALL @ weight.T + bias
    check(got, (SMALL @ other.T).T @ dense, 1e-5)


A, B = np.float32(0.3), np.float32(1.2)

NORMALIZE = [
    (
        'batch_norm',
        {
            'mean': PER_CHANNEL,
            'variance': PER_CHANNEL + 1,
            'gamma': PER_CHANNEL,
            'beta': -PER_CHANNEL,
            'epsilon': A,
        },
        lambda x: F.batch_norm(
            x,
            torch.tensor(PER_CHANNEL),
            torch.tensor(PER_CHANNEL + 1),
            torch.tensor(PER_CHANNEL),
            torch.tensor(-PER_CHANNEL),
            eps=0.3,
        ),
    ),
    (
        'instance_norm',
        {'gamma': PER_CHANNEL, 'beta': -PER_CHANNEL, 'epsilon': A},
        lambda x: F.instance_norm(
            x, None, None, torch.tensor(PER_CHANNEL), torch.tensor(-PER_CHANNEL), eps=0.3
        ),
    ),
    ('layer_norm', {'axes': [2, 3], 'epsilon': A}, lambda x: F.layer_norm(x, (6, 5), eps=0.3)),
    (
        'layer_norm',
        {'axes': [1], 'gamma': PER_CHANNEL, 'beta': -PER_CHANNEL, 'epsilon': A},
        lambda x: F.layer_norm(
            x.movedim(1, -1), (4,), torch.tensor(PER_CHANNEL), torch.tensor(-PER_CHANNEL), 0.3
        ).movedim(-1, 1),
    ),
    ('l2_norm', {'epsilon': A}, lambda x: x / (x.square().sum() + 0.3).sqrt()),
    (
        'local_response_norm',
        {'size': 3, 'alpha': A, 'beta': B, 'k': B},
        lambda x: F.local_response_norm(x, 3, 0.3, 1.2, 1.2),
    ),
]


def test_normalization(tmp_path):
    cases = {i: case[:2] for i, case in enumerate(NORMALIZE)}
    got = run_all(cases, tmp_path)
    for i, (_, _, oracle) in enumerate(NORMALIZE):
        check(got[i], oracle(torch.tensor(X)), 1e-5)


MOVES = [
    ('reshape', {'shape': [1, -1, 10]}, lambda x: x.reshape(1, 12, 10)),
    ('reshape', {'shape': [0, 0, -1, 2]}, lambda x: x.reshape(1, 4, 15, 2)),
    ('squeeze', {'axes': [0]}, lambda x: x[0]),
    ('expand_dims', {'axes': [-1]}, lambda x: x[..., None]),
    ('transpose', {'perm': [0, 2, 3, 1]}, lambda x: x.transpose(0, 2, 3, 1)),
    ('flatten2d', {'axis': 2}, lambda x: x.reshape(4, 30)),
    ('reverse', {'axes': [1, 3]}, lambda x: x[:, ::-1, :, ::-1]),
    ('tile', {'reps': [1, 2, 1, 3]}, lambda x: np.tile(x, (1, 2, 1, 3))),
    (
        'cumsum',
        {'axis': 2, 'exclusive': True, 'reverse': True},
        lambda x: np.flip(np.cumsum(np.flip(x, 2), 2), 2) - x,
    ),
    ('slice_by_size', {'begin': [0, 1, 2, 0], 'size': [1, 2, -1, 4]}, lambda x: x[:, 1:3, 2:, :4]),
    ('crop', {'crop_height': [1, 2], 'crop_width': [0, 3]}, lambda x: x[:, :, 1:4, :2]),
    ('pixel_shuffle', {'upscale_factor': 2}, lambda x: F.pixel_shuffle(torch.tensor(x), 2)),
    (
        'depth_to_space',
        {'block_size': 2},
        lambda x: x.reshape(1, 2, 2, 1, 6, 5).transpose(0, 3, 4, 1, 5, 2).reshape(1, 1, 12, 10),
    ),
    ('gather', {'indices': np.int32([2, 0, 3]), 'axis': 1}, lambda x: x[:, [2, 0, 3]]),
]


def test_data_movement(tmp_path):
    cases = {i: case[:2] for i, case in enumerate(MOVES)}
    got = run_all(cases, tmp_path)
    for i, (_, _, oracle) in enumerate(MOVES):
        check(got[i], oracle(X), 1e-6)


@pytest.mark.parametrize('interleave', [False, True])
def test_concat(interleave, tmp_path):
    y = noise(*X.shape)

    def build(mb, x, y):
        return mb.concat(values=[x, y], axis=1, interleave=interleave)

    loaded = load_program(save_mil(build, {'x': X, 'y': y}, tmp_path))
    (got,) = loaded.predict({'x': X, 'y': y}).values()
    wanted = np.concatenate([X, y], 1)
    if interleave:
        wanted = np.stack([X, y], 2).reshape(1, 8, 6, 5)
    check(got, wanted)


def test_split_and_stack(tmp_path):
    def build(mb, x):
        first, second, third = mb.split(x=x, split_sizes=[1, 3, 2], axis=2)
        left, right = mb.split(x=second, num_splits=2, axis=1)
        return [first, third, mb.stack(values=[right, left], axis=0)]

    loaded = load_program(save_mil(build, {'x': X}, tmp_path))
    first, third, stacked = loaded.predict({'x': X}).values()
    check(first, X[:, :, :1])
    check(third, X[:, :, 4:])
    check(stacked, np.stack([X[:, 2:, 1:4], X[:, :2, 1:4]]))


def test_topk(tmp_path):
    def build(mb, x):
        return mb.topk(x=x, k=2, axis=1, ascending=False)

    loaded = load_program(save_mil(build, {'x': X}, tmp_path))
    values, indices = loaded.predict({'x': X}).values()
    wanted = torch.topk(torch.tensor(X), 2, 1)
    check(values, wanted.values)
    assert np.array_equal(indices, wanted.indices)


@pytest.mark.parametrize('mode', ['constant', 'reflect', 'replicate'])
def test_pad(mode, tmp_path):
    amounts = [1, 2, 0, 3]
    (got,) = run('pad', tmp_path, {'x': X}, pad=amounts, mode=mode, constant_val=B)
    names = {'constant': 'constant', 'reflect': 'reflect', 'replicate': 'edge'}
    extra = {'constant_values': B} if mode == 'constant' else {}
    pairs = [(0, 0), (0, 0), (1, 2), (0, 3)]
    check(got, np.pad(X, pairs, names[mode], **extra))


def slices(size):
    step = st.integers(-3, 3).filter(bool)
    bound = st.integers(-size, size - 1)
    return st.tuples(bound, bound, step, st.booleans(), st.booleans(), st.booleans())


@given(st.tuples(slices(4), slices(5)))
def test_slice_by_index_is_numpy_indexing(choices):
    """Only the results with elements: MIL has no empty tensors."""
    x = np.arange(20.0, dtype=np.float32).reshape(4, 5)
    begin, end, stride, begin_mask, end_mask, squeeze = zip(*choices)
    index = tuple(
        b if q else slice(None if bm else b, None if em else e, s) for b, e, s, bm, em, q in choices
    )
    wanted = x[tuple(0 if bm and isinstance(i, int) else i for i, bm in zip(index, begin_mask))]
    got = OPS['slice_by_index'](torch.tensor(x), begin, end, stride, begin_mask, end_mask, squeeze)
    assert np.array_equal(got.numpy(), wanted)


def test_integer_operations(tmp_path):
    x = np.array([[3, -7, 5]], dtype=np.int32)

    def build(mb, x):
        rest = mb.mod(x=x, y=np.int32(4))
        half = mb.floor_div(x=x, y=np.int32(2))
        return mb.cast(x=mb.add(x=rest, y=half), dtype='fp32')

    loaded = load_program(save_mil(build, {'x': x}, tmp_path))
    (got,) = loaded.predict({'x': x}).values()
    check(got, x % 4 + x // 2)


def test_casts_truncate():
    x = torch.tensor([-1.7, 0.0, 2.9])
    assert OPS['cast'](x, 'int32').tolist() == [-1, 0, 2]
    assert OPS['cast'](x, 'bool').tolist() == [True, False, True]
    with pytest.raises(ProgramError, match=r"'fp8'.*allowed.*fp16"):
        OPS['cast'](x, 'fp8')


def test_attention(tmp_path):
    q, k, v = noise(1, 2, 4, 3), noise(1, 2, 5, 3), noise(1, 2, 5, 3)

    def build(mb, q, k, v):
        return mb.scaled_dot_product_attention(query=q, key=k, value=v)

    inputs = {'q': q, 'k': k, 'v': v}
    loaded = load_program(save_mil(build, inputs, tmp_path, 'iOS18'))
    (got,) = loaded.predict(inputs).values()
    wanted = F.scaled_dot_product_attention(*map(torch.tensor, (q, k, v)))
    check(got, wanted, 1e-5)


def test_inverse_round_trips():
    """Shuffles undo each other, and no element is lost."""
    x = torch.arange(192.0).reshape(1, 8, 4, 6)
    shuffled = OPS['pixel_shuffle'](x, 2)
    assert torch.equal(OPS['pixel_unshuffle'](shuffled, 2), x)
    spread = OPS['depth_to_space'](x, 2)
    assert torch.equal(OPS['space_to_depth'](spread, 2), x)
    assert not torch.equal(spread, shuffled)


def test_gather_along_axis_and_fill(tmp_path):
    indices = np.int32([[2, 0, -1], [1, 1, 0]])

    def build(mb, x):
        picked = mb.gather_along_axis(x=x, indices=indices, axis=1)
        return mb.add(x=picked, y=mb.fill_like(ref_tensor=picked, value=B))

    loaded = load_program(save_mil(build, {'x': SMALL}, tmp_path))
    (got,) = loaded.predict({'x': SMALL}).values()
    check(got, np.take_along_axis(SMALL, indices % 3, 1) + B)


def test_every_name_is_a_mil_operation():
    ops = quiet.module('coremltools.converters.mil.mil.ops.registry')
    known = set(ops.SSAOpRegistry.core_ops)
    # The layer slice takes an axis from the end, which MIL has no way to say.
    assert set(implemented()) - known == {'slice_axis'}


def test_attention_with_constant_masks(tmp_path):
    """A bool mask, and the triangle that ``is_causal`` becomes."""
    q, k, v = noise(1, 2, 4, 3), noise(1, 2, 4, 3), noise(1, 2, 4, 5)
    mask = np.array([[1, 0, 1, 1]] * 4, bool)
    causal = np.tri(4, dtype=bool)

    def build(mb, q, k, v):
        return [
            mb.scaled_dot_product_attention(query=q, key=k, value=v, attn_mask=m, name=name)
            for name, m in (('some', mask), ('causal', causal))
        ]

    inputs = {'q': q, 'k': k, 'v': v}
    got = load_program(save_mil(build, inputs, tmp_path, 'iOS18')).predict(inputs)
    tensors = [torch.tensor(value) for value in inputs.values()]
    check(got['some'], F.scaled_dot_product_attention(*tensors, attn_mask=torch.tensor(mask)), 1e-5)
    check(got['causal'], F.scaled_dot_product_attention(*tensors, is_causal=True), 1e-5)


def test_expand_to_a_size_that_is_computed(tmp_path):
    """What torch's ``expand`` of a flexible size becomes."""
    x, like = noise(1, 3), noise(4, 3)

    def build(mb, x, like):
        reps = mb.real_div(x=mb.shape(x=like), y=mb.shape(x=x))
        spread = mb.tile(x=x, reps=reps)
        sizes = mb.shape(x=spread)
        return [
            mb.add(x=spread, y=mb.fill(shape=sizes, value=B)),
            mb.pad(x=x, pad=mb.concat(values=[sizes, sizes], axis=0)),
        ]

    inputs = {'x': x, 'like': like}
    loaded = load_program(save_mil(build, inputs, tmp_path))
    added, padded = loaded.predict(inputs).values()
    check(added, np.repeat(x, 4, 0) + B)
    check(padded, np.pad(x, [(4, 3), (4, 3)]))


def test_gather_with_batches(tmp_path):
    x = noise(2, 3, 4, 5)
    indices = np.int32(np.random.default_rng(0).integers(4, size=(2, 3, 6)))

    def build(mb, x):
        return [
            mb.gather(x=x, indices=indices, axis=2, batch_dims=2),
            mb.gather(x=x, indices=indices[:, 0], axis=2, batch_dims=1),
        ]

    both, one = load_program(save_mil(build, {'x': x}, tmp_path)).predict({'x': x}).values()
    check(both, np.take_along_axis(x, indices[..., None].astype(int), 2))
    check(one, np.stack([x[i][:, indices[i, 0]] for i in range(2)]))


def test_reshape_counts_zeros_from_the_end(tmp_path):
    """The example of the iOS 17 document."""
    x = noise(2, 50)
    (got,) = run('reshape', tmp_path, {'x': x}, 'iOS17', shape=[1, 0, -1, 0])
    check(got, x.reshape(1, 1, 2, 50))


def test_topk_of_ties(tmp_path):
    x = np.float32([[2, 5, 5, 2, 5, -1]] * 3)
    x[1, 0], x[2, 3] = np.nan, np.inf

    def build(mb, x):
        return [
            *mb.topk(x=x, k=4, axis=1, name='top'),
            *mb.topk(x=x, k=4, axis=1, ascending=True, name='low'),
            mb.topk(x=x, k=2, axis=1, return_indices=False, name='v'),
        ]

    loaded = load_program(save_mil(build, {'x': x}, tmp_path, 'iOS17'))
    _, top, _, low, values = loaded.predict({'x': x}).values()
    assert top.tolist() == [[1, 2, 4, 0], [1, 2, 4, 3], [3, 1, 2, 4]]
    assert low.tolist() == [[5, 0, 3, 1], [5, 3, 1, 2], [5, 0, 1, 2]]
    assert values.tolist() == [[5, 5], [5, 5], [np.inf, 5]]
    lowest = torch.tensor([0, -(2**31), 4], dtype=torch.int32)
    assert OPS['topk'](lowest, 3)[1].tolist() == [2, 0, 1]


WHOLE, PARTS = np.int32([[2, -3], [1, 5]]), np.float32([[0.5, 1], [2, 0.25]])


@pytest.mark.parametrize('place', ['x', 'y'])
@pytest.mark.parametrize(('value', 'other'), [(WHOLE, PARTS), (PARTS, WHOLE)])
def test_integers_times_a_constant_of_floats(place, value, other, tmp_path):
    """The result has the type of what is no constant (iOS 17)."""
    constant = {'y' if place == 'x' else 'x': other}
    (got,) = run('matmul', tmp_path, {place: value}, 'iOS17', **constant)
    wanted = value @ other if place == 'x' else other @ value
    assert got.dtype == value.dtype
    check(got, np.trunc(wanted) if value is WHOLE else wanted)


def test_an_index_beyond_the_entries_is_refused():
    x = torch.arange(5.0)
    with pytest.raises(ProgramError, match=r'index 7 .* 5 entries'):
        OPS['slice_by_index'](x, [7], [8], squeeze_mask=[True])


def test_exclusive_sums_of_infinities():
    x = torch.tensor([1.0, np.inf, 2.0])
    assert OPS['cumsum'](x, exclusive=True).tolist() == [0, 1, np.inf]


def test_eight_bits_are_scaled_as_numbers(tmp_path):
    """Not in 8 bits, which wrap, and not by a scale of whole numbers."""
    x = np.int32([[-128, 127], [5, -7]])

    def build(mb, x):
        narrow = mb.cast(x=x, dtype='int8')
        return mb.dequantize(
            input=narrow, scale=np.float32([0.5, 0.25]), zero_point=np.int8([100, -100]), axis=0
        )

    loaded = load_program(save_mil(build, {'x': x}, tmp_path, 'iOS17'))
    (got,) = loaded.predict({'x': x}).values()
    check(got, [[-114, 13.5], [26.25, 23.25]])
