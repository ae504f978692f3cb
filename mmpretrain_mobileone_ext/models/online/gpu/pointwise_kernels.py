"""Triton kernels for 1x1 convolutions, on matrices (pixels, channels), row-major.

Products of matrices that have a pivot or a mask on their way in are computed here; plain ones are
torch's. What adds up pixels does so in parts, each of which is float32 for few pixels and float64
beyond.
"""
# mypy: ignore-errors
# ruff: noqa: N803 (Triton's language: sizes in capitals)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _pixels(x, pivot, pixel, last, channel, C, WORK: tl.constexpr):
    """A tile of x - pivot, 0 where pixels end."""
    mask = (pixel < last)[:, None] & (channel < C)[None, :]
    at = pixel.to(tl.int64)[:, None] * C + channel[None, :]
    value = tl.load(x + at, mask=mask, other=0).to(WORK)
    if pivot is not None:
        around = tl.load(pivot + channel, mask=channel < C, other=0).to(WORK)[None, :]
        value = tl.where(mask, value - around, 0.0)
    return value


@triton.jit
def _masked(dy, active, pixel, last, channel, C, WORK: tl.constexpr):
    """A tile of gradient, where a ReLU (if there is one) let it through."""
    value = _pixels(dy, None, pixel, last, channel, C, WORK)
    if active is not None:
        value = tl.where(_pixels(active, None, pixel, last, channel, C, WORK) <= 0, 0.0, value)
    return value


@triton.jit
def outer(
    left,
    active,
    left_pivot,
    right,
    pivot,
    parts,
    sums,
    NUM_PIXELS,
    ROWS,
    LEFT,
    RIGHT,
    SYMMETRIC: tl.constexpr,
    CHUNK: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    PRECISION: tl.constexpr,
    DOT: tl.constexpr,
    WORK: tl.constexpr,
):
    """Parts (parts, LEFT, RIGHT) of ``left^T (right - pivot)``, and sums of left (parts, LEFT).

    Left is a gradient that a ReLU masks, or the matrix on the right again, in which case nothing
    below the diagonal's blocks is written. ``CHUNK`` pixels are added up in WORK.
    """
    across, down = tl.cdiv(RIGHT, BLOCK), tl.cdiv(LEFT, BLOCK)
    tile, part = tl.program_id(0) % (across * down), tl.program_id(0) // (across * down)
    row, column = tile // across, tile % across
    if not SYMMETRIC or row <= column:
        i, j = row * BLOCK + tl.arange(0, BLOCK), column * BLOCK + tl.arange(0, BLOCK)
        last = min(part * ROWS + ROWS, NUM_PIXELS)
        total = tl.zeros((BLOCK, BLOCK), tl.float64)
        alone = tl.zeros((BLOCK,), tl.float64)
        for begin in range(part * ROWS, last, CHUNK):
            some = tl.zeros((BLOCK, BLOCK), WORK)
            few = tl.zeros((BLOCK,), WORK)
            for step in range(begin, min(begin + CHUNK, last), STEP):
                pixel = step + tl.arange(0, STEP)
                if SYMMETRIC:
                    a = _pixels(left, left_pivot, pixel, last, i, LEFT, WORK)
                else:
                    a = _masked(left, active, pixel, last, i, LEFT, WORK)
                b = _pixels(right, pivot, pixel, last, j, RIGHT, WORK)
                few += tl.sum(a, 0)
                some = tl.dot(
                    *(tl.trans(a).to(DOT), b.to(DOT), some),
                    input_precision=PRECISION,
                    out_dtype=WORK,
                )
            total += some
            alone += few
        at = (part.to(tl.int64) * LEFT + i)[:, None] * RIGHT + j[None, :]
        tl.store(parts + at, total, mask=(i < LEFT)[:, None] & (j < RIGHT)[None, :])
        if column == (row if SYMMETRIC else 0):
            tl.store(sums + part * LEFT + i, alone, mask=i < LEFT)


