"""MIL operations, read back from disk, against NumPy and torch."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from runtime_kit import relative_error, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.op_registry import lookup, op
from mmpretrain_mobileone_ext.coreml.ops import OPS, implemented
from mmpretrain_mobileone_ext.coreml.ops_conv import resolve_pads
from mmpretrain_mobileone_ext.errors import ProgramError

RNG = np.random.default_rng(0)


def noise(*shape, low=-3.0, high=3.0):
    return RNG.uniform(low, high, shape).astype(np.float32)


X = noise(1, 4, 6, 5, low=-9, high=9)
POSITIVE = noise(1, 4, 6, 5, low=0.1)
UNIT = noise(1, 4, 6, 5, low=-0.9, high=0.9)
SMALL = noise(2, 3)
PER_CHANNEL = np.linspace(-0.5, 0.7, 4).astype(np.float32)


def column(values):
    return np.asarray(values).reshape(1, -1, 1, 1)


def run(op_type, folder, inputs, target='iOS16', **params):
    """Save a one-operation program; return its outputs as computed."""

    def build(mb, **variables):
        return getattr(mb, op_type)(**variables, **params)

    path = save_mil(build, inputs, folder, target)
    loaded = load_program(path)
    assert op_type in loaded.program.count_operations()
    results = loaded.predict(inputs)
    return [results[feature.name] for feature in loaded.program.outputs]


def run_all(cases, folder, **inputs):
    """Save one program with many operations on the same input ``x``.

    ``cases`` maps keys to (operation, parameters); ``inputs`` replaces the
    example ``x``. Returns key to result. One conversion for all keeps the
    suite fast.
    """
    inputs = inputs or {'x': X}
    names = {key: f'case_{i}' for i, key in enumerate(cases)}

    def build(mb, x):
        return [
            getattr(mb, op_type)(x=x, name=names[key], **params)
            for key, (op_type, params) in cases.items()
        ]

    loaded = load_program(save_mil(build, inputs, folder))
    counted = loaded.program.count_operations()
    assert set(counted) == {op_type for op_type, _ in cases.values()}
    results = loaded.predict(inputs)
    check_batch(loaded, inputs['x'], results)
    return {key: results[name] for key, name in names.items()}


def check_batch(loaded, x, single):
    """Batched evaluation gives every sample what it gets alone."""
    both = torch.tensor(np.stack([x[..., ::-1].copy(), x]))
    batch = loaded.predict_batch({'x': both})
    for name, wanted in single.items():
        got = batch[name][1].reshape(wanted.shape)
        assert relative_error(got, wanted) < 1e-6, name


def check(got, wanted, tolerance=2e-6):
    wanted = np.asarray(wanted)
    assert got.shape == wanted.shape
    np.testing.assert_allclose(
        got, wanted, rtol=tolerance, atol=tolerance * np.abs(wanted).max()
    )


erf = np.vectorize(math.erf)

UNARY = {
    'abs': (X, np.abs),
    'acos': (UNIT, np.arccos),
    'asin': (UNIT, np.arcsin),
    'atan': (X, np.arctan),
    'atanh': (UNIT, np.arctanh),
    'ceil': (X, np.ceil),
    'cos': (X, np.cos),
    'cosh': (X, np.cosh),
    'erf': (X, erf),
    'exp': (X, np.exp),
    'exp2': (X, np.exp2),
    'floor': (X, np.floor),
    'identity': (X, lambda x: x),
    'relu': (X, lambda x: np.maximum(x, 0)),
    'relu6': (X, lambda x: np.clip(x, 0, 6)),
    'round': (X, np.round),
    'sigmoid': (X, lambda x: 1 / (1 + np.exp(-x))),
    'sign': (X, np.sign),
    'silu': (X, lambda x: x / (1 + np.exp(-x))),
    'sin': (X, np.sin),
    'sinh': (X, np.sinh),
    'softplus': (X, lambda x: np.logaddexp(0, x)),
    'softsign': (X, lambda x: x / (1 + np.abs(x))),
    'sqrt': (POSITIVE, np.sqrt),
    'square': (X, np.square),
    'tan': (UNIT, np.tan),
    'tanh': (X, np.tanh),
}


@pytest.mark.parametrize('x', [X, POSITIVE, UNIT], ids=['any', 'positive', 'unit'])
def test_unary(x, tmp_path):
    chosen = {k: f for k, (mine, f) in UNARY.items() if mine is x}
    got = run_all({k: (k, {}) for k in chosen}, tmp_path, x=x)
    for name, oracle in chosen.items():
        check(got[name], oracle(x.astype(np.float64)))


A, B = np.float32(0.3), np.float32(1.2)

PARAMETRIC = [
    ('clamped_relu', {'alpha': A, 'beta': B},
     lambda x: np.minimum(B, np.where(x >= 0, x, A * x))),
    ('clip', {'alpha': -A, 'beta': B}, lambda x: np.clip(x, -A, B)),
    ('elu', {'alpha': A},
     lambda x: np.where(x > 0, x, A * np.expm1(np.minimum(x, 0)))),
    ('gelu', {'mode': 'EXACT'},
     lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    ('gelu', {'mode': 'TANH_APPROXIMATION'},
     lambda x: 0.5 * x * (1 + np.tanh(
         math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))),
    ('gelu', {'mode': 'SIGMOID_APPROXIMATION'},
     lambda x: x / (1 + np.exp(-1.702 * x))),
    ('inverse', {'epsilon': np.float32(10)}, lambda x: 1 / (x + 10)),
    ('leaky_relu', {'alpha': A}, lambda x: np.where(x >= 0, x, A * x)),
    ('linear_activation', {'alpha': A, 'beta': B}, lambda x: A * x + B),
    ('log', {'epsilon': np.float32(10)}, lambda x: np.log(x + 10)),
    ('prelu', {'alpha': PER_CHANNEL},
     lambda x: np.where(x > 0, x, column(PER_CHANNEL) * x)),
    ('rsqrt', {'epsilon': np.float32(10)}, lambda x: (x + 10) ** -0.5),
    ('scaled_tanh', {'alpha': A, 'beta': B}, lambda x: A * np.tanh(B * x)),
    ('sigmoid_hard', {'alpha': A, 'beta': B},
     lambda x: np.clip(A * x + B, 0, 1)),
    ('softmax', {'axis': 1},
     lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    ('softplus_parametric', {'alpha': PER_CHANNEL, 'beta': -PER_CHANNEL},
     lambda x: column(PER_CHANNEL) * np.log1p(
         np.exp(-column(PER_CHANNEL) * x))),
    ('threshold', {'alpha': A}, lambda x: np.maximum(x, A)),
    ('thresholded_relu', {'alpha': A}, lambda x: np.where(x >= A, x, 0)),
]


def test_parametric(tmp_path):
    cases = {i: case[:2] for i, case in enumerate(PARAMETRIC)}
    got = run_all(cases, tmp_path)
    for i, (_, _, oracle) in enumerate(PARAMETRIC):
        check(got[i], oracle(X.astype(np.float64)))


BINARY = {
    'add': np.add,
    'sub': np.subtract,
    'mul': np.multiply,
    'real_div': np.divide,
    'floor_div': np.floor_divide,
    'mod': np.mod,
    'pow': np.power,
    'maximum': np.maximum,
    'minimum': np.minimum,
}


OTHERS = {
    'tensor': noise(1, 4, 6, 5, low=0.5, high=2),
    'channels': noise(1, 4, 1, 1, low=0.5, high=2),
    'scalar': np.float32(1.7),
}


@pytest.mark.parametrize('other', sorted(OTHERS))
def test_binary_broadcasts(other, tmp_path):
    y = OTHERS[other]
    got = run_all({k: (k, {'y': y}) for k in BINARY}, tmp_path, x=POSITIVE)
    for name, oracle in BINARY.items():
        check(got[name], oracle(POSITIVE, y), 1e-5)


def test_binary_of_two_inputs(tmp_path):
    inputs = {'x': POSITIVE, 'y': OTHERS['tensor']}
    (got,) = run('real_div', tmp_path, inputs)
    check(got, inputs['x'] / inputs['y'])


COMPARE = {
    'equal': np.equal,
    'not_equal': np.not_equal,
    'greater': np.greater,
    'greater_equal': np.greater_equal,
    'less': np.less,
    'less_equal': np.less_equal,
}


@pytest.mark.parametrize('name', sorted(COMPARE))
def test_compare_select_and_cast(name, tmp_path):
    x = np.round(SMALL)
    y = np.round(SMALL[::-1])
    x[0, 0] = y[0, 0]

    def build(mb, x, y):
        holds = getattr(mb, name)(x=x, y=y)
        other = mb.logical_not(x=holds)
        both = mb.logical_or(x=holds, y=other)
        odd = mb.logical_xor(x=mb.logical_and(x=both, y=holds), y=both)
        picked = mb.select(cond=holds, a=x, b=y)
        return mb.add(x=picked, y=mb.cast(x=odd, dtype='fp32'))

    loaded = load_program(save_mil(build, {'x': x, 'y': y}, tmp_path))
    (got,) = loaded.predict({'x': x, 'y': y}).values()
    holds = COMPARE[name](x, y)
    check(got, np.where(holds, x, y) + ~holds)


REDUCE = {
    'reduce_sum': np.sum,
    'reduce_mean': np.mean,
    'reduce_max': np.max,
    'reduce_min': np.min,
    'reduce_prod': np.prod,
    'reduce_l1_norm': lambda x, **k: np.abs(x).sum(**k),
    'reduce_l2_norm': lambda x, **k: np.sqrt(np.square(x).sum(**k)),
    'reduce_sum_square': lambda x, **k: np.square(x).sum(**k),
    'reduce_log_sum': lambda x, **k: np.log(x.sum(**k)),
    'reduce_log_sum_exp': lambda x, **k: np.log(np.exp(x).sum(**k)),
}


@pytest.mark.parametrize('keep', [False, True])
@pytest.mark.parametrize('axes', [[-2, -1], [1]])
def test_reduce(keep, axes, tmp_path):
    params = {'axes': axes, 'keep_dims': keep}
    got = run_all({k: (k, params) for k in REDUCE}, tmp_path, x=POSITIVE)
    wide = POSITIVE.astype(np.float64)
    for name, oracle in REDUCE.items():
        wanted = oracle(wide, axis=tuple(axes), keepdims=keep)
        check(got[name], wanted, 1e-5)


@pytest.mark.parametrize('name', ['reduce_argmax', 'reduce_argmin'])
def test_reduce_arg(name, tmp_path):
    (got,) = run(name, tmp_path, {'x': X}, axis=1, keep_dims=False)
    assert np.array_equal(got, getattr(np, name[7:])(X, axis=1))


def numpy_pads(pad_type, pad, size, k, stride):
    """(before, after) from the documented output size of ``same``."""
    if pad_type == 'valid':
        return 0, 0
    if pad_type == 'custom':
        return pad
    total = max(0, (-(-size // stride) - 1) * stride + k - size)
    small, large = total // 2, total - total // 2
    return (small, large) if pad_type == 'same' else (large, small)


def windows(x, kernel, strides, pads, fill):
    """(N, C, H', W', kh, kw) windows of a padded (N, C, H, W)."""
    padded = np.pad(x, [(0, 0), (0, 0), *pads], constant_values=fill)
    view = np.lib.stride_tricks.sliding_window_view(padded, kernel, (2, 3))
    return view[:, :, :: strides[0], :: strides[1]]


PADS = [
    ('valid', [0, 0, 0, 0]),
    ('custom', [1, 1, 1, 1]),
    ('custom', [0, 1, 2, 1]),
    ('same', [0, 0, 0, 0]),
    ('same_lower', [0, 0, 0, 0]),
]


POOLS = {
    'max_pool': ('max_pool', {}, np.nanmax),
    'avg_pool': ('avg_pool', {'exclude_padding_from_average': False}, np.mean),
    'avg_pool_inside': (
        'avg_pool', {'exclude_padding_from_average': True}, np.nanmean
    ),
    'l2_pool': (
        'l2_pool', {}, lambda v, axis: np.sqrt(np.square(v).sum(axis))
    ),
}


def spatial_pads(pad_type, pad, kernel, strides):
    """(before, after) of both axes of ``X``."""
    return [
        numpy_pads(pad_type, pad[2 * i:2 * i + 2], X.shape[2 + i], k, s)
        for i, (k, s) in enumerate(zip(kernel, strides))
    ]


@pytest.mark.parametrize('kernel', [(3, 3), (2, 4)])
@pytest.mark.parametrize('name', sorted(POOLS))
def test_pool(name, kernel, tmp_path):
    op_type, extra, oracle = POOLS[name]
    strides = [2, 1]
    shared = {'kernel_sizes': kernel, 'strides': strides, **extra}
    cases = {
        i: (op_type, {'pad_type': pad_type, 'pad': pad, **shared})
        for i, (pad_type, pad) in enumerate(PADS)
    }
    got = run_all(cases, tmp_path)
    # NaN padding takes no part in the maximum and the mean of the inside.
    fill = np.nan if oracle in (np.nanmax, np.nanmean) else 0
    for i, (pad_type, pad) in enumerate(PADS):
        pads = spatial_pads(pad_type, pad, kernel, strides)
        view = windows(X.astype(np.float64), kernel, strides, pads, fill)
        check(got[i], oracle(view, axis=(-2, -1)), 1e-5)


@pytest.mark.parametrize('name', ['max_pool', 'avg_pool'])
def test_pool_ceil_mode(name, tmp_path):
    """Sizes are chosen so that ceil_mode adds windows, and drops one."""
    x = noise(1, 2, 6, 7)
    (got,) = run(
        name, tmp_path, {'x': x}, kernel_sizes=[2, 3], strides=[3, 2],
        pad_type='custom', pad=[1, 1, 1, 1], ceil_mode=True,
    )
    pool = getattr(F, f'{name}2d')
    wanted = pool(torch.tensor(x), (2, 3), (3, 2), 1, ceil_mode=True)
    check(got, wanted, 1e-5)


@pytest.mark.parametrize('groups', [1, 2, 4])
@pytest.mark.parametrize('dilation', [1, 2])
def test_conv(groups, dilation, tmp_path):
    weight, bias = noise(8, 4 // groups, 3, 2), noise(8)
    strides = [1, 2]
    shared = {
        'weight': weight, 'bias': bias, 'strides': strides,
        'dilations': [dilation, dilation], 'groups': groups,
    }
    cases = {
        i: ('conv', {'pad_type': pad_type, 'pad': pad, **shared})
        for i, (pad_type, pad) in enumerate(PADS)
    }
    got = run_all(cases, tmp_path)
    reach = [dilation * (k - 1) + 1 for k in weight.shape[2:]]
    for i, (pad_type, pad) in enumerate(PADS):
        pads = spatial_pads(pad_type, pad, reach, strides)
        view = windows(X.astype(np.float64), reach, strides, pads, 0)
        taps = view[..., ::dilation, ::dilation]
        check(got[i], numpy_conv(taps, weight, groups) + column(bias), 1e-5)


def numpy_conv(taps, weight, groups):
    """(N, C, H', W', kh, kw) windows times weights, by einsum."""
    n, c, h, w, *kernel = taps.shape
    grouped = taps.reshape(n, groups, c // groups, h, w, *kernel)
    split = weight.reshape(groups, -1, c // groups, *kernel)
    return np.einsum('ngchwij,gocij->ngohw', grouped, split).reshape(
        n, -1, h, w
    )


TRANSPOSED = [
    {'pad_type': 'valid'},
    {'pad_type': 'custom', 'pad': [1, 1, 0, 1]},
    {'pad_type': 'custom', 'pad': [1, 0, 1, 1]},
]


@pytest.mark.parametrize('padding', TRANSPOSED)
@pytest.mark.parametrize('groups', [1, 2])
def test_conv_transpose(padding, groups, tmp_path):
    weight, bias = noise(4, 3, 3, 3), noise(3 * groups)
    (got,) = run(
        'conv_transpose', tmp_path, {'x': X}, weight=weight, bias=bias,
        strides=[2, 2], groups=groups, **padding,
    )
    full = F.conv_transpose2d(
        torch.tensor(X), torch.tensor(weight), torch.tensor(bias), 2,
        groups=groups,
    )
    top, bottom, left, right = padding.get('pad', [0] * 4)
    height, width = full.shape[2:]
    check(got, full[..., top:height - bottom, left:width - right], 1e-5)


def test_conv_transpose_output_padding(tmp_path):
    """``output_shape`` beyond the scatter: zeros plus bias, as torch."""
    weight, bias = noise(4, 3, 3, 3), noise(3)
    layer = torch.nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1)
    layer.weight.data, layer.bias.data = map(torch.tensor, (weight, bias))
    (got,) = run(
        'conv_transpose', tmp_path, {'x': X}, weight=weight, bias=bias,
        strides=[2, 2], pad_type='custom', pad=[1, 1, 1, 1],
        output_shape=[1, 3, 12, 10],
    )
    check(got, layer(torch.tensor(X)).detach(), 1e-5)


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


NORMALIZE = [
    ('batch_norm', {'mean': PER_CHANNEL, 'variance': PER_CHANNEL + 1,
                    'gamma': PER_CHANNEL, 'beta': -PER_CHANNEL,
                    'epsilon': A},
     lambda x: F.batch_norm(
         x, torch.tensor(PER_CHANNEL), torch.tensor(PER_CHANNEL + 1),
         torch.tensor(PER_CHANNEL), torch.tensor(-PER_CHANNEL), eps=0.3)),
    ('instance_norm', {'gamma': PER_CHANNEL, 'beta': -PER_CHANNEL,
                       'epsilon': A},
     lambda x: F.instance_norm(
         x, None, None, torch.tensor(PER_CHANNEL),
         torch.tensor(-PER_CHANNEL), eps=0.3)),
    ('layer_norm', {'axes': [2, 3], 'epsilon': A},
     lambda x: F.layer_norm(x, (6, 5), eps=0.3)),
    ('layer_norm', {'axes': [1], 'gamma': PER_CHANNEL,
                    'beta': -PER_CHANNEL, 'epsilon': A},
     lambda x: F.layer_norm(
         x.movedim(1, -1), (4,), torch.tensor(PER_CHANNEL),
         torch.tensor(-PER_CHANNEL), 0.3).movedim(-1, 1)),
    ('l2_norm', {'epsilon': A}, lambda x: x / (x.square().sum() + 0.3).sqrt()),
    ('local_response_norm', {'size': 3, 'alpha': A, 'beta': B, 'k': B},
     lambda x: F.local_response_norm(x, 3, 0.3, 1.2, 1.2)),
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
    ('cumsum', {'axis': 2, 'exclusive': True, 'reverse': True},
     lambda x: np.flip(np.cumsum(np.flip(x, 2), 2), 2) - x),
    ('slice_by_size', {'begin': [0, 1, 2, 0], 'size': [1, 2, -1, 4]},
     lambda x: x[:, 1:3, 2:, :4]),
    ('crop', {'crop_height': [1, 2], 'crop_width': [0, 3]},
     lambda x: x[:, :, 1:4, :2]),
    ('pixel_shuffle', {'upscale_factor': 2},
     lambda x: F.pixel_shuffle(torch.tensor(x), 2)),
    ('depth_to_space', {'block_size': 2},
     lambda x: x.reshape(1, 2, 2, 1, 6, 5).transpose(
         0, 3, 4, 1, 5, 2).reshape(1, 1, 12, 10)),
    ('gather', {'indices': np.int32([2, 0, 3]), 'axis': 1},
     lambda x: x[:, [2, 0, 3]]),
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
    (got,) = run('pad', tmp_path, {'x': X}, pad=amounts, mode=mode,
                 constant_val=B)
    names = {'constant': 'constant', 'reflect': 'reflect',
             'replicate': 'edge'}
    extra = {'constant_values': B} if mode == 'constant' else {}
    pairs = [(0, 0), (0, 0), (1, 2), (0, 3)]
    check(got, np.pad(X, pairs, names[mode], **extra))


RESIZE = [
    ('upsample_nearest_neighbor',
     {'scale_factor_height': 2, 'scale_factor_width': 3},
     {'scale_factor': (2, 3), 'mode': 'nearest'}),
    ('resize_nearest_neighbor',
     {'target_size_height': 9, 'target_size_width': 4},
     {'size': (9, 4), 'mode': 'nearest'}),
    ('upsample_bilinear',
     {'scale_factor_height': 2, 'scale_factor_width': 3,
      'align_corners': True},
     {'scale_factor': (2, 3), 'mode': 'bilinear', 'align_corners': True}),
    ('upsample_bilinear',
     {'scale_factor_height': 2, 'scale_factor_width': 3,
      'align_corners': False},
     {'scale_factor': (2, 3), 'mode': 'bilinear', 'align_corners': False}),
    ('resize_bilinear',
     {'target_size_height': 9, 'target_size_width': 4,
      'sampling_mode': 'STRICT_ALIGN_CORNERS'},
     {'size': (9, 4), 'mode': 'bilinear', 'align_corners': True}),
    ('resize_bilinear',
     {'target_size_height': 9, 'target_size_width': 4,
      'sampling_mode': 'UNALIGN_CORNERS'},
     {'size': (9, 4), 'mode': 'bilinear', 'align_corners': False}),
]


def test_resize(tmp_path):
    cases = {i: case[:2] for i, case in enumerate(RESIZE)}
    got = run_all(cases, tmp_path)
    for i, (_, _, torch_params) in enumerate(RESIZE):
        check(got[i], F.interpolate(torch.tensor(X), **torch_params), 1e-5)


# The rows of Apple's table in the documentation of resize_bilinear.
GRID = {
    ('UNALIGN_CORNERS', 5): [0, 0.1, 0.5, 0.9, 1],
    ('STRICT_ALIGN_CORNERS', 5): [0, 0.25, 0.5, 0.75, 1],
    ('ALIGN_CORNERS', 1): [0.5],
    ('DEFAULT', 5): [0, 0.4, 0.8, 1, 1],
    ('OFFSET_CORNERS', 5): [0.1, 0.3, 0.5, 0.7, 0.9],
    ('UNALIGN_CORNERS', 6): [0, 0, 1 / 3, 2 / 3, 1, 1],
    ('DEFAULT', 6): [0, 1 / 3, 2 / 3, 1, 1, 1],
}


@pytest.mark.parametrize(('mode', 'size'), sorted(GRID))
def test_resize_bilinear_documented_grid(mode, size):
    x = torch.tensor([[[[0.0, 1.0]]]])
    got = OPS['resize_bilinear'](x, 1, size, mode)
    check(got[0, 0, 0].numpy(), GRID[mode, size])
    with_ios17 = OPS['resize'](x, [size], 1, 'LINEAR', mode)
    assert torch.equal(with_ios17, got)


def slices(size):
    step = st.integers(-3, 3).filter(bool)
    bound = st.integers(-size, size - 1)
    return st.tuples(bound, bound, step, st.booleans(), st.booleans(),
                     st.booleans())


@given(st.tuples(slices(4), slices(5)))
def test_slice_by_index_is_numpy_indexing(choices):
    """Only the results with elements: MIL has no empty tensors."""
    x = np.arange(20.0, dtype=np.float32).reshape(4, 5)
    begin, end, stride, begin_mask, end_mask, squeeze = zip(*choices)
    index = tuple(
        b if q else slice(None if bm else b, None if em else e, s)
        for b, e, s, bm, em, q in choices
    )
    wanted = x[tuple(
        0 if bm and isinstance(i, int) else i
        for i, bm in zip(index, begin_mask)
    )]
    got = OPS['slice_by_index'](
        torch.tensor(x), begin, end, stride, begin_mask, end_mask, squeeze
    )
    assert np.array_equal(got.numpy(), wanted)


@given(st.sampled_from(['same', 'same_lower']), st.integers(1, 12),
       st.integers(1, 5), st.integers(1, 4))
def test_same_padding_keeps_the_documented_size(pad_type, size, k, stride):
    ((before, after),) = resolve_pads(pad_type, None, [size], [k], [stride])
    padded = size + before + after
    assert (padded - k) // stride + 1 == -(-size // stride)
    lead = after - before if pad_type == 'same' else before - after
    assert lead in (0, 1)


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
    with pytest.raises(ProgramError, match="'fp8'.*allowed.*fp16"):
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


CHOICES = [
    ('gelu', {'mode': 'FAST'}, 'FAST.*EXACT'),
    ('pad', {'pad': [1, 1], 'mode': 'wrap'}, 'wrap.*reflect'),
    ('resize_bilinear', {'sampling_mode': 'BEST'}, 'BEST.*DEFAULT'),
    ('max_pool', {'kernel_sizes': [2, 2], 'pad_type': 'full'},
     'full.*same_lower'),
    ('max_pool', {'kernel_sizes': [2, 2], 'pad_type': 'custom',
                  'pad': [0, 1, 0, 1], 'ceil_mode': True}, 'ceil_mode'),
    ('upsample_bilinear', {'half_pixel_centers': True}, 'exclude'),
    ('gather', {'indices': torch.tensor([0]), 'batch_dims': 1}, 'batch_dims'),
]


@pytest.mark.parametrize(('name', 'params', 'message'), CHOICES)
def test_unknown_choices_are_refused(name, params, message):
    with pytest.raises(ProgramError, match=message):
        OPS[name](torch.tensor(X), **params)


def test_lookup_names_operation_and_implemented_ones():
    with pytest.raises(ProgramError) as caught:
        lookup('lstm', 'lstm_0')
    message = str(caught.value)
    assert "'lstm' (named 'lstm_0')" in message
    assert all(name in message for name in implemented())
    assert '\n' not in message


def test_registering_twice_is_refused():
    with pytest.raises(ValueError, match="'conv' registered twice"):
        op('conv')(lambda x: x)


def test_wrong_numbers_would_be_noticed(tmp_path):
    """The oracle of these tests rejects a perturbed weight."""
    weight = noise(8, 4, 3, 2)
    (got,) = run('conv', tmp_path, {'x': X}, weight=weight, pad_type='valid')
    for index in itertools.islice(np.ndindex(weight.shape), 0, None, 37):
        other = weight.copy()
        other[index] += 0.01
        wanted = F.conv2d(torch.tensor(X), torch.tensor(other))
        assert relative_error(got, wanted) > 1e-5
