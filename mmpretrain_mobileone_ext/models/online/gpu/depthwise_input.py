"""Triton kernels for the gradient to a depthwise convolution's input.

A pixel's gradient is the transposed convolution of the masked output gradient, and what its share
in the moments makes: the sum of ``products[t] u(o) + sums[t]`` over the windows o that have this
pixel as tap t, with ``u = x - pivot``, which is -pivot outside the image. That is a stencil of 5x5
pixels around it, whose coefficients ``sum over t of products[t, t + d]`` depend on which t there
are: near a border some windows are missing, and with stride 2 it depends on whether row and column
are even. These cases are classes of rows and columns:

======  ==========================  ====================================
class   stride 1                    stride 2
======  ==========================  ====================================
0       inside                      even
1       first                       odd
2       last                        odd, and the window after it is missing
3       first and last              --
======  ==========================  ====================================

:func:`stencils` makes the coefficients of all of them, :func:`input_grad` walks along runs of
columns of one class.
"""
# mypy: ignore-errors
# ruff: noqa: N803, RUF005 (Triton's language: sizes in capitals, no unpacking)

from __future__ import annotations

import functools

import torch
import triton
import triton.language as tl
from torch import Tensor

from .depthwise_kernels import KEY, _channels, _column, _kernel_taps, _masked
from .launch import tuned

#: Classes of rows or columns, at most.
CLASSES = 4
#: Coefficients of a class: 25 of the stencil, row by row, and a constant.
COEFFICIENTS = 26
_TILES = [
    triton.Config({'LANES': 4, 'CHANNELS': 32}, num_warps=4),
    triton.Config({'LANES': 8, 'CHANNELS': 32}, num_warps=4),
    triton.Config({'LANES': 4, 'CHANNELS': 64}, num_warps=4),
]


@functools.lru_cache(maxsize=256)
def column_runs(width: int, stride: int, length: int, device: torch.device) -> Tensor:
    """Runs of columns of one class, (runs, 3): first column, number of columns, class.

    Columns of a run are ``stride`` apart, and there are ``length`` at most.
    """
    if stride == 1:
        ends = [(0, 1, 1), (width - 1, 1, 2)] if width > 1 else [(0, 1, 3)]
        spans = [*ends, (1, width - 2, 0)]
    else:
        outputs = (width + 1) // 2
        spans = [(0, outputs, 0), (1, outputs - 1, 1)]
        if width % 2 == 0:
            spans.append((width - 1, 1, 2))
    runs = [
        (first + at * stride, min(length, count - at), kind)
        for first, count, kind in spans
        for at in range(0, count, length)
    ]
    with torch.inference_mode(False):  # it is kept for training too
        return torch.tensor(runs, dtype=torch.int32).to(device)


@triton.jit
def _has_tap(tap: tl.constexpr, kind, STRIDE: tl.constexpr):
    """Whether a row (or column) of a class is row ``tap`` of some window."""
    if STRIDE == 1:
        there = kind >= 0
        if tap == 2:
            there = kind % 2 == 0
        if tap == 0:
            there = kind < 2
    else:
        there = kind == 0
        if tap == 2:
            there = kind > 0
        if tap == 0:
            there = kind == 1
    return there


