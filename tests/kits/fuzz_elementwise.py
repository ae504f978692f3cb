"""Random element-wise operations, activations and reductions."""

from __future__ import annotations

import math

import numpy as np
from fuzz_kit import Case, axes_of, axis_of, exact, floats, generator, integers, near, shape_of

erf = np.vectorize(math.erf, otypes=[float])


def sigma(x):
    return 0.5 * (1 + np.tanh(x / 2))


def softplus(x):
    return np.logaddexp(0.0, x)


def quiet64(function, *values):
    with np.errstate(all='ignore'):
        return function(*(np.asarray(v, np.float64) for v in values))


EXACT = {
    'abs': np.abs,
    'ceil': np.ceil,
    'floor': np.floor,
    'round': np.round,
    'sign': np.sign,
    'identity': lambda x: x,
    'relu': lambda x: np.maximum(x, 0),
    'relu6': lambda x: np.minimum(np.maximum(x, 0), 6),
}
INTEGER = ('abs', 'sign', 'square', 'identity', 'exp2')


@generator(*EXACT)
def unary_exact(name, rng):
    shape = shape_of(rng, 1, 5)
    whole = name in INTEGER and rng.random() < 0.4
    # The least integer has no absolute value.
    x = integers(rng, shape, extreme=name != 'abs') if whole else floats(rng, shape, special=True)
    return Case(name, {'x': x}, {}, exact(EXACT[name](x)))


SMOOTH = {
    'acos': (np.arccos, -1, 1),
    'asin': (np.arcsin, -1, 1),
    'atan': (np.arctan, -9, 9),
    'atanh': (np.arctanh, -0.99, 0.99),
    'cos': (np.cos, -9, 9),
    'cosh': (np.cosh, -9, 9),
    'erf': (erf, -4, 4),
    'exp': (np.exp, -90, 90),
    'exp2': (np.exp2, -20, 20),
    'sigmoid': (lambda x: 1 / (1 + np.exp(-x)), -20, 20),
    'silu': (lambda x: x / (1 + np.exp(-x)), -20, 20),
    'sin': (np.sin, -9, 9),
    'sinh': (np.sinh, -9, 9),
    'softplus': (softplus, -20, 20),
    'softsign': (lambda x: x / (1 + np.abs(x)), -9, 9),
    'sqrt': (np.sqrt, 0, 9),
    'square': (np.square, -9, 9),
    'tan': (np.tan, -1.5, 1.5),
    'tanh': (np.tanh, -9, 9),
}


@generator(*SMOOTH)
def unary_smooth(name, rng):
    function, low, high = SMOOTH[name]
    shape = shape_of(rng, 1, 5)
    if name in INTEGER and rng.random() < 0.4:
        x = integers(rng, shape, low=-5, high=20)
        wanted = np.trunc(function(x.astype(np.float64))).astype(np.int32)
        return Case(name, {'x': x}, {}, exact(wanted), folds='' if name == 'exp2' else True)
    x = floats(rng, shape, low, high, special=name != 'erf')
    value = quiet64(function, x)
    # erf of 0.5 is made of terms of the size of 1 where x is not small.
    size = np.abs(value) + (np.minimum(np.abs(x), 1) if name == 'erf' else 0)
    folds = name != 'silu' and (name != 'sigmoid' or 'overflows')
    return Case(name, {'x': x}, {}, near(value, size, 6), folds)


@generator('logical_not')
def logical_not(name, rng):
    x = rng.random(shape_of(rng)) < 0.5
    return Case(name, {'x': x}, {}, exact(~x))


def slope(rng, low=-1.5, high=1.5):
    return np.float32(rng.uniform(low, high))


def clamped(x, a, b):
    return np.minimum(np.where(x >= 0, x, a * x), b)