@triton.jit
def mirror(parts, out, PARTS, C, BLOCK: tl.constexpr):
    """The symmetric sum (C, C) of parts whose upper half alone is written."""
    tiles = tl.cdiv(C, BLOCK)
    i = (tl.program_id(0) // tiles * BLOCK + tl.arange(0, BLOCK))[:, None]
    j = (tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK))[None, :]
    at = tl.minimum(i, j).to(tl.int64) * C + tl.maximum(i, j)
    mask = (i < C) & (j < C)
    total = tl.zeros((BLOCK, BLOCK), tl.float64)
    for _ in range(PARTS):
        total += tl.load(parts + at, mask=mask, other=0)
        at += tl.cast(C, tl.int64) * C
    tl.store(out + i.to(tl.int64) * C + j, total, mask=mask)


@triton.jit
def finish(
    y,
    x,
    diagonal,
    bias,
    NUM_PIXELS,
    C,
    RELU: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORK: tl.constexpr,
):
    """Add bias and, where there is a skip branch, ``diagonal`` times x to y; ReLU. In place."""
    blocks = tl.cdiv(C, CHANNELS)
    pixel = tl.program_id(0) // blocks * PIXELS + tl.arange(0, PIXELS)
    channel = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    value = _pixels(y, None, pixel, NUM_PIXELS, channel, C, WORK)
    if diagonal is not None:
        factor = tl.load(diagonal + channel, mask=channel < C, other=0).to(WORK)[None, :]
        value += factor * _pixels(x, None, pixel, NUM_PIXELS, channel, C, WORK)
    value += tl.load(bias + channel, mask=channel < C, other=0).to(WORK)[None, :]
    if RELU:
        value = tl.where(value < 0, 0.0, value)  # NaN stays
    mask = (pixel < NUM_PIXELS)[:, None] & (channel < C)[None, :]
    at = pixel.to(tl.int64)[:, None] * C + channel[None, :]
    tl.store(y + at, value.to(y.dtype.element_ty), mask=mask)


@triton.jit
def beside(
    x,
    pivot,
    dy,
    active,
    out,
    NUM_PIXELS,
    C,
    OUT,
    WIDTH,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    WORK: tl.constexpr,
):
    """Rows (pixels, WIDTH) of x - pivot, the masked gradient, three ones, and zeros."""
    blocks = tl.cdiv(WIDTH, CHANNELS)
    pixel = tl.program_id(0) // blocks * PIXELS + tl.arange(0, PIXELS)
    column = tl.program_id(0) % blocks * CHANNELS + tl.arange(0, CHANNELS)
    later, at = column - C, pixel.to(tl.int64)[:, None]
    mask = (pixel < NUM_PIXELS)[:, None] & (column < C)[None, :]
    value = tl.load(x + at * C + column[None, :], mask=mask, other=0).to(WORK)
    value -= tl.load(pivot + column, mask=column < C, other=0).to(WORK)[None, :]
    mask = (pixel < NUM_PIXELS)[:, None] & ((later >= 0) & (later < OUT))[None, :]
    grad = tl.load(dy + at * OUT + later[None, :], mask=mask, other=0).to(WORK)
    if active is not None:
        grad = tl.where(tl.load(active + at * OUT + later[None, :], mask=mask) <= 0, 0.0, grad)
    ones = ((later >= OUT) & (later < OUT + 3))[None, :]
    value = tl.where((later < 0)[None, :], value, tl.where(ones, 1.0, grad))
    mask = (pixel < NUM_PIXELS)[:, None] & (column < WIDTH)[None, :]
    tl.store(out + at * WIDTH + column[None, :], value.to(out.dtype.element_ty), mask=mask)


