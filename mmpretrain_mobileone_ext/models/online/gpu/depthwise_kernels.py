"""Triton kernels for 3x3 depthwise convolutions, padding 1, stride 1 or 2.

Images are contiguous (N, H, W, C). A program holds a tile of rows and channels and walks along
columns, so that of a window one column is loaded a step, C lies next to C, and the next column is
on its way while this one is computed with. Windows are tuples, column by column from the left, of
``x - pivot``; outside the image x is 0.

``NUM_ROWS`` counts the rows of all images. Programs on one channel block lie apart, those on the
same pixels side by side.
"""
# mypy: ignore-errors
# ruff: noqa: N803, RUF005 (Triton's language: sizes in capitals, no unpacking)

from __future__ import annotations

import triton
import triton.language as tl

from .launch import tuned

#: Values that one output pixel's window gives: the upper triangle of products of 9 taps, and taps.
MOMENTS = 54
#: A gradient to 9 taps and to the bias.
GRADS = 10
#: Tiles of kernels that keep pixels apart.
TILES = [
    triton.Config({'LANES': 4, 'CHANNELS': 64}, num_warps=4),
    triton.Config({'LANES': 4, 'CHANNELS': 32}, num_warps=4),
    triton.Config({'LANES': 8, 'CHANNELS': 64}, num_warps=4),
    triton.Config({'LANES': 2, 'CHANNELS': 128}, num_warps=4),
]
KEY = ['H', 'W', 'C']


@triton.jit
def _channels(C, CHANNELS: tl.constexpr):
    """This program's channels (CHANNELS,), and its number among those on the same channels."""
    blocks = tl.cdiv(C, CHANNELS)
    program = tl.program_id(0)
    return program % blocks * CHANNELS + tl.arange(0, CHANNELS), program // blocks


@triton.jit
def _strip(part, NUM_ROWS, WO, ROWS, COLUMNS):
    """Rows and columns, from and up to, of one of the parts of all output pixels."""
    strips = tl.cdiv(WO, COLUMNS)
    row, column = part // strips * ROWS, part % strips * COLUMNS
    return row, min(row + ROWS, NUM_ROWS), column, min(column + COLUMNS, WO)