@triton.jit
def stencils(products, sums, table, C, STRIDE: tl.constexpr, CHANNELS: tl.constexpr):
    """Coefficients (4, 4, COEFFICIENTS, C), by class of row and of column.

    Of contiguous products (C, 9, 9) and sums (C, 9) in float64.
    """
    channel, place = _channels(C, CHANNELS)
    shift, of_channel = tl.arange(0, 32)[:, None], channel[None, :] * 9
    mask = (channel < C)[None, :]
    value = tl.zeros((32, CHANNELS), tl.float64)
    for tap in tl.static_range(9):
        there = _has_tap(tap // 3, place // 4, STRIDE) & _has_tap(tap % 3, place % 4, STRIDE)
        row, column = tap // 3 + shift // 5 - 2, tap % 3 + shift % 5 - 2
        met = there & (row >= 0) & (row < 3) & (column >= 0) & (column < 3) & (shift < 25)
        at = products + (of_channel + tap) * 9 + row * 3 + column
        value += tl.load(at, mask=mask & met, other=0)
        value += tl.load(sums + of_channel + tap, mask=mask & (there & (shift == 25)), other=0)
    to = table + (place.to(tl.int64) * 26 + shift) * C + channel[None, :]
    tl.store(to, value.to(table.dtype.element_ty), mask=mask & (shift < 26))


@triton.jit
def _window_rows(row, alive, channel, H, HO, WO, C, STRIDE: tl.constexpr):
    """Where the output rows lie whose windows have an input row as tap 0, 1 and 2, and masks."""
    image, line = row // H, row % H
    starts, masks = (), ()
    for tap in tl.static_range(3):
        below = line + 1 - tap
        there = alive & (below >= 0) & (below % STRIDE == 0) & (below // STRIDE < HO)
        start = (image * HO + below // STRIDE).to(tl.int64) * WO * C
        starts = starts + (start[:, None] + channel[None, :],)
        masks = masks + (there[:, None] & (channel < C)[None, :],)
    return starts, masks


@triton.jit
def _row_kind(line, H, HO, STRIDE: tl.constexpr):
    """The class of each row of an image."""
    if STRIDE == 1:
        return (line == 0).to(tl.int32) + 2 * (line == H - 1).to(tl.int32)
    else:
        return tl.where(line % 2 == 0, 0, 1 + (line // 2 + 1 >= HO).to(tl.int32))


@triton.jit
def _five_rows(line, mask, H):
    """Which of the five rows around each are inside the image."""
    inside = ()
    for shift in tl.static_range(5):
        there = (line + shift >= 2) & (line + shift - 2 < H)
        inside = inside + (mask & there[:, None],)
    return inside


@triton.jit
def _transposed(
    dy,
    active,
    starts,
    masks,
    kernel,
    column,
    WO,
    C,
    STRIDE: tl.constexpr,
    MASKED: tl.constexpr,
    WORK: tl.constexpr,
):
    """The transposed convolution of the masked gradient, at ``column``."""
    value = 0.0
    for tap in tl.static_range(9):
        right = column + 1 - tap % 3
        there = (right >= 0) & (right % STRIDE == 0) & (right // STRIDE < WO)
        at = starts[tap // 3] + right // STRIDE * C
        grad = _masked(dy, active, at, masks[tap // 3] & there, MASKED, WORK)
        value += kernel[tap] * grad
    return value


@tuned(_TILES, KEY)
@triton.jit
def input_grad(
    x,
    dy,
    active,
    weight,
    table,
    pivot,
    dx,
    runs,
    NUM_RUNS,
    NUM_ROWS,
    H,
    W,
    C,
    HO,
    WO,
    STRIDE: tl.constexpr,
    MASKED: tl.constexpr,
    LANES: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORK: tl.constexpr,
):
    """Gradient to x; ``NUM_ROWS`` counts its rows, not those of the output."""
    channel, place = _channels(C, CHANNELS)
    run = runs + place % NUM_RUNS * 3
    first, count, column_kind = tl.load(run), tl.load(run + 1), tl.load(run + 2)
    row = place // NUM_RUNS * LANES + tl.arange(0, LANES)
    line, alive = row % H, row < NUM_ROWS
    mask = alive[:, None] & (channel < C)[None, :]
    kind = _row_kind(line, H, HO, STRIDE)
    own = table + (kind * 4 + column_kind).to(tl.int64)[:, None] * 26 * C + channel[None, :]
    coefficients = ()
    for shift in tl.static_range(26):
        coefficients = coefficients + (tl.load(own + shift * C, mask=mask, other=0),)
    around = tl.load(pivot + channel, mask=channel < C, other=0)[None, :]
    start = row.to(tl.int64)[:, None] * W * C + channel[None, :]
    corner, inside = x + start - 2 * W * C, _five_rows(line, mask, H)
    pixels = ()
    for shift in tl.static_range(5):
        pixels = pixels + _column(corner, inside, around, first + shift - 2, W, C, 5, WORK)
    kernel = _kernel_taps(weight, channel, C, WORK)
    starts, masks = _window_rows(row, alive, channel, H, HO, WO, C, STRIDE)
    for step in range(count):
        column = first + step * STRIDE
        ahead = _column(corner, inside, around, column + 3, W, C, 5, WORK)
        if STRIDE == 2:
            ahead = ahead + _column(corner, inside, around, column + 4, W, C, 5, WORK)
        value = coefficients[25]
        for shift in tl.static_range(25):
            value += coefficients[shift] * pixels[shift % 5 * 5 + shift // 5]
        value += _transposed(dy, active, starts, masks, kernel, column, WO, C, STRIDE, MASKED, WORK)
        tl.store(dx + start + column * C, value.to(dx.dtype.element_ty), mask=mask)
        pixels = pixels[5 * STRIDE :] + ahead
