"""Random products, convolutions, poolings, normalizations and resizing."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from fuzz_kit import Case, exact, floats, generator, integers, near, shape_of


def wide(value):
    return torch.tensor(np.asarray(value, np.float64))


@generator('matmul')
def matmul(name, rng):
    batch = shape_of(rng, 0, 2) if rng.random() < 0.7 else ()
    other = tuple(1 if rng.random() < 0.4 else n for n in batch)
    other = other[int(rng.integers(len(batch) + 1)) :]
    m, k, n = (int(v) for v in rng.integers(1, 6, 3))
    flip_x, flip_y = (bool(v) for v in rng.random(2) < 0.5)
    whole = rng.random(2) < 0.3
    makers = [integers if w else floats for w in whole]
    x = makers[0](rng, (*batch, *((k, m) if flip_x else (m, k))))
    y = makers[1](rng, (*other, *((n, k) if flip_y else (k, n))))
    left = np.swapaxes(x, -1, -2) if flip_x else x
    right = np.swapaxes(y, -1, -2) if flip_y else y
    params = {'transpose_x': flip_x, 'transpose_y': flip_y}
    value = left.astype(float) @ right.astype(float)
    if whole.all():
        return Case(name, {'x': x, 'y': y}, params, exact(value.astype(np.int32)))
    inputs = {'x': x, 'y': y}
    if whole.any() or rng.random() < 0.5:
        moved = str(rng.choice(['x', 'y']))
        params[moved] = inputs.pop(moved)
    size = np.abs(left.astype(float)) @ np.abs(right.astype(float))
    (kept,) = list(inputs.values())[:1]
    if kept.dtype == np.int32:
        # The type is that of what is no constant. Whole numbers in fp32 times quarters are exact,
        # so that the fraction is cut off alike.
        quarters = np.round(np.float32(params[moved]) * 4) / 4
        params[moved] = quarters
        pairs = {**inputs, moved: quarters}
        left, right = (
            np.swapaxes(v, -1, -2) if f else v
            for v, f in ((pairs['x'], flip_x), (pairs['y'], flip_y))
        )
        value = np.trunc(left.astype(float) @ right.astype(float))
        return Case(name, inputs, params, exact(value.astype(np.int32)), '')
    return Case(name, inputs, params, near(value, size, k + 2), '' if whole.any() else True)


@generator('linear')
def linear(name, rng):
    whole = rng.random() < 0.3
    make = integers if whole else floats
    lead = shape_of(rng, 0, 2) if rng.random() < 0.8 else ()
    d, out = (int(v) for v in rng.integers(1, 6, 2))
    x, weight, bias = make(rng, (*lead, d)), make(rng, (out, d)), make(rng, out)
    a, b = x.astype(float), weight.astype(float)
    value, size = a @ b.T + bias, np.abs(a) @ np.abs(b.T) + np.abs(bias)
    params = {'weight': weight, 'bias': bias}
    if rng.random() < 0.3:
        del params['bias']
        value, size = a @ b.T, size - np.abs(bias)
    return Case(
        name, {'x': x}, params, exact(value.astype(np.int32)) if whole else near(value, size, d + 4)
    )


@generator('einsum')
def einsum(name, rng):
    c, h, w, u = (int(v) for v in rng.integers(1, 5, 4))
    x, y = floats(rng, (c, h, w)), floats(rng, (w, h, u))
    if rng.random() < 0.3:
        x = x[:, :1]
    elif rng.random() < 0.3:
        y = y[:, :1]
    equation = 'chw,whr->chr'
    if rng.random() < 0.5:
        batch = int(rng.integers(1, 3))
        x = floats(rng, (batch, *x.shape))
        y = floats(rng, (int(rng.choice([1, batch])), *y.shape))
        equation = 'nchw,nwhu->nchu'
    left = np.broadcast_to(x, (*x.shape[:-2], h, w))
    right = np.broadcast_to(y, (*x.shape[:-3], w, h, u))
    value = np.einsum(equation, left.astype(float), right.astype(float))
    size = np.einsum(equation, np.abs(left).astype(float), np.abs(right).astype(float))
    return Case(
        name, {'values0': x, 'values1': y}, {'equation': equation}, near(value, size, w + 2)
    )


@generator('scaled_dot_product_attention')
def attention(name, rng):
    batch = shape_of(rng, 1, 2)
    s, t, e, v = (int(n) for n in rng.integers(1, 6, 4))
    given = {
        'query': floats(rng, (*batch, t, e)),
        'key': floats(rng, (*batch, s, e)),
        'value': floats(rng, (*batch, s, v)),
    }
    q, k, w = (g.astype(float) for g in given.values())
    turned = np.swapaxes(k, -1, -2)
    scores = q @ turned / math.sqrt(e)
    size = np.abs(q) @ np.abs(turned) / math.sqrt(e)
    inputs, params, kind = dict(given), {}, rng.integers(4)
    if kind == 1:
        mask = rng.random((t, s)) < 0.7
        mask[:, 0] = True
    elif kind == 2:  # is_causal of torch
        mask = np.tri(t, s, dtype=bool)
    elif kind == 3:
        mask = floats(rng, (t, s))
    if kind:
        target = inputs if rng.random() < 0.3 else params
        target['attn_mask'] = mask
        scores = np.where(mask, scores, -np.inf) if mask.dtype == bool else scores + mask
        size = size + (np.abs(mask) if mask.dtype != bool else 0)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    # A score that is off by d changes its share by a factor of e^(2 d).
    moved = (p * (2 * (e + 4) * size.max(-1, keepdims=True) + s + 8)) @ np.abs(w)
    return Case(name, inputs, params, near(p @ w, moved, 1))


def window(rng, size):
    """Kernel, stride and dilation that fit into ``size``."""
    dilation = int(rng.integers(1, 3))
    kernel = int(rng.integers(1, (size - 1) // dilation + 2))
    return min(kernel, 4), int(rng.integers(1, 4)), dilation


def pads_of(kind, rng, sizes, reach, strides):
    """(before, after) pairs, by the documented size of the result."""
    if kind == 'custom':
        return [tuple(int(n) for n in rng.integers(0, 3, 2)) for _ in sizes]
    if kind == 'valid':
        return [(0, 0)] * len(sizes)
    pairs = []
    for size, k, stride in zip(sizes, reach, strides):
        total = max(0, (-(-size // stride) - 1) * stride + k - size)
        small = total // 2
        pairs.append((small, total - small) if kind == 'same' else (total - small, small))
    return pairs


def padded(x, pairs, value=0.0):
    return np.pad(x, [(0, 0), (0, 0), *pairs], constant_values=value)


KINDS = ['valid', 'custom', 'same', 'same_lower']


@generator('conv')
def conv(name, rng):
    rank, groups = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    inner, outer = (int(n) for n in rng.integers(1, 3, 2))
    sizes = [int(n) for n in rng.integers(2, 7, rank)]
    kernel, strides, dilations = map(list, zip(*(window(rng, n) for n in sizes)))
    kind = str(rng.choice(KINDS))
    x = floats(rng, (2, groups * inner, *sizes))
    weight = floats(rng, (groups * outer, inner, *kernel))
    bias = floats(rng, groups * outer)
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    pairs = pads_of(kind, rng, sizes, reach, strides)
    function = (F.conv1d, F.conv2d, F.conv3d)[rank - 1]
    value, size = (
        function(
            wide(f(padded(x, pairs))), wide(f(weight)), wide(f(bias)), strides, 0, dilations, groups
        )
        for f in (np.asarray, np.abs)
    )
    params = {
        'weight': weight,
        'bias': bias,
        'strides': strides,
        'dilations': dilations,
        'groups': groups,
        'pad_type': kind,
    }
    if kind == 'custom':
        params['pad'] = [n for pair in pairs for n in pair]
    return Case(name, {'x': x}, params, near(value, size, 2 * inner * math.prod(kernel) + 4))


@generator('conv_transpose')
def conv_transpose(name, rng):
    """Every element is spread over a window of the result."""
    rank, groups = int(rng.integers(1, 3)), int(rng.integers(1, 3))
    inner, outer = (int(n) for n in rng.integers(1, 3, 2))
    sizes = [int(n) for n in rng.integers(1, 5, rank)]
    kernel = [int(n) for n in rng.integers(1, 4, rank)]
    strides, dilations = ([int(n) for n in rng.integers(1, 3, rank)] for _ in range(2))
    x = floats(rng, (2, groups * inner, *sizes))
    weight = floats(rng, (groups * inner, outer, *kernel))
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations)]
    full = [(n - 1) * s + r for n, s, r in zip(sizes, strides, reach)]
    made = [spread(f(x), f(weight), groups, full, strides, dilations) for f in (np.asarray, np.abs)]
    kind = str(rng.choice(['valid', 'custom', 'same']))
    pads = [[0, 0]] * rank
    if kind == 'custom':
        pads = [[int(n) for n in rng.integers(0, (n + 1) // 2, 2)] for n in full]
    elif kind == 'same':
        totals = [n - s * d for n, s, d in zip(full, strides, sizes)]
        pads = [[max(0, t) // 2, t - max(0, t) // 2] for t in totals]
    cut = [slice(b, n - a) for (b, a), n in zip(pads, full)]
    # A stride above the kernel leaves zeros at the end.
    more = [(0, 0), (0, 0), *((0, max(0, -a)) for _, a in pads)]
    value, size = (np.pad(m, more)[(..., *(slice(c.start, c.stop) for c in cut))] for m in made)
    params = {
        'weight': weight,
        'strides': strides,
        'dilations': dilations,
        'groups': groups,
        'pad_type': kind,
    }
    if kind == 'custom':
        params['pad'] = [n for pair in pads for n in pair]
    return Case(name, {'x': x}, params, near(value, size, 2 * inner * math.prod(kernel) + 4))


def spread(x, weight, groups, full, strides, dilations):
    (n, c, *sizes), (outer, *kernel) = x.shape, weight.shape[1:]
    a = x.astype(float).reshape(n, groups, c // groups, *sizes)
    b = weight.astype(float).reshape(groups, c // groups, outer, *kernel)
    out = np.zeros((n, groups, outer, *full))
    for tap in np.ndindex(*kernel):
        at = tuple(
            slice(t * d, t * d + (size - 1) * s + 1, s)
            for t, d, size, s in zip(tap, dilations, sizes, strides)
        )
        out[(..., *at)] += np.einsum('ngi...,gio->ngo...', a, b[(..., *tap)])
    return out.reshape(n, groups * outer, *full)


def windows(x, kernel, strides):
    axes = tuple(range(2, x.ndim))
    view = np.lib.stride_tricks.sliding_window_view(x, kernel, axes)
    view = view[(slice(None), slice(None), *(slice(None, None, s) for s in strides))]
    return view.reshape(*view.shape[: -len(kernel)], -1)


def rounded_up(x, kernel, strides, pads, reduce):
    """Windows of ``ceil_mode``, one by one, as torch's document has them.

    The last may begin in the input or in the pad before it, and ends with the pad after it at the
    latest.
    """
    spans = []
    for size, k, s, p in zip(x.shape[2:], kernel, strides, pads):
        count = -(-(size + 2 * p - k) // s) + 1
        count -= (count - 1) * s >= size + p
        starts = [i * s - p for i in range(count)]
        spans.append([(a, min(a + k, size + p)) for a in starts])
    made = np.empty((*x.shape[:2], *(len(s) for s in spans)))
    for place in np.ndindex(*made.shape[2:]):
        ends = [spans[i][j] for i, j in enumerate(place)]
        part = x[(..., *(slice(max(a, 0), b) for a, b in ends))]
        made[(..., *place)] = reduce(
            part.reshape(*x.shape[:2], -1), math.prod(b - a for a, b in ends)
        )
    return made


def pool_rounded_up(name, rng):
    rank = int(rng.integers(1, 3))
    sizes = [int(n) for n in rng.integers(3, 8, rank)]
    kernel = [int(n) for n in rng.integers(2, 4, rank)]
    strides = [int(rng.integers(1, k + 1)) for k in kernel]
    pads = [int(rng.integers(k // 2 + 1)) for k in kernel]
    x = floats(rng, (2, 2, *sizes))
    params = {
        'kernel_sizes': kernel,
        'strides': strides,
        'ceil_mode': True,
        'pad_type': 'custom',
        'pad': [p for p in pads for _ in 'ab'],
    }
    args = x.astype(float), kernel, strides, pads
    if name == 'max_pool':
        value = rounded_up(*args, lambda part, _: part.max(-1))
        return Case(name, {'x': x}, params, exact(value.astype(np.float32)))
    inside = bool(rng.random() < 0.5)
    params['exclude_padding_from_average'] = inside
    value = rounded_up(*args, lambda part, count: part.mean(-1) if inside else part.sum(-1) / count)
    return Case(name, {'x': x}, params, near(value, 4.0, math.prod(kernel) + 4))


@generator('max_pool', 'avg_pool', 'l2_pool')
def pool(name, rng):
    if name != 'l2_pool' and rng.random() < 0.3:
        return pool_rounded_up(name, rng)
    rank = int(rng.integers(1, 4 if name != 'l2_pool' else 3))
    sizes = [int(n) for n in rng.integers(3, 7, rank)]
    kernel = [int(n) for n in rng.integers(1, 4, rank)]
    strides = [int(n) for n in rng.integers(1, 4, rank)]
    kind = str(rng.choice(KINDS))
    pairs = pads_of(kind, rng, sizes, kernel, strides)
    if kind == 'custom':
        pairs = [(min(b, k - 1), min(a, k - 1)) for (b, a), k in zip(pairs, kernel)]
    x = floats(rng, (2, 2, *sizes))
    params = {'kernel_sizes': kernel, 'strides': strides, 'pad_type': kind}
    if kind == 'custom':
        params['pad'] = [n for pair in pairs for n in pair]
    inside = bool(rng.random() < 0.5) and name == 'avg_pool'
    if name == 'avg_pool':
        params['exclude_padding_from_average'] = inside
    fill = -np.inf if name == 'max_pool' else np.nan if inside else 0.0
    view = windows(padded(x.astype(float), pairs, fill), kernel, strides)
    count = view.shape[-1]
    if name == 'max_pool':
        wanted = exact(view.max(-1).astype(np.float32))
    elif name == 'avg_pool':
        mean = np.nanmean if inside else np.mean
        wanted = near(mean(view, -1), mean(np.abs(view), -1), count + 4)
    else:
        wanted = near(np.sqrt((view**2).sum(-1)), None, count + 4)
    return Case(name, {'x': x}, params, wanted)


def affine(rng, shape, params, value, size, of):
    """Scale and shift, each of them there or not."""
    # coremltools takes no beta without a gamma for layer_norm.
    for key in ('gamma', 'beta')[: int(rng.integers(3))]:
        params[key] = floats(rng, of)
        v = params[key].astype(float).reshape(shape)
        value = value * v if key == 'gamma' else value + v
        size = size * abs(v) if key == 'gamma' else size + abs(v)
    return value, size


@generator('batch_norm')
def batch_norm(name, rng):
    x = floats(rng, (2, 3, *shape_of(rng, 1, 3)))
    shape = (3, *[1] * (x.ndim - 2))
    mean, variance = floats(rng, 3), floats(rng, 3, 0.1, 3)
    epsilon = np.float32(rng.choice([1e-5, 0.3]))
    params = {'mean': mean, 'variance': variance, 'epsilon': epsilon}
    m = mean.astype(float).reshape(shape)
    std = np.sqrt(variance.astype(float) + epsilon).reshape(shape)
    value, size = affine(rng, shape, params, (x - m) / std, (np.abs(x) + np.abs(m)) / std, 3)
    return Case(name, {'x': x}, params, near(value, size, 8))


def standard(x, axes, epsilon):
    """Value and size of ``(x - mean) / std``."""
    wide = x.astype(float)
    mean = wide.mean(axes, keepdims=True)
    std = np.sqrt(wide.var(axes, keepdims=True) + epsilon)
    size = np.abs(wide) + np.abs(wide).mean(axes, keepdims=True)
    value = (wide - mean) / std
    return value, size / std * (1 + np.abs(value))


@generator('instance_norm', 'layer_norm')
def norm(name, rng):
    x = floats(rng, (2, 3, *shape_of(rng, 1, 2)))
    epsilon = np.float32(rng.choice([1e-3, 0.3]))
    params = {'epsilon': epsilon}
    if name == 'instance_norm':
        axes, of = tuple(range(2, x.ndim)), (3,)
        shape = (3, *[1] * (x.ndim - 2))
    else:
        first = int(rng.integers(x.ndim))
        axes = tuple(range(first, x.ndim))
        params['axes'] = [a - x.ndim * int(rng.integers(2)) for a in axes]
        shape = of = x.shape[first:]
    count = math.prod(x.shape[a] for a in axes)
    value, size = affine(rng, shape, params, *standard(x, axes, epsilon), of)
    return Case(name, {'x': x}, params, near(value, size, count + 8))


@generator('l2_norm')
def l2_norm(name, rng):
    x = floats(rng, (*shape_of(rng, 0, 2), 2, 3, 4)[-5:])
    epsilon = np.float32(rng.choice([1e-6, 0.3]))
    total = (x.astype(float) ** 2).sum((-3, -2, -1), keepdims=True)
    return Case(
        name, {'x': x}, {'epsilon': epsilon}, near(x / np.sqrt(total + epsilon), None, 24 + 6)
    )


@generator('local_response_norm')
def local_response_norm(name, rng):
    """Channels are the third dimension from the end, at rank 3 too."""
    x = floats(rng, (int(rng.integers(1, 4)), 5, *shape_of(rng, 1, 2)))
    size = int(rng.integers(1, 6))
    alpha, beta, k = (np.float32(v) for v in rng.uniform(0.1, 1.5, 3))
    axis = x.ndim - 3
    squares = np.moveaxis(x.astype(float) ** 2, axis, 0)
    total = np.stack(
        [
            squares[max(0, i - size // 2) : i + (size - 1) // 2 + 1].sum(0)
            for i in range(len(squares))
        ]
    )
    base = float(k) + float(alpha) / size * np.moveaxis(total, 0, axis)
    return Case(
        name,
        {'x': x},
        {'size': size, 'alpha': alpha, 'beta': beta, 'k': k},
        near(x / base ** float(beta), None, 4 * size + 16),
    )


def grid(mode, n_in, n_out):
    """Positions of Apple's document, in whole numbers and fractions."""
    last = Fraction(n_in - 1)
    found = []
    for i in range(n_out):
        place = {
            'STRICT_ALIGN_CORNERS': lambda i=i: i * last / max(n_out - 1, 1),
            'ALIGN_CORNERS': lambda i=i: last / 2 if n_out == 1 else i * last / (n_out - 1),
            'DEFAULT': lambda i=i: Fraction(i * n_in, n_out),
            'OFFSET_CORNERS': lambda i=i: Fraction((2 * i + 1) * max(1, n_in - 1), 2 * n_out),
            'UNALIGN_CORNERS': lambda i=i: Fraction((2 * i + 1) * n_in, 2 * n_out) - Fraction(1, 2),
        }[mode]()
        found.append(min(last, max(Fraction(0), place)))
    return found