BY_NUMBERS = {
    'clamped_relu': (clamped, lambda x, a, b: np.abs(a * x) + np.abs(x)),
    'clip': (lambda x, a, b: np.minimum(np.maximum(x, a), b), None),
    'elu': (lambda x, a: np.where(x > 0, x, a * np.expm1(x)), None),
    'inverse': (lambda x, e: 1 / (x + e), None),
    'leaky_relu': (lambda x, a: np.where(x >= 0, x, a * x), None),
    'linear_activation': (lambda x, a, b: a * x + b, lambda x, a, b: abs(a * x) + abs(b)),
    'log': (lambda x, e: np.log(x + e), lambda x, e: 1 + abs(np.log(x + e))),
    'rsqrt': (lambda x, e: (x + e) ** -0.5, None),
    'scaled_tanh': (lambda x, a, b: a * np.tanh(b * x), lambda x, a, b: abs(a) * abs(b * x)),
    'sigmoid_hard': (
        lambda x, a, b: np.minimum(np.maximum(a * x + b, 0), 1),
        lambda x, a, b: abs(a * x) + abs(b),
    ),
    'threshold': (np.maximum, None),
    'thresholded_relu': (lambda x, a: np.where(x < a, 0, x), None),
}
POSITIVE = ('inverse', 'log', 'rsqrt')


@generator(*BY_NUMBERS)
def by_numbers(name, rng):
    function, magnitude = BY_NUMBERS[name]
    x = floats(rng, shape_of(rng, 1, 5), special=name not in POSITIVE)
    x = np.abs(x) + np.float32(0.01) if name in POSITIVE else x
    params = (
        {'epsilon': np.float32(rng.choice([1e-3, 0.5, 10]))}
        if name in POSITIVE
        else {'alpha': slope(rng)}
    )
    if function.__code__.co_argcount == 3 if hasattr(function, '__code__') else False:
        params['beta'] = slope(rng)
    if name == 'clip':
        params = {'alpha': slope(rng, -2, 0), 'beta': slope(rng, 0.1, 2)}
    numbers = [np.float64(v) for v in params.values()]
    value = quiet64(function, x, *numbers)
    size = None if magnitude is None else quiet64(magnitude, x, *numbers)
    folds = (
        name != 'clamped_relu'
        or params['beta'] >= 0
        or ('clamped_relu: the document, not the folding')
    )
    if name == 'elu' and np.isnan(x).any():
        folds = 'NaN'
    return Case(name, {'x': x}, params, near(value, size, 6), folds)


@generator('gelu')
def gelu(name, rng):
    x = floats(rng, shape_of(rng), -6, 6).astype(np.float64)
    mode = str(rng.choice(['EXACT', 'TANH_APPROXIMATION', 'SIGMOID_APPROXIMATION']))
    inner = math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)
    part = {
        'EXACT': 0.5 * (1 + erf(x / math.sqrt(2))),
        'TANH_APPROXIMATION': 0.5 * (1 + np.tanh(inner)),
        'SIGMOID_APPROXIMATION': sigma(1.702 * x),
    }[mode]
    # 1 + erf cancels on the left; an argument that is off by a rounding moves the curve by its
    # slope, 1 / cosh^2, times the argument.
    moved = np.abs(inner) / np.cosh(inner) ** 2
    wanted = near(x * part, np.abs(x) * (1 + moved), 8)
    return Case(name, {'x': x.astype(np.float32)}, {'mode': mode}, wanted)


@generator('prelu')
def prelu(name, rng):
    shape = (2, 3, *shape_of(rng, 1, 3))
    x = floats(rng, shape, special=True)
    alpha = floats(rng, 3) if len(shape) == 4 else np.full(3, slope(rng), np.float32)
    column = alpha.reshape(3, *[1] * (len(shape) - 2))
    value = quiet64(lambda v: np.where(v > 0, v, column * v), x)
    folds = bool(np.isfinite(x).all()) or 'inf * 0'
    return Case(name, {'x': x}, {'alpha': alpha}, near(value), folds)


@generator('softplus_parametric')
def softplus_parametric(name, rng):
    x = floats(rng, (2, 3, *shape_of(rng, 1, 2)))
    alpha, beta = floats(rng, 3), floats(rng, 3)
    a, b = (v.reshape(3, *[1] * (x.ndim - 2)).astype(float) for v in (alpha, beta))
    value = a * softplus(b * x)
    size = np.abs(a) * (softplus(b * x) + np.abs(b * x) * sigma(b * x))
    return Case(name, {'x': x}, {'alpha': alpha, 'beta': beta}, near(value, size, 8))


