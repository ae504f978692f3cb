"""Triton kernels that fold depthwise 3x3 branches, and give their gradients.

Everything is in float64. ``SIZES`` has each branch's kernel size; 0: it has none, and its kernel is
the identity. Parameters are tuples with a tensor or None a branch. ``KERNELS`` holds the branches
as 3x3, (J, C, 9); ``centre`` is what patches are on average, minus the pivot.
"""
# mypy: ignore-errors
# ruff: noqa: N803 (Triton's language: sizes in capitals)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tap(CHANNELS: tl.constexpr, C):
    """Channels (CHANNELS, 1), taps (1, 16), and which of both there are."""
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    tap = tl.arange(0, 16)[None, :]
    return channel[:, None], tap, (channel < C)[:, None] & (tap < 9)


@triton.jit
def _branch(kernel, channel, tap, mask, SIZE: tl.constexpr):
    """A branch's kernel (CHANNELS, 16), padded to 3x3 and with zeros."""
    if SIZE == 0:
        return tl.where(mask & (tap == 4), 1.0, 0.0).to(tl.float64)
    elif SIZE == 1:
        return tl.load(kernel + channel + tap * 0, mask=mask & (tap == 4), other=0).to(tl.float64)
    else:
        return tl.load(kernel + channel * 9 + tap, mask=mask, other=0).to(tl.float64)


@triton.jit
def _of_channel(values, channel, C, FILL: tl.constexpr):
    """A parameter (CHANNELS, 1) of a norm."""
    if values is None:
        return tl.where(channel < C, FILL, 0.0).to(tl.float64)
    else:
        return tl.load(values + channel, mask=channel < C, other=0).to(tl.float64)