def interpolated(x, axis, mode, n_out):
    rows, places = np.moveaxis(x, axis, 0), grid(mode, x.shape[axis], n_out)
    made = []
    for p in places:
        low = math.floor(p)
        high = min(low + 1, len(rows) - 1)
        made.append(rows[low] * float(1 - (p - low)) + rows[high] * float(p - low))
    return np.moveaxis(np.stack(made), 0, axis)


def nearest(x, axis, mode, n_out):
    """Half way between two pixels the lower one is taken."""
    index = [math.ceil(p - Fraction(1, 2)) for p in grid(mode, x.shape[axis], n_out)]
    return np.take(x, index, axis)


MODES = ['STRICT_ALIGN_CORNERS', 'ALIGN_CORNERS', 'DEFAULT', 'OFFSET_CORNERS', 'UNALIGN_CORNERS']


def linear_wanted(x, sizes, mode):
    value = x.astype(float)
    for axis, size in zip((-2, -1), sizes):
        value = interpolated(value, axis % x.ndim, mode, size)
    return near(value, np.abs(x).max(), 12)


def picture(rng):
    return floats(rng, (*shape_of(rng, 1, 2, 2), *(int(n) for n in rng.integers(1, 7, 2))))


@generator('resize')
def resize(name, rng):
    x, mode = picture(rng), str(rng.choice(MODES))
    sizes = [int(n) for n in rng.integers(1, 9, 2)]
    asked = [1] * int(rng.integers(x.ndim - 1)) + sizes
    params = {'resized_dims': np.uint32(2), 'sampling_mode': mode, 'shape': np.int32(asked)}
    if rng.random() < 0.5:
        params['interpolation_mode'] = 'LINEAR'
        return Case(name, {'x': x}, params, linear_wanted(x, sizes, mode))
    params['interpolation_mode'] = 'NEAREST_NEIGHBOR'
    value = nearest(nearest(x, x.ndim - 2, mode, sizes[0]), x.ndim - 1, mode, sizes[1])
    return Case(name, {'x': x}, params, exact(value))