@generator('softmax')
def softmax(name, rng):
    x = floats(rng, shape_of(rng, 1, 5), -20, 20)
    axis = axis_of(rng, x.ndim)
    far = x.astype(float) - x.max(axis, keepdims=True)
    e = np.exp(far)
    value = e / e.sum(axis, keepdims=True)
    size = value * (1 + np.abs(far))
    return Case(name, {'x': x}, {'axis': axis}, near(value, size, 6 + x.shape[axis]))


def pair(rng, make):
    """Two tensors that broadcast, either of them a constant or a number."""
    shape = shape_of(rng, 1, 4)
    other = tuple(1 if rng.random() < 0.3 else n for n in shape)
    other = other[int(rng.integers(len(shape))) :]
    x, y = make(shape), make(other)
    return (y, x) if rng.random() < 0.5 else (x, y)


def placed(rng, x, y):
    """At least one is an input: the file keeps no operation on constants."""
    where = rng.integers(3)
    if where == 0:
        return {'x': x}, {'y': y}
    return ({'y': y}, {'x': x}) if where == 1 else ({'x': x, 'y': y}, {})


SINGLE = {
    'add': np.add,
    'sub': np.subtract,
    'mul': np.multiply,
    'maximum': np.maximum,
    'minimum': np.minimum,
    'floor_div': np.floor_divide,
    'mod': np.mod,
    'equal': np.equal,
    'not_equal': np.not_equal,
    'greater': np.greater,
    'greater_equal': np.greater_equal,
    'less': np.less,
    'less_equal': np.less_equal,
}


@generator(*SINGLE)
def binary(name, rng):
    whole = rng.random() < 0.5
    divides = name in ('floor_div', 'mod')
    x, y = pair(
        rng,
        lambda s: (
            integers(rng, s, extreme=True)
            if whole
            else np.round(floats(rng, s, special=True) * 2) / 2
        ),
    )
    if divides:
        y = np.where(y == 0, np.asarray(3, y.dtype), y)
    if divides and whole:
        # NumPy: the least integer by -1 is itself, by a warning.
        y = np.where(y == -1, np.int32(-2), y)
    with np.errstate(all='ignore'):
        wanted = exact(SINGLE[name](x, y))
    inputs, params = placed(rng, x, y)
    return Case(name, inputs, params, wanted)


@generator('real_div')
def real_div(name, rng):
    if rng.random() < 0.5:
        x, y = pair(rng, lambda s: integers(rng, s, extreme=True))
        y = np.where(y == 0, np.int32(7), y)
        wanted = np.trunc(x.astype(float) / y).astype(np.int64)
        # 2^31 is none of int32.
        wanted = exact(wanted.astype(np.int32))
        folds = ''  # a Python float, of type int32
    else:
        x, y = pair(rng, lambda s: floats(rng, s, special=True))
        with np.errstate(all='ignore'):
            wanted, folds = exact(x / y), True
    inputs, params = placed(rng, x, y)
    return Case(name, inputs, params, wanted, folds)


@generator('pow')
def power(name, rng):
    if rng.random() < 0.3:
        x, y = pair(rng, lambda s: integers(rng, s, low=0, high=6))
        wanted = exact(x**y)
    else:
        x, y = pair(rng, lambda s: floats(rng, s, 0.1, 4))
        wanted = near(quiet64(np.power, x, y), None, 6)
    inputs, params = placed(rng, x, y)
    return Case(name, inputs, params, wanted)


LOGIC = {'logical_and': np.logical_and, 'logical_or': np.logical_or, 'logical_xor': np.logical_xor}


@generator(*LOGIC)
def logical(name, rng):
    x, y = pair(rng, lambda s: rng.random(s) < 0.5)
    inputs, params = placed(rng, x, y)
    return Case(name, inputs, params, exact(LOGIC[name](x, y)))


@generator('select')
def select(name, rng):
    shape = shape_of(rng)
    make = (
        (lambda: integers(rng, shape))
        if rng.random() < 0.4
        else (lambda: floats(rng, shape, special=True))
    )
    given = {'cond': rng.random(shape) < 0.5, 'a': make(), 'b': make()}
    wanted = exact(np.where(given['cond'], given['a'], given['b']))
    constant = rng.permutation(list(given))[: int(rng.integers(3))]
    return Case(
        name,
        {k: v for k, v in given.items() if k not in constant},
        {k: v for k, v in given.items() if k in constant},
        wanted,
    )


