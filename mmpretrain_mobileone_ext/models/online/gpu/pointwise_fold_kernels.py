"""Triton kernels that fold pointwise branches, and give their gradients.

Values of rows are in float64, products of matrices in the images' work type, never in TF32.
``SIZES`` has 1 for a branch with a kernel (O, C) and 0 for one without, whose kernel is the
identity; ``EPS`` belongs to their norms. Parameters are tuples with a tensor or None a branch;
``centre`` is what pixels are on average, minus the pivot.
"""
# mypy: ignore-errors
# ruff: noqa: N803, RUF005 (Triton's language: sizes in capitals, no unpacking)

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def _tile(matrix, row, column, ROWS, COLUMNS, DTYPE: tl.constexpr):
    """A tile of a row-major matrix, 0 beyond its ends."""
    mask = (row < ROWS)[:, None] & (column < COLUMNS)[None, :]
    at = row.to(tl.int64)[:, None] * COLUMNS + column[None, :]
    return tl.load(matrix + at, mask=mask, other=0).to(DTYPE)


@triton.jit
def _line(values, at, mask, FILL: tl.constexpr):
    """Values of rows in float64; where there are none, ``FILL``."""
    if values is None:
        return tl.where(mask, FILL, 0.0).to(tl.float64)
    else:
        return tl.load(values + at, mask=mask, other=0).to(tl.float64)


@triton.jit(do_not_specialize=['COUNT'])
def measure(
    kernels,
    gram,
    sums,
    by_cov,
    parts,
    COUNT,
    C,
    OUT,
    SIZES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WORK: tl.constexpr,
):
    """Kernels times covariance, (J, OUT, C), and by blocks of columns what :func:`settle` adds up.

    These are (blocks, 3, J, OUT): variance, mean around the pivot, and what cancellation is
    measured by.
    """
    blocks = tl.cdiv(C, BLOCK)
    place = tl.program_id(0) % blocks
    row = tl.program_id(0) // blocks * BLOCK + tl.arange(0, BLOCK)
    column = place * BLOCK + tl.arange(0, BLOCK)
    count = tl.cast(COUNT, tl.float64)
    centre = _line(sums, column, column < C, 0) / count
    power = _line(gram, column.to(tl.int64) * (C + 1), column < C, 0) / count
    for j in tl.static_range(len(SIZES)):
        if SIZES[j] == 0:
            own = (row < OUT) & (place == 0)
            mean = _line(sums, row, own, 0) / count
            bound = _line(gram, row.to(tl.int64) * (C + 1), own, 0) / count
            var = bound - mean * mean
        else:
            product = _by_cov(
                kernels[j], gram, sums, centre, row, column, count, C, OUT, BLOCK, STEP, WORK
            )
            at = (row.to(tl.int64) + j * OUT)[:, None] * C + column[None, :]
            tl.store(by_cov + at, product, mask=(row < OUT)[:, None] & (column < C)[None, :])
            kernel = _tile(kernels[j], row, column, OUT, C, tl.float64)
            var = tl.sum(product.to(tl.float64) * kernel, 1)
            mean = tl.sum(kernel * centre[None, :], 1)
            bound = tl.sum(kernel * kernel * power[None, :], 1)
        to = parts + (place * 3 * len(SIZES) + j) * OUT + row
        tl.store(to, var, mask=row < OUT)
        tl.store(to + len(SIZES) * OUT, mean, mask=row < OUT)
        tl.store(to + 2 * len(SIZES) * OUT, bound, mask=row < OUT)


@triton.jit
def _by_cov(
    kernel,
    gram,
    sums,
    centre,
    row,
    column,
    count,
    C,
    OUT,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WORK: tl.constexpr,
):
    """A tile of a kernel times the covariance."""
    product = tl.zeros((BLOCK, BLOCK), WORK)
    for first in range(0, C, STEP):
        inner = first + tl.arange(0, STEP)
        cov = _tile(gram, inner, column, C, C, tl.float64) / count
        cov -= (_line(sums, inner, inner < C, 0) / count)[:, None] * centre[None, :]
        left = _tile(kernel, row, inner, OUT, C, WORK)
        product = tl.dot(left, cov.to(WORK), product, input_precision='ieee', out_dtype=WORK)
    return product