@generator('resize_bilinear')
def resize_bilinear(name, rng):
    x, mode = picture(rng), str(rng.choice(MODES))
    sizes = [int(n) for n in rng.integers(1, 9, 2)]
    return Case(
        name,
        {'x': x},
        {'target_size_height': sizes[0], 'target_size_width': sizes[1], 'sampling_mode': mode},
        linear_wanted(x, sizes, mode),
    )


@generator('upsample_bilinear')
def upsample_bilinear(name, rng):
    x = picture(rng)
    scales = [np.float32(v) for v in rng.choice([1, 1.5, 2, 0.7, 3], 2)]
    sizes = [max(1, int(np.floor(s * np.float32(n)))) for s, n in zip(scales, x.shape[-2:])]
    if 0 in [int(np.floor(s * np.float32(n))) for s, n in zip(scales, x.shape[-2:])]:
        return upsample_bilinear(name, rng)
    align = bool(rng.random() < 0.5)
    params = {
        'scale_factor_height': scales[0],
        'scale_factor_width': scales[1],
        'align_corners': align,
    }
    mode = 'STRICT_ALIGN_CORNERS' if align else 'UNALIGN_CORNERS'
    if not align and rng.random() < 0.5:
        params['half_pixel_centers'] = bool(rng.random() < 0.5)
        mode = mode if params['half_pixel_centers'] else 'DEFAULT'
    return Case(name, {'x': x}, params, linear_wanted(x, sizes, mode))


@generator('upsample_nearest_neighbor', 'resize_nearest_neighbor')
def pixels(name, rng):
    """The pixel before a position, as TensorFlow and torch do."""
    x = picture(rng)
    if name == 'resize_nearest_neighbor':
        sizes = [int(n) for n in rng.integers(1, 9, 2)]
        params = {'target_size_height': sizes[0], 'target_size_width': sizes[1]}
    else:
        scales = [int(n) for n in rng.integers(1, 4, 2)]
        sizes = [n * s for n, s in zip(x.shape[-2:], scales)]
        params = {'scale_factor_height': scales[0], 'scale_factor_width': scales[1]}
    value = x
    for axis, size in zip((x.ndim - 2, x.ndim - 1), sizes):
        n = x.shape[axis]
        value = np.take(value, [i * n // size for i in range(size)], axis)
    return Case(name, {'x': x}, params, exact(value))