@generator('cast')
def cast(name, rng):
    kind = str(rng.choice(['int32', 'fp32', 'bool', 'int8', 'uint8', 'int16', 'uint16']))
    source = rng.integers(3)
    low, high = (0, 200) if kind[0] == 'u' else (-100, 100)
    shape = shape_of(rng)
    x = [
        lambda: floats(rng, shape, low, high),
        lambda: integers(rng, shape, low, high),
        lambda: rng.random(shape) < 0.5,
    ][source]()
    dtype = {'fp32': np.float32}.get(kind) or np.dtype(kind)
    return Case(name, {'x': x}, {'dtype': kind}, exact(x.astype(dtype)))


def reduced(rng, make):
    x = make(shape_of(rng, 1, 5))
    if rng.random() < 0.2:
        axes, params = tuple(range(x.ndim)), {}
    else:
        chosen = axes_of(rng, x.ndim)
        axes, params = tuple(a % x.ndim for a in chosen), {'axes': chosen}
    keep = bool(rng.random() < 0.5)
    count = math.prod(x.shape[a] for a in axes)
    return x, {**params, 'keep_dims': keep}, dict(axis=axes, keepdims=keep), count


def total(x, k):
    return np.sum(x, **k)


REDUCTIONS = {
    'reduce_sum': (total, lambda x, k: total(abs(x), k)),
    'reduce_mean': (lambda x, k: np.mean(x, **k), lambda x, k: np.mean(abs(x), **k)),
    'reduce_max': (lambda x, k: np.max(x, **k), None),
    'reduce_min': (lambda x, k: np.min(x, **k), None),
    'reduce_prod': (lambda x, k: np.prod(x, **k), None),
    'reduce_l1_norm': (lambda x, k: total(abs(x), k), None),
    'reduce_l2_norm': (lambda x, k: np.sqrt(total(x * x, k)), None),
    'reduce_sum_square': (lambda x, k: total(x * x, k), None),
    'reduce_log_sum': (lambda x, k: np.log(total(x, k)), lambda x, k: 1 + abs(np.log(total(x, k)))),
    'reduce_log_sum_exp': (
        lambda x, k: np.log(total(np.exp(x), k)),
        lambda x, k: 1 + 2 * np.max(abs(x), **k),
    ),
}


@generator(*REDUCTIONS)
def reduce(name, rng):
    function, magnitude = REDUCTIONS[name]
    whole = rng.random() < 0.4
    positive = name == 'reduce_log_sum'
    low = 1 if positive else -4
    x, params, k, count = reduced(
        rng,
        lambda s: (
            integers(rng, s, low, 4) if whole else floats(rng, s, low, 4, special=not positive)
        ),
    )
    with np.errstate(all='ignore'):
        value = function(x.astype(np.float64), k)
        size = None if magnitude is None else magnitude(x.astype(np.float64), k)
    if whole:
        wide = np.trunc(value).astype(np.int64)
        wanted = exact(wide.astype(np.int32))
    else:
        wanted = near(value, size, count + 4)
    # Where all are -inf, and where inf meets inf, folding gives NaN.
    folds = name != 'reduce_log_sum_exp' or bool(np.isfinite(x).all()) or 'inf - inf'
    return Case(name, {'x': x}, params, wanted, folds)


@generator('reduce_argmax', 'reduce_argmin')
def reduce_arg(name, rng):
    """Of equal values MIL's document promises no index: there are none."""
    shape = shape_of(rng, 1, 5)
    count = math.prod(shape)
    x = (rng.permutation(count) - count // 2).reshape(shape)
    x = x.astype(np.int32 if rng.random() < 0.4 else np.float32)
    if x.dtype.kind == 'f' and count > 2 and rng.random() < 0.5:
        x.reshape(-1)[x.argmax()] = np.inf
    axis = axis_of(rng, x.ndim)
    keep = bool(rng.random() < 0.5)
    wanted = getattr(np, name[7:])(x, axis=axis)
    wanted = np.expand_dims(wanted, axis) if keep else wanted
    return Case(name, {'x': x}, {'axis': axis, 'keep_dims': keep}, exact(wanted.astype(np.int32)))