@triton.jit
def settle(
    parts,
    moments,
    direct,
    PARTS,
    OUT,
    EPS: tl.constexpr,
    CANCELLATION: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Mean around the pivot and variance, (2, J, OUT), and marks where the latter is spoiled."""
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    below = len(EPS) * OUT
    for j in tl.static_range(len(EPS)):
        var = tl.zeros((BLOCK,), tl.float64)
        mean = tl.zeros((BLOCK,), tl.float64)
        bound = tl.zeros((BLOCK,), tl.float64)
        for part in range(PARTS):
            at = (part * 3 * len(EPS) + j) * OUT + row
            var += _line(parts, at, row < OUT, 0)
            mean += _line(parts, at + below, row < OUT, 0)
            bound += _line(parts, at + 2 * below, row < OUT, 0)
        var = tl.where(var < 0, 0.0, var)
        tl.store(moments + j * OUT + row, mean, mask=row < OUT)
        tl.store(moments + below + j * OUT + row, var, mask=row < OUT)
        spoiled = var + EPS[j] < CANCELLATION * bound
        tl.store(direct + j * OUT + row, spoiled.to(tl.int8), mask=row < OUT)


@triton.jit(do_not_specialize=['COUNT'])
def rescale(
    gammas,
    moments,
    direct,
    looked,
    inv_stds,
    scales,
    COUNT,
    OUT,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """What kernels are scaled by, (J, OUT), with ``looked`` (2, J, OUT) where marks are.

    Those are sums of outputs, around the pivot, and of their squares; ``moments`` are brought up to
    date there.
    """
    row = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    there, count = row < OUT, tl.cast(COUNT, tl.float64)
    for j in tl.static_range(len(EPS)):
        at, below = j * OUT + row, len(EPS) * OUT
        marked = there & (tl.load(direct + at, mask=there, other=0) != 0)
        total = _line(looked, at, marked, 0) / count
        squares = _line(looked, below + at, marked, 0) / count - total * total
        mean = tl.where(marked, total, _line(moments, at, there, 0))
        var = _line(moments, below + at, there, 0)
        var = tl.where(marked, tl.where(squares < 0, 0.0, squares), var)
        inv_std = 1 / tl.sqrt(var + EPS[j])
        tl.store(moments + at, mean, mask=there)
        tl.store(moments + below + at, var, mask=there)
        tl.store(inv_stds + at, inv_std, mask=there)
        tl.store(scales + at, inv_std * _line(gammas[j], row, there, 1), mask=there)


@triton.jit(do_not_specialize=['COUNT'])
def combine(
    kernels,
    betas,
    scales,
    moments,
    sums,
    pivot,
    weight,
    bias,
    means,
    COUNT,
    C,
    OUT,
    SIZES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """The folded kernel (OUT, C) and bias, and the means (J, OUT) of the branches' outputs.

    The bias takes off what rounding of the weight to its type makes of the pixels' mean.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there, count = row < OUT, tl.cast(COUNT, tl.float64)
    shift = tl.zeros((ROWS,), tl.float64)
    found = ()
    for j in tl.static_range(len(SIZES)):
        shift += _line(betas[j], row, there, 0)
        found = found + (_line(moments, j * OUT + row, there, 0),)
    for first in range(0, C, COLUMNS):
        column = first + tl.arange(0, COLUMNS)
        around = _line(pivot, column, column < C, 0)
        mean = around + _line(sums, column, column < C, 0) / count
        folded = tl.zeros((ROWS, COLUMNS), tl.float64)
        added = ()
        for j in tl.static_range(len(SIZES)):
            kernel = _kernel(kernels[j], row, column, OUT, C, SIZES[j])
            folded += _line(scales, j * OUT + row, there, 0)[:, None] * kernel
            added = added + (found[j] + tl.sum(kernel * around[None, :], 1),)
        found = added
        narrow = folded.to(weight.dtype.element_ty)
        at = row.to(tl.int64)[:, None] * C + column[None, :]
        tl.store(weight + at, narrow, mask=there[:, None] & (column < C)[None, :])
        rounded = narrow.to(bias.dtype.element_ty).to(tl.float64)
        shift -= tl.sum(rounded * mean[None, :], 1)
    tl.store(bias + row, shift.to(bias.dtype.element_ty), mask=there)
    for j in tl.static_range(len(SIZES)):
        tl.store(means + j * OUT + row, found[j], mask=there)


@triton.jit
def _kernel(kernel, row, column, OUT, C, SIZE: tl.constexpr):
    """A tile of a branch's kernel, or of the identity."""
    if SIZE == 0:
        same = (row[:, None] == column[None, :]) & (row < OUT)[:, None]
        return tl.where(same, 1.0, 0.0).to(tl.float64)
    else:
        return _tile(kernel, row, column, OUT, C, tl.float64)


@triton.jit(do_not_specialize=['COUNT'])
def unfold(
    kernels,
    grads_of_kernels,
    grads_of_gammas,
    grads_of_betas,
    by_cov,
    scales,
    inv_stds,
    direct,
    looked,
    sums,
    by_weight,
    by_bias,
    twice_by_vars,
    by_means,
    COUNT,
    C,
    OUT,
    SIZES: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
):
    """Gradients to parameters, and to variances (twice) and means (J, OUT) of branches.

    ``looked`` (J, OUT) are sums of gradient times (output - mean) where ``direct`` marks them.
    """
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    there, count = row < OUT, tl.cast(COUNT, tl.float64)
    beta = _line(by_bias, row, there, 0)
    for j in tl.static_range(len(SIZES)):
        at = j * OUT + row
        by_scale = tl.zeros((ROWS,), tl.float64)
        for first in range(0, C, COLUMNS):
            column = first + tl.arange(0, COLUMNS)
            own = _centred(by_weight, beta, sums, row, column, OUT, C, count)
            by_scale += tl.sum(own * _kernel(kernels[j], row, column, OUT, C, SIZES[j]), 1)
        marked = there & (tl.load(direct + at, mask=there, other=0) != 0)
        by_scale = tl.where(marked, _line(looked, at, marked, 0), by_scale)
        inv_std, scale = _line(inv_stds, at, there, 0), _line(scales, at, there, 0)
        twice_by_var = -by_scale * scale * inv_std * inv_std
        tl.store(twice_by_vars + at, twice_by_var, mask=there)
        tl.store(by_means + at, -beta * scale, mask=there)
        _store(grads_of_gammas[j], row, by_scale * inv_std, there)
        _store(grads_of_betas[j], row, beta, there)
        if SIZES[j] != 0:
            for first in range(0, C, COLUMNS):
                column = first + tl.arange(0, COLUMNS)
                own = _centred(by_weight, beta, sums, row, column, OUT, C, count) * scale[:, None]
                through = _tile(by_cov + j * OUT * C, row, column, OUT, C, tl.float64)
                own += through * twice_by_var[:, None]
                to = row.to(tl.int64)[:, None] * C + column[None, :]
                _store(grads_of_kernels[j], to, own, there[:, None] & (column < C)[None, :])


@triton.jit
def _centred(by_weight, beta, sums, row, column, OUT, C, count):
    """The gradient to a folded kernel, were pixels of mean 0."""
    centre = _line(sums, column, column < C, 0) / count
    return _tile(by_weight, row, column, OUT, C, tl.float64) - beta[:, None] * centre[None, :]


@triton.jit
def _store(to, at, value, mask):
    if to is not None:
        tl.store(to + at, value.to(to.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=['COUNT'])
def move(
    kernels,
    twice_by_vars,
    by_means,
    products,
    moved,
    COUNT,
    C,
    OUT,
    SIZES: tl.constexpr,
    BLOCK: tl.constexpr,
    STEP: tl.constexpr,
    WORK: tl.constexpr,
):
    """Twice the gradient to the sums of products, (C, C), and that to means, (C,)."""
    blocks = tl.cdiv(C, BLOCK)
    i = tl.program_id(0) // blocks * BLOCK + tl.arange(0, BLOCK)
    j = tl.program_id(0) % blocks * BLOCK + tl.arange(0, BLOCK)
    count = tl.cast(COUNT, tl.float64)
    total = tl.zeros((BLOCK, BLOCK), tl.float64)
    alone = tl.zeros((BLOCK,), tl.float64)
    for b in tl.static_range(len(SIZES)):
        if SIZES[b] == 0:
            diagonal = _line(twice_by_vars, b * OUT + i, i < C, 0)
            total += tl.where(i[:, None] == j[None, :], diagonal[:, None], 0.0)
            alone += _line(by_means, b * OUT + i, i < C, 0)
        else:
            some = tl.zeros((BLOCK, BLOCK), WORK)
            for first in range(0, OUT, STEP):
                row = first + tl.arange(0, STEP)
                left = _tile(kernels[b], row, i, OUT, C, tl.float64)
                factor = _line(twice_by_vars, b * OUT + row, row < OUT, 0)[:, None]
                some = tl.dot(
                    *(tl.trans((left * factor).to(WORK)), _tile(kernels[b], row, j, OUT, C, WORK)),
                    some,
                    input_precision='ieee',
                    out_dtype=WORK,
                )
                alone += tl.sum(left * _line(by_means, b * OUT + row, row < OUT, 0)[:, None], 0)
            total += some
    inside = (i < C)[:, None] & (j < C)[None, :]
    tl.store(products + i.to(tl.int64)[:, None] * C + j[None, :], total / count, mask=inside)
    if tl.program_id(0) % blocks == 0:
        tl.store(moved + i, alone / count, mask=i < C)
