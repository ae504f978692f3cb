"""Random operations that move data: results are exact."""

from __future__ import annotations

import math

import numpy as np
from fuzz_kit import (
    EPS,
    Case,
    Wanted,
    axes_of,
    axis_of,
    constant_or_not,
    exact,
    floats,
    generator,
    integers,
    near,
    shape_of,
)


def anything(rng, shape, boolean=True):
    kind = rng.integers(3 if boolean else 2)
    if kind == 2:
        return rng.random(shape) < 0.5
    return integers(rng, shape, extreme=True) if kind else floats(rng, shape, special=True)


def some(rng, low=1, high=5, boolean=True):
    return anything(rng, shape_of(rng, low, high), boolean)


def factors(rng, count):
    """Sizes whose product is ``count``."""
    sizes = []
    # Core ML has five dimensions at most.
    while count > 1 and len(sizes) < 4 and rng.random() < 0.7:
        divisors = [d for d in range(1, count + 1) if count % d == 0]
        sizes.append(int(rng.choice(divisors)))
        count //= sizes[-1]
    return [*sizes, count]


@generator('reshape')
def reshape(name, rng):
    x = some(rng)
    sizes = factors(rng, x.size)
    wanted = x.reshape(sizes)
    known = [1] * len(sizes) + list(x.shape)
    same = [i for i, n in enumerate(sizes) if n == known[len(known) - len(sizes) + i]]
    asked = list(sizes)
    for i in same:
        asked[i] = 0 if rng.random() < 0.5 else asked[i]
    if rng.random() < 0.5:
        asked[int(rng.integers(len(asked)))] = -1
    inputs, params = {'x': x}, {}
    constant_or_not(rng, inputs, params, shape=asked)
    return Case(name, inputs, params, exact(wanted))


@generator('squeeze')
def squeeze(name, rng):
    shape = tuple(int(n) for n in rng.integers(1, 3, rng.integers(1, 6)))
    x = anything(rng, shape)
    ones = [i for i, n in enumerate(shape) if n == 1]
    if rng.random() < 0.3 or not ones:
        drop, params, folds = ones, {}, True
    else:
        axes = axes_of(rng, x.ndim)
        drop = [a % x.ndim for a in axes if shape[a] == 1]
        params = {'axes': axes}
        # NumPy refuses axes of other sizes, the document ignores them.
        folds = len(drop) == len(axes) or ''
    wanted = np.squeeze(x, tuple(drop)) if drop else x
    if wanted.ndim == 0 or folds == '':
        folds = ''
    return Case(name, {'x': x}, params, exact(wanted), folds)


@generator('expand_dims')
def expand_dims(name, rng):
    x = some(rng, 1, 3)
    rank = x.ndim + int(rng.integers(1, 3))
    new = rng.permutation(rank)[: rank - x.ndim]
    axes = [int(a) - rank * int(rng.integers(2)) for a in new]
    return Case(name, {'x': x}, {'axes': axes}, exact(np.expand_dims(x, tuple(axes))))


@generator('transpose')
def transpose(name, rng):
    x = some(rng)
    perm = [int(a) - x.ndim * int(rng.integers(2)) for a in rng.permutation(x.ndim)]
    return Case(name, {'x': x}, {'perm': perm}, exact(x.transpose(perm)))


@generator('flatten2d')
def flatten2d(name, rng):
    x = some(rng)
    axis = axis_of(rng, x.ndim)
    shape = math.prod(x.shape[:axis]), math.prod(x.shape[axis:])
    # The product of no sizes is a float in coremltools.
    folds = axis % x.ndim > 0 or ''
    return Case(name, {'x': x}, {'axis': axis}, exact(x.reshape(shape)), folds)


def several(rng, shapes):
    """Tensors of one type, at least one of them an input."""
    make = [
        lambda s: floats(rng, s, special=True),
        lambda s: integers(rng, s, extreme=True),
        lambda s: rng.random(s) < 0.5,
    ][rng.integers(3)]
    made = [make(s) for s in shapes]
    named = {f'values{i}': v for i, v in enumerate(made)}
    constant = {k for k in named if k != 'values0' and rng.random() < 0.4}
    return (
        made,
        {k: v for k, v in named.items() if k not in constant},
        {k: v for k, v in named.items() if k in constant},
    )


