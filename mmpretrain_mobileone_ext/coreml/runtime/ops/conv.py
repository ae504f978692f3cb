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

Pads = list[tuple[int, int]]

_CONV = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_CONV_TRANSPOSE: dict[int, Any] = {
    1: F.conv_transpose1d,
    2: F.conv_transpose2d,
    3: F.conv_transpose3d,
}


def resolve_pads(
    pad_type: str,
    pad: Optional[Sequence[int]],
    sizes: Sequence[int],
    kernel: Sequence[int],
    strides: Sequence[int],
) -> Pads:
    """Turn MIL's ``pad_type`` and ``pad`` into (before, after) pairs.

    Args:
        pad_type (str): ``'valid'``, ``'custom'``, ``'same'`` (the odd
            element goes after) or ``'same_lower'`` (it goes before).
        pad (Sequence[int] | None): ``[before0, after0, before1, ...]``,
            read for ``'custom'`` only.
        sizes (Sequence[int]): Spatial input sizes.
        kernel (Sequence[int]): Effective (dilated) kernel sizes.
        strides (Sequence[int]): Strides.

    Raises:
        ProgramError: If ``pad_type`` is unknown.
    """
    if pad_type == 'valid':
        return [(0, 0)] * len(sizes)
    if pad_type == 'custom':
        both = list(pad or [0] * (2 * len(sizes)))
        return list(zip(both[::2], both[1::2]))
    # Under ``same`` MIL's document gives the size of the result, and then
    # pads that depend on the kernel only, which contradict it for strides.
    # NeuralNetwork.proto (SamePadding) and the shapes in files decide.
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


def pad_spatial(x: Tensor, pads: Pads, value: float = 0.0) -> Tensor:
    """Pad the trailing dimensions of ``x`` by (before, after) pairs."""
    flat = [size for pair in reversed(pads) for size in pair]
    return F.pad(x, flat, value=value) if any(flat) else x


@op('conv')
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
    kernel = _effective(weight, dilations)
    pads = resolve_pads(pad_type, pad, x.shape[2:], kernel, strides)
    # Pads as large as the kernel take torch through a slower convolution,
    # with hidden copies of the input.
    native = all(before == after and before < size for (before, after), size in zip(pads, kernel))
    if not native:
        x = pad_spatial(x, pads)
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

    Output sizes are ``output_shape`` where given, else ``(D - 1) s + (K - 1)
    d + 1``, less the pads (``custom``), or ``D s`` (``same``).
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
    out = pad_spatial(full, crops)
    return out if bias is None else out + bias.reshape(-1, *[1] * rank)


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


def _effective(weight: Tensor, dilations: Sequence[int]) -> list[int]:
    return [(k - 1) * d + 1 for k, d in zip(weight.shape[2:], dilations)]


@op('linear')
def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
    """``x @ weight.T + bias``; ``weight`` is (D_out, D_in)."""
    kind = torch.promote_types(x.dtype, weight.dtype)
    shift = None if bias is None else bias.to(kind)
    return F.linear(x.to(kind), weight.to(kind), shift)


@op('matmul')
def matmul(x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False) -> Tensor:
    """Batched matrix product with NumPy broadcasting.

    An integer tensor times a constant of floats, or the reverse (iOS 17), is
    computed in floats.
    """
    kind = torch.promote_types(x.dtype, y.dtype)
    x, y = x.to(kind), y.to(kind)
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


_AVG: dict[int, Any] = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}
_MAX: dict[int, Any] = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}


@op('max_pool')
def max_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Optional[Sequence[int]] = None,
    pad: Optional[Sequence[int]] = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Maximum over each window; padding never wins. ``x`` is (N, C, *D)."""
    strides = strides or [1] * len(kernel_sizes)
    pads = resolve_pads(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _MAX[len(kernel_sizes)]
    if _is_native(pads, kernel_sizes):
        before = [pair[0] for pair in pads]
        return pool(x, kernel_sizes, strides, before, 1, ceil_mode)
    _require_floor(ceil_mode, pads)
    return pool(pad_spatial(x, pads, -math.inf), kernel_sizes, strides)


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

    With ``exclude_padding_from_average`` the divisor counts the elements
    inside the input only, else the whole window.
    """
    strides = strides or [1] * len(kernel_sizes)
    pads = resolve_pads(pad_type, pad, x.shape[2:], kernel_sizes, strides)
    pool = _AVG[len(kernel_sizes)]
    count_padding = not exclude_padding_from_average
    if _is_native(pads, kernel_sizes):
        before = [pair[0] for pair in pads]
        return pool(x, kernel_sizes, strides, before, ceil_mode, count_padding)
    _require_floor(ceil_mode, pads)
    means = pool(pad_spatial(x, pads), kernel_sizes, strides)
    if count_padding:
        return means
    inside = pad_spatial(torch.ones_like(x), pads)
    return means / pool(inside, kernel_sizes, strides)


@op('l2_pool')
def l2_pool(
    x: Tensor,
    kernel_sizes: Sequence[int],
    pad_type: str,
    strides: Optional[Sequence[int]] = None,
    pad: Optional[Sequence[int]] = None,
    ceil_mode: bool = False,
) -> Tensor:
    """Square root of the sum of squares over each window."""
    means = avg_pool(x.square(), kernel_sizes, pad_type, strides, pad, False, ceil_mode)
    if not ceil_mode:
        return torch.sqrt(means * math.prod(kernel_sizes))
    raise ProgramError('l2_pool with ceil_mode is not implemented')


def _is_native(pads: Pads, kernel: Sequence[int]) -> bool:
    """Whether torch's pooling accepts the pads: symmetric, <= kernel / 2."""
    return all(before == after and 2 * before <= k for (before, after), k in zip(pads, kernel))


def _require_floor(ceil_mode: bool, pads: Pads) -> None:
    if ceil_mode:
        raise ProgramError(
            f'pooling with ceil_mode needs symmetric pads of at most half '
            f'the kernel, got (before, after) = {pads}'
        )
