"""MIL convolutions and pooling: windows that move over an image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import ProgramError
from .registry import op
from .shared import Pads, along, padded, pairs, promoted

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}
_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


def resolve_pads(
    pad_type: str,
    pad: Optional[Sequence[int]],
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
) -> Pads:
    """Turn MIL's ``pad_type`` and ``pad`` into (before, after) pairs.

    Args:
        pad_type (str): ``'valid'``, ``'custom'`` (``pad``), ``'same'`` (the odd element goes after)
            or ``'same_lower'`` (it goes before).
        sizes (Sequence[int]): Spatial input sizes.
        kernel (Sequence[int]): Effective (dilated) kernel sizes.
    """
    if pad_type == 'valid':
        return [(0, 0)] * len(sizes)
    if pad_type == 'custom':
        return pairs(pad or [0] * (2 * len(sizes)))
    # Under ``same`` MIL's document gives the size of the result, and then pads that depend on the
    # kernel only, which contradict it for strides. NeuralNetwork.proto (SamePadding) and the shapes
    # in files decide.
    totals = [
        max(0, (math.ceil(size / stride) - 1) * stride + k - size)
        for size, k, stride in zip(sizes, kernel, strides)
    ]
    if pad_type == 'same':
        return [(total // 2, total - total // 2) for total in totals]
    if pad_type == 'same_lower':
        return [(total - total // 2, total // 2) for total in totals]
    raise ProgramError(
        f'pad_type {pad_type!r} is unknown; allowed: valid, custom, same, same_lower'
    )


@op('conv', fresh=True, channels_last='weight')
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    strides: Optional[Sequence[int]] = None,
    pad_type: str = 'valid',
    pad: Optional[Sequence[int]] = None,
    dilations: Optional[Sequence[int]] = None,
    groups: int = 1,
) -> Tensor:
    """Cross-correlation of (N, C, *D) with (C_out, C / groups, *K)."""
    rank = x.dim() - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    kernel = [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations)]
    pads = resolve_pads(pad_type, pad, x.shape[2:], kernel, strides)
    # Pads as large as the kernel take torch through a slower convolution, with hidden copies of the
    # input.
    native = all(before == after and before < size for (before, after), size in zip(pads, kernel))
    if not native:
        x = padded(x, pads)
    padding = [before if native else 0 for before, _ in pads]
    return _CONV[rank](x, weight, bias, strides, padding, dilations, groups)


@op('conv_transpose')
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Optional[Tensor] = None,
    pad: Optional[Sequence[int]] = None,
    output_shape: Optional[Sequence[int]] = None,
    pad_type: str = 'valid',
    strides: Optional[Sequence[int]] = None,
    dilations: Optional[Sequence[int]] = None,
    groups: int = 1,
) -> Tensor:
    """Gradient of ``conv``; ``weight`` is (C_in, C_out / groups, *K).

    Output sizes are ``output_shape`` where given, else ``(D - 1) s + (K - 1) d + 1``, less the pads
    (``custom``), or ``D s`` (``same``).
    """
    rank = x.dim() - 2
    strides = strides or [1] * rank
    dilations = dilations or [1] * rank
    full = _CONV_TRANSPOSE[rank](x, weight, None, strides, 0, 0, groups, dilations)
    pads = _transpose_pads(pad_type, pad, x.shape[2:], full, strides)
    crops = [(-before, -after) for before, after in pads]
    if output_shape is not None:
        # The scatter ends where it ends; positions beyond it hold zeros.
        crops = [
            (-before, wanted - size + before)
            for (before, _), wanted, size in zip(pads, output_shape[2:], full.shape[2:])
        ]
    out = padded(full, crops)
    return out if bias is None else out + along(bias, 1, x.dim())


def _transpose_pads(
    pad_type: str,
    pad: Optional[Sequence[int]],
    sizes: Sequence[int],
    full: Tensor,
    strides: Sequence[int],
) -> Pads:
    if pad_type != 'same':
        return resolve_pads(pad_type, pad, sizes, sizes, strides)
    totals = [whole - size * stride for whole, size, stride in zip(full.shape[2:], sizes, strides)]
    # A stride above the kernel leaves a gap, which goes to the end.
    before = [max(0, total) // 2 for total in totals]
    return [(b, total - b) for b, total in zip(before, totals)]


@op('linear', fresh=True)
def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """``x @ weight.T + bias``; ``weight`` is (D_out, D_in)."""
    x, weight = promoted(x, weight)
    return F.linear(x, weight, None if bias is None else bias.to(x.dtype))


@op('matmul')
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Batched matrix product with NumPy broadcasting."""
    x, y = promoted(x, y)
    left = x.transpose(-1, -2) if transpose_x else x
    right = y.transpose(-1, -2) if transpose_y else y
    return torch.matmul(left, right)