@triton.jit(do_not_specialize=['COUNT'])
def depthwise_measure(
    kernels,
    products,
    sums,
    padded,
    by_cov,
    moments,
    direct,
    COUNT,
    C,
    SIZES: tl.constexpr,
    EPS: tl.constexpr,
    CANCELLATION: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Mean (around the pivot) and variance of each branch's output, ``moments`` (2, J, C).

    Beside them ``padded`` and ``by_cov`` (J, C, 9), kernels and kernels times covariance, and marks
    ``direct`` (J, C) where cancellation spoils the variance.
    """
    channel, tap, mask = _tap(CHANNELS, C)
    count = tl.cast(COUNT, tl.float64)
    centre = tl.load(sums + channel * 9 + tap, mask=mask, other=0) / count
    square = mask[:, :, None] & mask[:, None, :]
    at = channel[:, :, None] * 81 + tap[:, :, None] * 9 + tap[:, None, :]
    cov = tl.load(products + at, mask=square, other=0) / count
    cov -= centre[:, :, None] * centre[:, None, :]
    power = tl.load(products + channel * 81 + tap * 10, mask=mask, other=0) / count
    for j in tl.static_range(len(SIZES)):
        kernel = _branch(kernels[j], channel, tap, mask, SIZES[j])
        own = tl.sum(cov * kernel[:, None, :], 2)
        var = tl.sum(own * kernel, 1)[:, None]
        var = tl.where(var < 0, 0.0, var)
        mean = tl.sum(kernel * centre, 1)[:, None]
        bound = tl.sum(kernel * kernel * power, 1)[:, None]
        of_branch = j * C + channel
        tl.store(padded + of_branch * 9 + tap, kernel.to(padded.dtype.element_ty), mask=mask)
        tl.store(by_cov + of_branch * 9 + tap, own, mask=mask)
        tl.store(moments + of_branch, mean, mask=channel < C)
        tl.store(moments + len(SIZES) * C + of_branch, var, mask=channel < C)
        spoiled = var + EPS[j] < CANCELLATION * bound
        tl.store(direct + of_branch, spoiled.to(tl.int8), mask=channel < C)


@triton.jit(do_not_specialize=['COUNT'])
def depthwise_combine(
    gammas,
    betas,
    padded,
    moments,
    direct,
    looked,
    sums,
    pivot,
    weight,
    bias,
    stats,
    inv_stds,
    COUNT,
    C,
    EPS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """The folded kernel (C, 9) and bias, and mean and variance of the outputs (2, J, C).

    ``looked`` (2, J, C) are sums of outputs and of their squares where ``direct`` marks them;
    ``moments`` are brought up to date there. The bias takes off what rounding of the weight to its
    type makes of the patches' mean.
    """
    channel, tap, mask = _tap(CHANNELS, C)
    there, count = channel < C, tl.cast(COUNT, tl.float64)
    around = tl.load(pivot + channel, mask=there, other=0).to(tl.float64)
    folded = tl.zeros((CHANNELS, 16), tl.float64)
    shift = tl.zeros((CHANNELS, 1), tl.float64)
    for j in tl.static_range(len(EPS)):
        of_branch, below = j * C + channel, len(EPS) * C
        marked = tl.load(direct + of_branch, mask=there, other=0) != 0
        mean = tl.load(moments + of_branch, mask=there, other=0)
        var = tl.load(moments + below + of_branch, mask=there, other=0)
        total = tl.load(looked + of_branch, mask=there & marked, other=0) / count
        squares = tl.load(looked + below + of_branch, mask=there & marked, other=0) / count
        squares -= total * total
        mean = tl.where(marked, total, mean)
        var = tl.where(marked, tl.where(squares < 0, 0.0, squares), var)
        inv_std = 1 / tl.sqrt(var + EPS[j])
        kernel = tl.load(padded + of_branch * 9 + tap, mask=mask, other=0).to(tl.float64)
        folded += _of_channel(gammas[j], channel, C, 1) * inv_std * kernel
        shift += _of_channel(betas[j], channel, C, 0)
        tl.store(moments + of_branch, mean, mask=there)
        tl.store(inv_stds + of_branch, inv_std, mask=there)
        tl.store(stats + of_branch, mean + around * tl.sum(kernel, 1)[:, None], mask=there)
        tl.store(stats + below + of_branch, var, mask=there)
    tl.store(weight + channel * 9 + tap, folded.to(weight.dtype.element_ty), mask=mask)
    centre = tl.load(sums + channel * 9 + tap, mask=mask, other=0) / count
    rounded = folded.to(weight.dtype.element_ty).to(bias.dtype.element_ty).to(tl.float64)
    shift -= tl.sum(rounded * (centre + around), 1)[:, None]
    tl.store(bias + channel, shift.to(bias.dtype.element_ty), mask=there)


@triton.jit(do_not_specialize=['COUNT'])
def depthwise_unfold(
    gammas,
    grads_of_kernels,
    grads_of_gammas,
    grads_of_betas,
    padded,
    by_cov,
    moments,
    inv_stds,
    direct,
    looked,
    sums,
    by_weight,
    by_bias,
    products,
    moved,
    COUNT,
    C,
    SIZES: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Gradients to parameters, to ``products`` (C, 9, 9) and, around the pivot, to sums (C, 9).

    ``looked`` (J, C) are sums of gradient times (output - mean) where ``direct`` marks them.
    """
    channel, tap, mask = _tap(CHANNELS, C)
    there, count = channel < C, tl.cast(COUNT, tl.float64)
    centre = tl.load(sums + channel * 9 + tap, mask=mask, other=0) / count
    beta = tl.load(by_bias + channel, mask=there, other=0)
    # Of the kernel, were patches of mean 0.
    own = tl.load(by_weight + channel * 9 + tap, mask=mask, other=0) - beta * centre
    by_products = tl.zeros((CHANNELS, 16, 16), tl.float64)
    by_sums = tl.zeros((CHANNELS, 16), tl.float64)
    for j in tl.static_range(len(SIZES)):
        of_branch = j * C + channel
        kernel = tl.load(padded + of_branch * 9 + tap, mask=mask, other=0).to(tl.float64)
        inv_std = tl.load(inv_stds + of_branch, mask=there, other=0)
        scale = _of_channel(gammas[j], channel, C, 1) * inv_std
        marked = tl.load(direct + of_branch, mask=there, other=0) != 0
        by_scale = tl.load(looked + of_branch, mask=there & marked, other=0)
        by_scale = tl.where(marked, by_scale, tl.sum(kernel * own, 1)[:, None])
        twice_by_var = -by_scale * scale * inv_std * inv_std
        by_products += (kernel * twice_by_var)[:, :, None] * kernel[:, None, :]
        by_sums -= beta * scale * kernel
        moved_by = tl.load(by_cov + of_branch * 9 + tap, mask=mask, other=0) * twice_by_var
        _store_kernel(grads_of_kernels[j], channel, tap, mask, moved_by + scale * own, SIZES[j])
        _store_channel(grads_of_gammas[j], channel, C, by_scale * inv_std)
        _store_channel(grads_of_betas[j], channel, C, beta)
    by_products /= count
    by_sums = by_sums / count - tl.sum(by_products * centre[:, None, :], 2)
    square = mask[:, :, None] & mask[:, None, :]
    at = channel[:, :, None] * 81 + tap[:, :, None] * 9 + tap[:, None, :]
    tl.store(products + at, by_products, mask=square)
    tl.store(moved + channel * 9 + tap, by_sums, mask=mask)


@triton.jit
def _store_kernel(grads, channel, tap, mask, value, SIZE: tl.constexpr):
    if SIZE == 1:
        to = grads + channel + tap * 0
        tl.store(to, value.to(grads.dtype.element_ty), mask=mask & (tap == 4))
    elif SIZE == 3:
        tl.store(grads + channel * 9 + tap, value.to(grads.dtype.element_ty), mask=mask)


@triton.jit
def _store_channel(grads, channel, C, value):
    if grads is not None:
        tl.store(grads + channel, value.to(grads.dtype.element_ty), mask=channel < C)
