"""MIL convolutions, poolings and resizing against NumPy and torch."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from runtime_kit import X, check, column, noise, relative_error, run, run_all, save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.coreml.runtime.ops.conv import resolve_pads


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
    'avg_pool_inside': ('avg_pool', {'exclude_padding_from_average': True}, np.nanmean),
    'l2_pool': ('l2_pool', {}, lambda v, axis: np.sqrt(np.square(v).sum(axis))),
}


def spatial_pads(pad_type, pad, kernel, strides):
    """(before, after) of both axes of ``X``."""
    return [
        numpy_pads(pad_type, pad[2 * i : 2 * i + 2], X.shape[2 + i], k, s)
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
        name,
        tmp_path,
        {'x': x},
        kernel_sizes=[2, 3],
        strides=[3, 2],
        pad_type='custom',
        pad=[1, 1, 1, 1],
        ceil_mode=True,
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
        'weight': weight,
        'bias': bias,
        'strides': strides,
        'dilations': [dilation, dilation],
        'groups': groups,
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
    return np.einsum('ngchwij,gocij->ngohw', grouped, split).reshape(n, -1, h, w)


@pytest.mark.parametrize('rank', [1, 3])
def test_other_ranks(rank, tmp_path):
    """Sequences and volumes: convolution, then both poolings."""
    x = noise(1, 4, *[7] * rank)
    weight = noise(6, 2, *[3] * rank)

    def build(mb, x):
        y = mb.conv(x=x, weight=weight, groups=2, pad_type='custom', pad=[1, 0] * rank)
        window = {'kernel_sizes': [2] * rank, 'strides': [2] * rank}
        return [
            mb.max_pool(x=y, pad_type='same', name='peak', **window),
            mb.avg_pool(x=y, pad_type='valid', name='mean', **window),
        ]

    loaded = load_program(save_mil(build, {'x': x}, tmp_path))
    got = loaded.predict({'x': x})
    y = getattr(F, f'conv{rank}d')(
        F.pad(torch.tensor(x), [1, 0] * rank), torch.tensor(weight), groups=2
    )
    check(got['peak'], getattr(F, f'max_pool{rank}d')(y, 2, 2), 1e-5)
    check(got['mean'], getattr(F, f'avg_pool{rank}d')(y, 2, 2), 1e-5)


TRANSPOSED = [
    {'pad_type': 'same'},
    {'pad_type': 'valid'},
    {'pad_type': 'custom', 'pad': [1, 1, 0, 1]},
    {'pad_type': 'custom', 'pad': [1, 0, 1, 1]},
]


@pytest.mark.parametrize('padding', TRANSPOSED)
@pytest.mark.parametrize('groups', [1, 2])
def test_conv_transpose(padding, groups, tmp_path):
    weight, bias = noise(4, 3, 3, 3), noise(3 * groups)
    (got,) = run(
        'conv_transpose',
        tmp_path,
        {'x': X},
        weight=weight,
        bias=bias,
        strides=[2, 2],
        groups=groups,
        **padding,
    )
    full = F.conv_transpose2d(
        torch.tensor(X), torch.tensor(weight), torch.tensor(bias), 2, groups=groups
    )
    # ``same`` makes the size input * stride: one row, one column too many.
    none = [0, 1, 0, 1] if padding['pad_type'] == 'same' else [0] * 4
    top, bottom, left, right = padding.get('pad', none)
    height, width = full.shape[2:]
    check(got, full[..., top : height - bottom, left : width - right], 1e-5)


def test_conv_transpose_output_padding(tmp_path):
    """``output_shape`` beyond the scatter: zeros plus bias, as torch."""
    weight, bias = noise(4, 3, 3, 3), noise(3)
    layer = torch.nn.ConvTranspose2d(4, 3, 3, 2, 1, output_padding=1)
    layer.weight.data, layer.bias.data = map(torch.tensor, (weight, bias))
    (got,) = run(
        'conv_transpose',
        tmp_path,
        {'x': X},
        weight=weight,
        bias=bias,
        strides=[2, 2],
        pad_type='custom',
        pad=[1, 1, 1, 1],
        output_shape=[1, 3, 12, 10],
    )
    check(got, layer(torch.tensor(X)).detach(), 1e-5)


RESIZE = [
    (
        'upsample_nearest_neighbor',
        {'scale_factor_height': 2, 'scale_factor_width': 3},
        {'scale_factor': (2, 3), 'mode': 'nearest'},
    ),
    (
        'resize_nearest_neighbor',
        {'target_size_height': 9, 'target_size_width': 4},
        {'size': (9, 4), 'mode': 'nearest'},
    ),
    (
        'upsample_bilinear',
        {'scale_factor_height': 2, 'scale_factor_width': 3, 'align_corners': True},
        {'scale_factor': (2, 3), 'mode': 'bilinear', 'align_corners': True},
    ),
    (
        'upsample_bilinear',
        {'scale_factor_height': 2, 'scale_factor_width': 3, 'align_corners': False},
        {'scale_factor': (2, 3), 'mode': 'bilinear', 'align_corners': False},
    ),
    (
        'resize_bilinear',
        {'target_size_height': 9, 'target_size_width': 4, 'sampling_mode': 'STRICT_ALIGN_CORNERS'},
        {'size': (9, 4), 'mode': 'bilinear', 'align_corners': True},
    ),
    (
        'resize_bilinear',
        {'target_size_height': 9, 'target_size_width': 4, 'sampling_mode': 'UNALIGN_CORNERS'},
        {'size': (9, 4), 'mode': 'bilinear', 'align_corners': False},
    ),
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


@given(
    st.sampled_from(['same', 'same_lower']),
    st.integers(1, 12),
    st.integers(1, 5),
    st.integers(1, 4),
)
def test_same_padding_keeps_the_documented_size(pad_type, size, k, stride):
    ((before, after),) = resolve_pads(pad_type, None, [size], [k], [stride])
    padded = size + before + after
    assert (padded - k) // stride + 1 == -(-size // stride)
    lead = after - before if pad_type == 'same' else before - after
    assert lead in (0, 1)


def test_wrong_numbers_would_be_noticed(tmp_path):
    """The oracle of these tests rejects a perturbed weight."""
    weight = noise(8, 4, 3, 2)
    (got,) = run('conv', tmp_path, {'x': X}, weight=weight, pad_type='valid')
    for index in itertools.islice(np.ndindex(weight.shape), 0, None, 37):
        other = weight.copy()
        other[index] += 0.01
        wanted = F.conv2d(torch.tensor(X), torch.tensor(other))
        assert relative_error(got, wanted) > 1e-5


def test_resize_to_the_nearest_pixel(tmp_path):
    """The case of Apple's own test, 2 to 3 pixels, and even repetition."""
    x = np.float32([[[[1.0, 2.0]]]])

    def build(mb, x):
        return [
            mb.resize(
                x=x,
                shape=[1, n],
                resized_dims=np.uint32(2),
                interpolation_mode='NEAREST_NEIGHBOR',
                name=f'n{n}',
            )
            for n in (3, 4, 6)
        ]

    path = save_mil(build, {'x': x}, tmp_path, 'iOS17')
    got = load_program(path).predict({'x': x})
    assert [got[f'n{n}'].ravel().tolist() for n in (3, 4, 6)] == [
        [1, 2, 2],
        [1, 1, 2, 2],
        [1, 1, 2, 2, 2, 2],
    ]