@op('einsum')
def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
    """Einstein summation over the two tensors in ``values``."""
    return torch.einsum(equation, *values)


@op('scaled_dot_product_attention')
def scaled_dot_product_attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Optional[Tensor] = None
) -> Tensor:
    """``softmax(Q K^T / sqrt(d) + mask) V``; a bool mask keeps True."""
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = torch.where(attn_mask, scores, -math.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return torch.softmax(scores, -1) @ value


@op('max_pool', selects=True)
def max_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Optional[Sequence[int]] = None,
    pad: Optional[Sequence[int]] = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum over each window; padding never wins. ``x`` is (N, C, *D)."""
    window = kernel_sizes, strides or [1] * len(kernel_sizes)
    pads, native = _pool_pads(x, *window, pad_type, pad, ceil_mode)
    pool = _MAX[len(kernel_sizes)]
    if native is None:
        return pool(padded(x, pads, -math.inf), *window)
    return pool(x, *window, native, 1, ceil_mode)


@op('avg_pool')
def avg_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Optional[Sequence[int]] = None,
    pad: Optional[Sequence[int]] = None,
    exclude_padding_from_average: bool = False,
    ceil_mode: bool = False,
) -> Tensor:
    """Mean over each window; ``x`` is (N, C, *D).

    With ``exclude_padding_from_average`` the divisor counts the elements inside the input only,
    else the whole window.
    """
    window = kernel_sizes, strides or [1] * len(kernel_sizes)
    pads, native = _pool_pads(x, *window, pad_type, pad, ceil_mode)
    pool = _AVG[len(kernel_sizes)]
    if native is not None:
        return pool(x, *window, native, ceil_mode, not exclude_padding_from_average)
    means = pool(padded(x, pads), *window)
    if exclude_padding_from_average:
        return means / pool(padded(torch.ones_like(x), pads), *window)
    return means


@op('l2_pool')
def l2_pool(
    x: Tensor, kernel_sizes: Sequence[int], ceil_mode: bool = False, **window: Any
) -> Tensor:
    """Square root of the sum of squares over each window."""
    if ceil_mode:
        raise ProgramError('l2_pool with ceil_mode is not implemented')
    means = avg_pool(x.square(), kernel_sizes, **window)
    return torch.sqrt(means * math.prod(kernel_sizes))


def _pool_pads(
    x: Tensor,
    kernel: Sequence[int],
    strides: Sequence[int],
    pad_type: str,
    pad: Optional[Sequence[int]],
    ceil_mode: bool,
) -> tuple[Pads, Optional[list[int]]]:
    """Pads, and as torch's pooling takes them if they are symmetric, <= kernel / 2."""
    pads = resolve_pads(pad_type, pad, x.shape[2:], kernel, strides)
    if all(before == after and 2 * before <= k for (before, after), k in zip(pads, kernel)):
        return pads, [before for before, _ in pads]
    if ceil_mode:
        raise ProgramError(
            f'pooling with ceil_mode needs symmetric pads of at most half '
            f'the kernel, got (before, after) = {pads}'
        )
    return pads, None