@triton.jit
def below(products, weight, sums, out, C, OUT, WIDTH, BLOCK: tl.constexpr, WORK: tl.constexpr):
    """What :func:`beside` is multiplied with, (WIDTH, C): products, weight, sums in three parts.

    Each part is one that bfloat16 holds; the last has the rest.
    """
    tiles = tl.cdiv(C, BLOCK)
    i = (tl.program_id(0) // tiles * BLOCK + tl.arange(0, BLOCK))[:, None]
    j = (tl.program_id(0) % tiles * BLOCK + tl.arange(0, BLOCK))[None, :]
    mask, later = j < C, i - C
    value = tl.load(products + i * C + j, mask=mask & (later < 0), other=0).to(WORK)
    there = mask & (later >= 0) & (later < OUT)
    value = tl.where(there, tl.load(weight + later * C + j, mask=there, other=0).to(WORK), value)
    total = tl.load(sums + j, mask=mask, other=0).to(WORK)
    high = total.to(tl.float32).to(tl.bfloat16).to(tl.float32).to(WORK)
    middle = (total - high).to(tl.float32).to(tl.bfloat16).to(tl.float32).to(WORK)
    value = tl.where(later == OUT, high, value)
    value = tl.where(later == OUT + 1, middle, value)
    value = tl.where(later == OUT + 2, total - high - middle, value)
    tl.store(out + i * C + j, value.to(out.dtype.element_ty), mask=mask & (i < WIDTH))


@triton.jit
def direct_moments(
    x,
    pivot,
    kernels,
    direct,
    parts,
    NUM_PIXELS,
    ROWS,
    C,
    OUT,
    SIZES: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LINES: tl.constexpr,
):
    """Sums of z and of z^2, (parts, 2, J, OUT), z of kernels (OUT, C) on x - pivot, in float64.

    Only of what ``direct`` (J, OUT) marks; elsewhere nothing is written.
    """
    blocks = tl.cdiv(OUT, LINES)
    part, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * LINES
    last = min(part * ROWS + ROWS, NUM_PIXELS)
    for j in tl.static_range(len(SIZES)):
        for line in range(first, min(first + LINES, OUT)):
            if tl.load(direct + j * OUT + line) != 0:
                total = tl.zeros((PIXELS,), tl.float64)
                squares = tl.zeros((PIXELS,), tl.float64)
                for begin in range(part * ROWS, last, PIXELS):
                    pixel = begin + tl.arange(0, PIXELS)
                    z = _z(x, pivot, kernels[j], line, pixel, last, C, SIZES[j], CHANNELS)
                    total += z
                    squares += z * z
                to = parts + (part * 2 * len(SIZES) + j) * OUT + line
                tl.store(to, tl.sum(total, 0))
                tl.store(to + len(SIZES) * OUT, tl.sum(squares, 0))


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
    NUM_PIXELS,
    ROWS,
    C,
    OUT,
    SIZES: tl.constexpr,
    PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
    LINES: tl.constexpr,
):
    """Sums of gradient times (z - mean), (parts, J, OUT), as :func:`direct_moments` has z."""
    blocks = tl.cdiv(OUT, LINES)
    part, first = tl.program_id(0) // blocks, tl.program_id(0) % blocks * LINES
    last = min(part * ROWS + ROWS, NUM_PIXELS)
    for j in tl.static_range(len(SIZES)):
        for line in range(first, min(first + LINES, OUT)):
            if tl.load(direct + j * OUT + line) != 0:
                centre = tl.load(mean + j * OUT + line)
                total = tl.zeros((PIXELS,), tl.float64)
                for begin in range(part * ROWS, last, PIXELS):
                    pixel = begin + tl.arange(0, PIXELS)
                    z = _z(x, pivot, kernels[j], line, pixel, last, C, SIZES[j], CHANNELS)
                    at = pixel.to(tl.int64) * OUT + line
                    grad = tl.load(dy + at, mask=pixel < last, other=0).to(tl.float64)
                    if active is not None:
                        open_ = tl.load(active + at, mask=pixel < last, other=0)
                        grad = tl.where(open_ <= 0, 0.0, grad)
                    total += grad * (z - centre)
                tl.store(parts + (part * len(SIZES) + j) * OUT + line, tl.sum(total, 0))


@triton.jit
def _z(x, pivot, kernel, line, pixel, last, C, SIZE: tl.constexpr, CHANNELS: tl.constexpr):
    """One row of a kernel (or of the identity) times pixels."""
    z = tl.zeros(pixel.shape, tl.float64)
    if SIZE == 0:
        one = line + tl.arange(0, 1)
        z += tl.sum(_pixels(x, pivot, pixel, last, one, C, tl.float64), 1)
    else:
        for first in range(0, C, CHANNELS):
            channel = first + tl.arange(0, CHANNELS)
            values = _pixels(x, pivot, pixel, last, channel, C, tl.float64)
            weight = tl.load(kernel + line * C + channel, mask=channel < C, other=0)
            z += tl.sum(values * weight.to(tl.float64)[None, :], 1)
    return z