@pytest.mark.parametrize(
    ('mode', 'size', 'wanted'),
    [
        ('STRICT_ALIGN_CORNERS', 5, [0, 0, 1, 1, 2]),
        ('ALIGN_CORNERS', 1, [1]),
        ('UNALIGN_CORNERS', 6, [0, 0, 1, 1, 2, 2]),
        ('UNALIGN_CORNERS', 2, [0, 2]),
    ],
)
def test_nearest_pixels_of_the_documented_grid(mode, size, wanted):
    x = torch.arange(3.0)
    got = OPS['resize'](x, [size], 1, 'NEAREST_NEIGHBOR', mode)
    assert got.tolist() == wanted


def test_sizes_are_rounded_as_in_the_file(tmp_path):
    """0.7 of 10 is 7 in fp32, in which the file's sizes are computed."""
    x = noise(1, 1, 10, 10)
    scale = np.float32(0.7)
    for name in ('upsample_nearest_neighbor', 'upsample_bilinear'):
        folder = tmp_path / name
        folder.mkdir()
        (got,) = run(name, folder, {'x': x}, scale_factor_height=scale, scale_factor_width=scale)
        assert got.shape == (1, 1, 7, 7)


def test_response_norm_of_rank_3(tmp_path):
    """The first values in Apple's own test of the operation."""
    x = np.float32([[[1, -7], [5, -6], [-3, -5]]])
    (got,) = run('local_response_norm', tmp_path, {'x': x}, size=2)
    check(
        got,
        [[[0.99996257, -6.98716545], [4.99531746, -5.99191284], [-2.99898791, -4.99531746]]],
        1e-6,
    )
