"""Element-wise MIL operations and reductions against NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from runtime_kit import (
    PER_CHANNEL,
    POSITIVE,
    SMALL,
    UNIT,
    X,
    check,
    column,
    noise,
    run,
    run_all,
    save_mil,
)

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS, implemented
from mmpretrain_mobileone_ext.coreml.runtime.ops.registry import lookup, op
from mmpretrain_mobileone_ext.errors import ProgramError

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
    ('clamped_relu', {'alpha': A, 'beta': B}, lambda x: np.minimum(B, np.where(x >= 0, x, A * x))),
    ('clip', {'alpha': -A, 'beta': B}, lambda x: np.clip(x, -A, B)),
    ('elu', {'alpha': A}, lambda x: np.where(x > 0, x, A * np.expm1(np.minimum(x, 0)))),
    ('gelu', {'mode': 'EXACT'}, lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2)))),
    (
        'gelu',
        {'mode': 'TANH_APPROXIMATION'},
        lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
    ),
    ('gelu', {'mode': 'SIGMOID_APPROXIMATION'}, lambda x: x / (1 + np.exp(-1.702 * x))),
    ('inverse', {'epsilon': np.float32(10)}, lambda x: 1 / (x + 10)),
    ('leaky_relu', {'alpha': A}, lambda x: np.where(x >= 0, x, A * x)),
    ('linear_activation', {'alpha': A, 'beta': B}, lambda x: A * x + B),
    ('log', {'epsilon': np.float32(10)}, lambda x: np.log(x + 10)),
    ('prelu', {'alpha': PER_CHANNEL}, lambda x: np.where(x > 0, x, column(PER_CHANNEL) * x)),
    ('rsqrt', {'epsilon': np.float32(10)}, lambda x: (x + 10) ** -0.5),
    ('scaled_tanh', {'alpha': A, 'beta': B}, lambda x: A * np.tanh(B * x)),
    ('sigmoid_hard', {'alpha': A, 'beta': B}, lambda x: np.clip(A * x + B, 0, 1)),
    ('softmax', {'axis': 1}, lambda x: np.exp(x) / np.exp(x).sum(1, keepdims=True)),
    (
        'softplus_parametric',
        {'alpha': PER_CHANNEL, 'beta': -PER_CHANNEL},
        lambda x: column(PER_CHANNEL) * np.log1p(np.exp(-column(PER_CHANNEL) * x)),
    ),
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


CHOICES = [
    ('gelu', {'mode': 'FAST'}, 'FAST.*EXACT'),
    ('pad', {'pad': [1, 1], 'mode': 'wrap'}, 'wrap.*reflect'),
    ('resize_bilinear', {'sampling_mode': 'BEST'}, 'BEST.*DEFAULT'),
    ('max_pool', {'kernel_sizes': [2, 2], 'pad_type': 'full'}, 'full.*same_lower'),
    (
        'max_pool',
        {'kernel_sizes': [2, 2], 'pad_type': 'custom', 'pad': [0, 1, 0, 1], 'ceil_mode': True},
        'ceil_mode',
    ),
    ('upsample_bilinear', {'half_pixel_centers': True}, 'exclude'),
    ('gather', {'indices': torch.tensor([0]), 'batch_dims': 1}, 'axis 0 with 1 batch'),
]


@pytest.mark.parametrize(('name', 'params', 'message'), CHOICES)
def test_unknown_choices_are_refused(name, params, message):
    with pytest.raises(ProgramError, match=message):
        OPS[name](torch.tensor(X), **params)


def test_lookup_names_operation_and_implemented_ones():
    with pytest.raises(ProgramError) as caught:
        lookup('sliding_windows', 'windows_0')
    message = str(caught.value)
    assert "'sliding_windows' (named 'windows_0')" in message
    assert all(name in message for name in implemented())
    assert '\n' not in message


def test_registering_twice_is_refused():
    with pytest.raises(ValueError, match=r"'conv' registered twice"):
        op('conv')(lambda x: x)


def ops_on(inputs, folder, build, target='iOS18'):
    """Results of a program, by the names of its operations."""
    return load_program(save_mil(build, inputs, folder, target)).predict(inputs)


def test_integers_stay_integers(tmp_path):
    """What has a fraction loses it: MIL's results have its inputs' type."""
    x = np.int32([[7, -7, 4], [5, 2, -9]])
    y = np.int32([[2, 2, -3], [-1, 4, 2]])

    def build(mb, x, y):
        return [
            mb.real_div(x=x, y=y, name='quotient'),
            mb.reduce_mean(x=x, axes=[1], name='mean'),
            mb.reduce_l2_norm(x=x, axes=[1], name='norm'),
            mb.reduce_log_sum_exp(x=x, axes=[0], name='lse'),
            mb.reduce_prod(x=x, axes=[0], name='product'),
            mb.cumsum(x=x, axis=1, name='sums'),
            mb.exp2(x=y, name='power'),
        ]

    got = ops_on({'x': x, 'y': y}, tmp_path, build)
    assert {v.dtype for v in got.values()} == {np.dtype('int32')}
    assert got['quotient'].tolist() == [[3, -3, -1], [-5, 0, -4]]
    assert got['mean'].tolist() == [1, 0]  # of 4 / 3 and -2 / 3
    assert got['norm'].tolist() == [10, 10]  # of 10.68 and 10.49
    assert got['lse'].tolist() == [7, 2, 4]
    assert got['product'].tolist() == [35, -14, -36]
    assert got['sums'].tolist() == np.cumsum(x, 1).tolist()
    assert got['power'].tolist() == [[4, 4, 0], [0, 16, 4]]


LEAST = -(2**31)


@pytest.mark.parametrize(
    ('name', 'wanted'), [('real_div', LEAST), ('floor_div', LEAST), ('mod', 0)]
)
@pytest.mark.parametrize('count', [1, 3, 64])
def test_the_least_integer_by_minus_one(name, wanted, count):
    """The processor ends a program that divides so: a file must not."""
    x = torch.full((count,), LEAST, dtype=torch.int32)
    y = torch.full((count,), -1, dtype=torch.int32)
    assert OPS[name](x, y).tolist() == [wanted] * count
    assert OPS[name](x, y).dtype == torch.int32


def test_sums_wrap_as_int32():
    x = torch.tensor([2**31 - 1, 1], dtype=torch.int32)
    assert OPS['reduce_sum'](x).tolist() == LEAST
    assert OPS['cumsum'](x).tolist() == [2**31 - 1, LEAST]


def test_not_a_number_stays():
    x = torch.tensor([np.nan, -2.0, 0.0, 3.0])
    for got, wanted in (
        (OPS['sign'](x), [np.nan, -1, 0, 1]),
        (OPS['thresholded_relu'](x, 1.0), [np.nan, 0, 0, 3]),
    ):
        np.testing.assert_array_equal(got.numpy(), wanted)


def test_clamped_relu_follows_the_document():
    """coremltools folds -1 for 2: its two terms are both clamped."""
    x = torch.tensor([2.0, -2.0])
    check(OPS['clamped_relu'](x, 0.25, -0.75).numpy(), [-0.75, -0.75])


def test_scalars_are_arrays_of_one(tmp_path):
    def build(mb, x):
        return [
            mb.reduce_max(x=x, name='top'),
            mb.reduce_argmax(x=x, axis=0, name='place'),
            mb.reduce_sum(x=x, axes=[0], keep_dims=True, name='sum'),
        ]

    x = np.float32([2, 7, 4])
    path = save_mil(build, {'x': x}, tmp_path)
    loaded = load_program(path)
    got = loaded.predict({'x': x})
    assert [(k, v.tolist()) for k, v in got.items()] == [
        ('top', [7]),
        ('place', [1]),
        ('sum', [13]),
    ]
    for count in (1, 4):  # alone, and several at a time
        batch = torch.tensor(np.stack([x, x[::-1].copy()] * 2))[:count]
        found = loaded.predict_batch({'x': batch})
        assert {v.shape for v in found.values()} == {(count, 1)}


def test_no_axes_are_no_axes():
    x = torch.tensor([[1.0, -2.0], [3.0, 4.0]])
    assert torch.equal(OPS['reduce_sum'](x, []), x)
    assert torch.equal(OPS['reduce_max'](x, [], True), x)


def test_int8_arrays_of_ios26(tmp_path):
    """What iOS 26 adds to Core ML's programs: no operation, but arrays of int8."""
    x = np.array([[-128, -1, 0], [3, 100, 127]], np.int8)
    (got,) = run('cast', tmp_path, {'x': x}, 'iOS26', dtype='fp32')
    assert got.dtype == np.float32
    assert np.array_equal(got, x.astype(np.float32))