@generator('concat')
def concat(name, rng):
    shape = list(shape_of(rng))
    axis = axis_of(rng, len(shape))
    interleave = bool(rng.random() < 0.4)
    count = int(rng.integers(1, 4))
    shapes = []
    for _ in range(count):
        size = list(shape)
        size[axis] = shape[axis] if interleave else int(rng.integers(1, 4))
        shapes.append(size)
    made, inputs, params = several(rng, shapes)
    if interleave:
        at = axis % len(shape)
        shape[at] *= count
        wanted = np.stack(made, at + 1).reshape(shape)
    else:
        wanted = np.concatenate(made, axis)
    params.update(axis=axis, interleave=interleave)
    folds = 'interleave is ignored' if interleave and count > 1 else True
    return Case(name, inputs, params, exact(wanted), folds)


@generator('stack')
def stack(name, rng):
    shape = shape_of(rng)
    made, inputs, params = several(rng, [shape] * int(rng.integers(1, 4)))
    axis = axis_of(rng, len(shape) + 1)
    params.update(axis=axis)
    return Case(name, inputs, params, exact(np.stack(made, axis)))


@generator('split')
def split(name, rng):
    shape = list(shape_of(rng))
    axis = axis_of(rng, len(shape))
    count = int(rng.integers(2, 4))
    if rng.random() < 0.5:
        shape[axis] *= count
        sizes, params = [shape[axis] // count] * count, {'num_splits': count}
    else:
        sizes = [int(n) for n in rng.integers(1, 4, count)]
        shape[axis], params = sum(sizes), {'split_sizes': sizes}
    x = anything(rng, shape)
    parts = np.split(x, np.cumsum(sizes)[:-1], axis)
    return Case(name, {'x': x}, {**params, 'axis': axis}, exact(*parts))


@generator('slice_by_index')
def slice_by_index(name, rng):
    """Only slices with elements: MIL has no empty tensors."""
    x = some(rng, 1, 4)
    while True:
        parts = [index(rng, n) for n in x.shape]
        wanted = x[tuple(p[0] for p in parts)]
        if wanted.size:
            break
    keys = ('begin', 'end', 'stride', 'begin_mask', 'end_mask', 'squeeze_mask')
    given = dict(zip(keys, map(list, zip(*(p[1] for p in parts)))))
    inputs, params = {'x': x}, {k: v for k, v in given.items() if k not in ('begin', 'end')}
    constant_or_not(rng, inputs, params, begin=given['begin'], end=given['end'])
    return Case(name, inputs, params, exact(wanted), wanted.ndim > 0 or '')


def index(rng, size):
    """An index of NumPy, and MIL's parameters for it."""
    begin, end = int(rng.integers(size)), int(rng.integers(size)) + 1
    if rng.random() < 0.2:
        at = begin - size * int(rng.integers(2))
        return at, (at, 0, 1, False, False, True)
    stride = int(rng.choice([-2, -1, 1, 1, 1, 2]))
    if stride < 0:
        begin, end = max(begin, end - 1), min(begin, end - 1) - 1
    else:
        begin, end = min(begin, end - 1), max(begin + 1, end)
    open_begin, open_end = rng.random(2) < 0.3
    # -1 as an end would be the last element.
    open_end = bool(open_end or end < 0)
    shown = begin - size * int(rng.integers(2))
    until = end - size if 0 < end < size and rng.random() < 0.5 else end
    return slice(None if open_begin else begin, None if open_end else end, stride), (
        shown,
        until,
        stride,
        bool(open_begin),
        open_end,
        False,
    )


@generator('slice_by_size')
def slice_by_size(name, rng):
    x = some(rng, 1, 4)
    begin = [int(rng.integers(n)) for n in x.shape]
    size = [int(rng.integers(1, n - b + 1)) for n, b in zip(x.shape, begin)]
    wanted = x[tuple(slice(b, b + s) for b, s in zip(begin, size))]
    asked = [
        -1 if b + s == n and rng.random() < 0.5 else s for b, s, n in zip(begin, size, x.shape)
    ]
    inputs, params = {'x': x}, {}
    constant_or_not(rng, inputs, params, begin=begin, size=asked)
    return Case(name, inputs, params, exact(wanted))


@generator('crop')
def crop(name, rng):
    x = floats(rng, (*shape_of(rng, 1, 2), 5, 6), special=True)
    height, width = ([int(n) for n in rng.integers(0, 3, 2)] for _ in range(2))
    wanted = x[..., height[0] : 5 - height[1], width[0] : 6 - width[1]]
    return Case(name, {'x': x}, {'crop_height': height, 'crop_width': width}, exact(wanted))


@generator('pad')
def pad(name, rng):
    x = floats(rng, shape_of(rng, 1, 4), special=True)
    mode = str(rng.choice(['constant', 'reflect', 'replicate']))
    count = int(rng.integers(1, x.ndim + 1))
    most = [{'constant': 3, 'reflect': n - 1, 'replicate': n}[mode] for n in x.shape[-count:]]
    amounts = [int(rng.integers(m + 1)) for m in most for _ in range(2)]
    pairs = [(0, 0)] * (x.ndim - count) + list(zip(amounts[::2], amounts[1::2]))
    value = np.float32(rng.normal())
    extra = {'constant_values': value} if mode == 'constant' else {}
    names = {'replicate': 'edge'}
    wanted = np.pad(x, pairs, names.get(mode, mode), **extra)
    inputs, params = {'x': x}, {'mode': mode, 'constant_val': value}
    if count == x.ndim:
        constant_or_not(rng, inputs, params, pad=amounts)
    else:
        params['pad'] = np.int32(amounts)
    return Case(name, inputs, params, exact(wanted))


@generator('tile')
def tile(name, rng):
    x = some(rng, 1, 4)
    reps = [int(n) for n in rng.integers(1, 4, x.ndim)]
    inputs, params = {'x': x}, {}
    constant_or_not(rng, inputs, params, reps=reps)
    return Case(name, inputs, params, exact(np.tile(x, reps)))


@generator('reverse')
def reverse(name, rng):
    x = some(rng)
    axes = axes_of(rng, x.ndim)
    params = {'axes': axes} if rng.random() < 0.8 else {}
    return Case(name, {'x': x}, params, exact(np.flip(x, axes if params else None)))


@generator('shape')
def shape(name, rng):
    x = some(rng)
    return Case(name, {'x': x}, {}, exact(np.int32(x.shape)))


@generator('fill', 'fill_like')
def fill(name, rng):
    sizes = shape_of(rng)
    value = anything(rng, ())[()]
    wanted = exact(np.full(sizes, value))
    if name == 'fill_like':
        return Case(name, {'ref_tensor': anything(rng, sizes)}, {'value': value}, wanted)
    return Case(name, {'shape': np.int32(sizes)}, {'value': value}, wanted)


@generator('gather')
def gather(name, rng):
    x = some(rng, 1, 4, boolean=False)
    axis = int(rng.integers(x.ndim))
    batch = int(rng.integers(axis + 1)) if rng.random() < 0.5 else 0
    more = tuple(int(n) for n in rng.integers(1, 4, rng.integers(0, 3)))
    indices = np.asarray(rng.integers(x.shape[axis], size=(*x.shape[:batch], *more)))
    rows = x.reshape(-1, *x.shape[batch:])
    which = indices.reshape(len(rows), *more)
    wanted = np.stack([np.take(r, w, axis - batch) for r, w in zip(rows, which)]).reshape(
        (*x.shape[:axis], *more, *x.shape[axis + 1 :])
    )
    params = {
        'axis': axis - x.ndim * int(rng.integers(2)) if not batch else axis,
        'batch_dims': batch,
    }
    inputs = {'x': x}
    (inputs if rng.random() < 0.5 else params)['indices'] = np.int32(indices)
    # A scalar index of a batch is one that coremltools cannot take.
    folds = (wanted.ndim > 0 and indices.ndim > batch) or ''
    return Case(name, inputs, params, exact(wanted), folds)


@generator('gather_along_axis')
def gather_along_axis(name, rng):
    x = some(rng, 1, 4, boolean=False)
    axis = axis_of(rng, x.ndim)
    sizes = list(x.shape)
    sizes[axis] = int(rng.integers(1, 5))
    indices = np.int32(rng.integers(x.shape[axis], size=sizes))
    inputs, params = {'x': x}, {'axis': axis}
    (inputs if rng.random() < 0.5 else params)['indices'] = indices
    return Case(name, inputs, params, exact(np.take_along_axis(x, indices.astype(int), axis)))


@generator('topk')
def topk(name, rng):
    """The first of equal ones, and NaN last."""
    x = np.round(some(rng, 1, 4, boolean=False))
    axis = axis_of(rng, x.ndim)
    k = int(rng.integers(1, x.shape[axis] + 1))
    ascending = bool(rng.random() < 0.5)
    key = x.astype(np.float64) * (1 if ascending else -1)
    order = np.argsort(key, axis, kind='stable')
    order = np.take(order, range(k), axis)
    values = np.take_along_axis(x, order, axis)
    params = {'k': k, 'axis': axis, 'ascending': ascending}
    wanted = exact(values, order.astype(np.int32))
    if rng.random() < 0.3:
        params['return_indices'] = False
        wanted = wanted[:1]
    # coremltools sorts by -x, of which the least integer is its own, and by no stable sort.
    sorted_key = np.sort(key, axis)
    ties = np.isnan(x).any() or not np.diff(sorted_key, axis=axis).all()
    folds = not ((x == -(2**31)).any() or ties) or ''
    return Case(name, {'x': x}, params, wanted, folds)


@generator('cumsum')
def cumsum(name, rng):
    x = some(rng, 1, 4, boolean=False)
    axis = int(rng.integers(-1, x.ndim))
    exclusive, back = bool(rng.random() < 0.5), bool(rng.random() < 0.5)
    flipped = np.flip(x, axis) if back else x
    if exclusive:
        flipped = np.roll(flipped, 1, axis)
        np.moveaxis(flipped, axis, 0)[0] = 0
    wide = flipped.astype(np.float64 if x.dtype.kind == 'f' else np.int64)
    with np.errstate(invalid='ignore'):
        value, size = wide.cumsum(axis), np.abs(wide).cumsum(axis)
    if back:
        value, size = np.flip(value, axis), np.flip(size, axis)
    wanted = (
        near(value, size, x.shape[axis]) if x.dtype.kind == 'f' else exact(value.astype(np.int32))
    )
    # coremltools refuses to fold exclusive sums (a TypeError).
    return Case(
        name,
        {'x': x},
        {'axis': axis, 'exclusive': exclusive, 'reverse': back},
        wanted,
        not exclusive or '',
    )


@generator('space_to_depth', 'depth_to_space', 'pixel_shuffle', 'pixel_unshuffle')
def shuffle(name, rng):
    b = int(rng.integers(2, 4))
    n, c, h, w = (int(v) for v in rng.integers(1, 4, 4))
    fine = floats(rng, (n, c, h * b, w * b), special=True)
    blocks = fine.reshape(n, c, h, b, w, b)
    # Channels vary fastest in depth_to_space, slowest in pixel_shuffle.
    order = (0, 1, 3, 5, 2, 4) if 'pixel' in name else (0, 3, 5, 1, 2, 4)
    deep = blocks.transpose(order).reshape(n, c * b * b, h, w)
    back = name in ('space_to_depth', 'pixel_unshuffle')
    x, wanted = (fine, deep) if back else (deep, fine)
    key = {'pixel_shuffle': 'upscale_factor', 'pixel_unshuffle': 'downscale_factor'}.get(
        name, 'block_size'
    )
    value = np.uint32(b) if name == 'pixel_unshuffle' else b
    return Case(name, {'x': x}, {key: value}, exact(wanted))


def along(values, rank, axis):
    return (
        values
        if axis is None
        else values.reshape([-1 if i == axis % rank else 1 for i in range(rank)])
    )


@generator('quantize', 'dequantize')
def quantized(name, rng):
    x = floats(rng, shape_of(rng, 1, 4), -300, 300)
    axis = axis_of(rng, x.ndim) if rng.random() < 0.5 else None
    shape = () if axis is None else (x.shape[axis],)
    kind = str(rng.choice(['int8', 'uint8']))
    low, high = (-128, 127) if kind == 'int8' else (0, 255)
    scale = np.float32(rng.choice([0.25, 0.5, 2, 3.7], shape))
    zero = np.asarray(rng.integers(low, high + 1, shape), kind)
    params = {'scale': scale} if axis is None else {'scale': scale, 'axis': axis}
    if rng.random() < 0.7:
        params['zero_point'] = zero
    shift = along(zero.astype(np.int64), x.ndim, axis) if 'zero_point' in params else 0
    factor = along(scale, x.ndim, axis)
    if name == 'quantize':
        wanted = np.clip(np.round(x / factor) + shift, low, high)
        return Case(
            name, {'input': x}, {**params, 'output_dtype': kind}, exact(wanted.astype(kind))
        )
    q = np.clip(np.round(x), low, high).astype(kind)
    value = (q.astype(np.float64) - shift) * factor
    return Case(name, {'input': q}, params, (Wanted(value, EPS * np.abs(value)),), '')