@triton.jit
def _three_rows(x, row, alive, channel, H, W, C, HO, STRIDE: tl.constexpr):
    """Pointers to column 0 of the upper row that output rows read, and masks of three rows."""
    top = row % HO * STRIDE - 1
    start = (row // HO * H + top).to(tl.int64) * W * C
    inside = alive[:, None] & (channel < C)[None, :]
    masks = ()
    for tap in tl.static_range(3):
        masks = masks + (inside & ((top + tap >= 0) & (top + tap < H))[:, None],)
    return x + start[:, None] + channel[None, :], masks


@triton.jit
def _column(start, masks, pivot, column, W, C, COUNT: tl.constexpr, WORK: tl.constexpr):
    """One column of ``COUNT`` rows; below and above each other, around the pivot."""
    there = (column >= 0) & (column < W)
    found = ()
    for row in tl.static_range(COUNT):
        at = start + (row * W + column) * C
        found = found + (tl.load(at, mask=masks[row] & there, other=0).to(WORK) - pivot,)
    return found


@triton.jit
def _ahead(start, masks, pivot, column, W, C, STRIDE: tl.constexpr, WORK: tl.constexpr):
    """The ``STRIDE`` columns that a 3x3 window centred at ``column`` meets next."""
    found = _column(start, masks, pivot, column + 2, W, C, 3, WORK)
    if STRIDE == 2:
        found = found + _column(start, masks, pivot, column + 3, W, C, 3, WORK)
    return found


@triton.jit
def _window(start, masks, pivot, column, W, C, WORK: tl.constexpr):
    """The 3x3 window centred at ``column``."""
    left = _column(start, masks, pivot, column - 1, W, C, 3, WORK)
    middle = _column(start, masks, pivot, column, W, C, 3, WORK)
    return left + middle + _column(start, masks, pivot, column + 1, W, C, 3, WORK)


@triton.jit
def _taps(window):
    """The window in the order of a kernel's taps, row by row."""
    taps = ()
    for tap in tl.static_range(9):
        taps = taps + (window[tap % 3 * 3 + tap // 3],)
    return taps


@triton.jit
def _kernel_taps(weight, channel, C, WORK: tl.constexpr):
    """Each channel's nine weights, of a contiguous (C, 9)."""
    taps = ()
    for tap in tl.static_range(9):
        loaded = tl.load(weight + channel * 9 + tap, mask=channel < C, other=0)
        taps = taps + (loaded.to(WORK)[None, :],)
    return taps


@triton.jit
def _times(window, kernel):
    """A convolution's output."""
    taps = _taps(window)
    value = kernel[0] * taps[0]
    for tap in tl.static_range(1, 9):
        value += kernel[tap] * taps[tap]
    return value


@triton.jit
def _products_added(sums, taps):
    """``sums`` with a window's products and taps."""
    added = ()
    for first in tl.static_range(9):
        for second in tl.static_range(first, 9):
            old = sums[first * (17 - first) // 2 + second]
            added = added + (old + taps[first] * taps[second],)
    for tap in tl.static_range(9):
        added = added + (sums[45 + tap] + taps[tap],)
    return added


@triton.jit
def moments(
    x,
    pivot,
    parts,
    NUM_ROWS,
    H,
    W,
    C,
    HO,
    WO,
    ROWS,
    COLUMNS,
    STRIDE: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORK: tl.constexpr,
):
    """Sums over parts of the pixels, (parts, MOMENTS, C), of products of taps and of taps."""
    channel, part = _channels(C, CHANNELS)
    first, last, left, right = _strip(part, NUM_ROWS, WO, ROWS, COLUMNS)
    around = tl.load(pivot + channel, mask=channel < C, other=0)[None, :]
    sums = (tl.zeros((LANES, CHANNELS), WORK),) * 54
    for begin in range(first, last, LANES):
        row = begin + tl.arange(0, LANES)
        start, masks = _three_rows(x, row, row < last, channel, H, W, C, HO, STRIDE)
        own = tl.where((row < last)[:, None], around, 0)
        window = _window(start, masks, own, left * STRIDE, W, C, WORK)
        for column in range(left, right):
            ahead = _ahead(start, masks, own, column * STRIDE, W, C, STRIDE, WORK)
            sums = _products_added(sums, _taps(window))
            window = window[3 * STRIDE :] + ahead
    for value in tl.static_range(54):
        at = parts + (part * 54 + value).to(tl.int64) * C + channel
        tl.store(at, tl.sum(sums[value], 0), mask=channel < C)


@tuned(TILES, KEY)
@triton.jit
def conv(
    x,
    weight,
    bias,
    out,
    NUM_ROWS,
    H,
    W,
    C,
    HO,
    WO,
    COLUMNS,
    STRIDE: tl.constexpr,
    RELU: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORK: tl.constexpr,
):
    """The convolution, its bias, and a ReLU where one follows."""
    channel, part = _channels(C, CHANNELS)
    first, last, left, right = _strip(part, NUM_ROWS, WO, LANES, COLUMNS)
    row = first + tl.arange(0, LANES)
    start, masks = _three_rows(x, row, row < last, channel, H, W, C, HO, STRIDE)
    kernel = _kernel_taps(weight, channel, C, WORK)
    shift = tl.load(bias + channel, mask=channel < C, other=0).to(WORK)[None, :]
    to = out + row.to(tl.int64)[:, None] * WO * C + channel[None, :]
    alive = (row < last)[:, None] & (channel < C)[None, :]
    window = _window(start, masks, 0.0, left * STRIDE, W, C, WORK)
    for column in range(left, right):
        ahead = _ahead(start, masks, 0.0, column * STRIDE, W, C, STRIDE, WORK)
        value = _times(window, kernel) + shift
        if RELU:
            value = tl.where(value < 0, 0.0, value)  # NaN stays
        tl.store(to + column * C, value.to(out.dtype.element_ty), mask=alive)
        window = window[3 * STRIDE :] + ahead


@triton.jit
def _masked(dy, active, at, mask, MASKED: tl.constexpr, WORK: tl.constexpr):
    """Gradient to a convolution's output, where a ReLU let it through."""
    value = tl.load(dy + at, mask=mask, other=0).to(WORK)
    if MASKED:
        value = tl.where(tl.load(active + at, mask=mask, other=0) <= 0, 0.0, value)
    return value


@triton.jit
def weight_grad(
    x,
    dy,
    active,
    pivot,
    parts,
    NUM_ROWS,
    H,
    W,
    C,
    HO,
    WO,
    ROWS,
    COLUMNS,
    STRIDE: tl.constexpr,
    MASKED: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORK: tl.constexpr,
):
    """Sums over parts of the pixels, (parts, GRADS, C), of gradient times taps and of gradient.

    Taps are of x itself where there is no pivot.
    """
    channel, part = _channels(C, CHANNELS)
    first, last, left, right = _strip(part, NUM_ROWS, WO, ROWS, COLUMNS)
    around = 0.0
    if pivot is not None:
        around = tl.load(pivot + channel, mask=channel < C, other=0)[None, :]
    sums = (tl.zeros((LANES, CHANNELS), WORK),) * 10
    for begin in range(first, last, LANES):
        row = begin + tl.arange(0, LANES)
        start, masks = _three_rows(x, row, row < last, channel, H, W, C, HO, STRIDE)
        alive = (row < last)[:, None] & (channel < C)[None, :]
        of_row = row.to(tl.int64)[:, None] * WO * C + channel[None, :]
        window = _window(start, masks, around, left * STRIDE, W, C, WORK)
        for column in range(left, right):
            ahead = _ahead(start, masks, around, column * STRIDE, W, C, STRIDE, WORK)
            grad = _masked(dy, active, of_row + column * C, alive, MASKED, WORK)
            taps, added = _taps(window), ()
            for tap in tl.static_range(9):
                added = added + (sums[tap] + grad * taps[tap],)
            sums = added + (sums[9] + grad,)
            window = window[3 * STRIDE :] + ahead
    for value in tl.static_range(10):
        at = parts + (part * 10 + value).to(tl.int64) * C + channel
        tl.store(at, tl.sum(sums[value], 0), mask=channel < C)


@triton.jit
def direct_moments(
    x,
    pivot,
    kernels,
    direct,
    parts,
    NUM_ROWS,
    H,
    W,
    C,
    HO,
    WO,
    ROWS,
    COLUMNS,
    STRIDE: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sums of z and of z^2, (parts, 2, J, C), z of kernels (J, C, 9) and x - pivot, in float64.

    Only of channels near one that ``direct`` (J, C) marks; elsewhere nothing is written.
    """
    channel, part = _channels(C, CHANNELS)
    branch, branches = tl.program_id(1), tl.num_programs(1)
    marked = tl.load(direct + branch * C + channel, mask=channel < C, other=0)
    if tl.max(marked.to(tl.int32), 0) > 0:
        first, last, left, right = _strip(part, NUM_ROWS, WO, ROWS, COLUMNS)
        kernel = _kernel_taps(kernels + branch * C * 9, channel, C, tl.float64)
        around = tl.load(pivot + channel, mask=channel < C, other=0).to(tl.float64)[None, :]
        total = tl.zeros((LANES, CHANNELS), tl.float64)
        squares = tl.zeros((LANES, CHANNELS), tl.float64)
        for begin in range(first, last, LANES):
            row = begin + tl.arange(0, LANES)
            start, masks = _three_rows(x, row, row < last, channel, H, W, C, HO, STRIDE)
            own = tl.where((row < last)[:, None], around, 0)
            for column in range(left, right):
                window = _window(start, masks, own, column * STRIDE, W, C, tl.float64)
                z = _times(window, kernel)
                total += z
                squares += z * z
        to = parts + ((part * 2 * branches + branch).to(tl.int64) * C + channel)
        tl.store(to, tl.sum(total, 0), mask=channel < C)
        tl.store(to + branches * C, tl.sum(squares, 0), mask=channel < C)


@triton.jit
def direct_grads(
    x,
    dy,
    active,
    pivot,
    kernels,
    direct,
    mean,
    parts,
    NUM_ROWS,
    H,
    W,
    C,
    HO,
    WO,
    ROWS,
    COLUMNS,
    STRIDE: tl.constexpr,
    MASKED: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sums of gradient times (z - mean), (parts, J, C), as :func:`direct_moments` has z."""
    channel, part = _channels(C, CHANNELS)
    branch, branches = tl.program_id(1), tl.num_programs(1)
    marked = tl.load(direct + branch * C + channel, mask=channel < C, other=0)
    if tl.max(marked.to(tl.int32), 0) > 0:
        first, last, left, right = _strip(part, NUM_ROWS, WO, ROWS, COLUMNS)
        kernel = _kernel_taps(kernels + branch * C * 9, channel, C, tl.float64)
        around = tl.load(pivot + channel, mask=channel < C, other=0).to(tl.float64)[None, :]
        centre = tl.load(mean + branch * C + channel, mask=channel < C, other=0)[None, :]
        total = tl.zeros((LANES, CHANNELS), tl.float64)
        for begin in range(first, last, LANES):
            row = begin + tl.arange(0, LANES)
            start, masks = _three_rows(x, row, row < last, channel, H, W, C, HO, STRIDE)
            alive = (row < last)[:, None] & (channel < C)[None, :]
            of_row = row.to(tl.int64)[:, None] * WO * C + channel[None, :]
            for column in range(left, right):
                window = _window(start, masks, around, column * STRIDE, W, C, tl.float64)
                grad = _masked(dy, active, of_row + column * C, alive, MASKED, tl.float64)
                total += grad * (_times(window, kernel) - centre)
        to = parts + ((part * branches + branch).to(tl.int64) * C + channel)
        tl.store(to, tl.sum(total, 0), mask=channel < C)
