"""Quantization of activations (MIL iOS 17 ``quantization_ops``)."""

from __future__ import annotations

from typing import Any, Optional

import torch
from torch import Tensor

from .op_registry import op

_RANGES = {'int8': (-128, 127), 'uint8': (0, 255)}


@op('quantize')
def quantize(
    input: Tensor,
    scale: Any,
    output_dtype: str,
    zero_point: Any = None,
    axis: Optional[int] = None,
) -> Tensor:
    """``clip(round(input / scale) + zero_point)``, half to even.

    The integers stay in the dtype of ``input``: fp32 holds them exactly.
    """
    low, high = _RANGES[output_dtype]
    steps = torch.round(input / _along(scale, input, axis))
    return (steps + _along(zero_point, input, axis)).clamp(low, high)


@op('dequantize')
def dequantize(
    input: Tensor,
    scale: Any,
    zero_point: Any = None,
    axis: Optional[int] = None,
) -> Tensor:
    """``scale * (input - zero_point)``."""
    # Numbers of 8 bits would wrap.
    values = input.to(torch.float32)
    shifted = values - _along(zero_point, values, axis)
    return shifted * _along(scale, values, axis)


def _along(parameter: Any, input: Tensor, axis: Optional[int]) -> Any:
    """A number, or one number for each entry of ``axis``; absent is 0."""
    if parameter is None or axis is None:
        return parameter or 0
    shape = [1] * input.dim()
    shape[axis] = -1
    numbers = torch.as_tensor(
        parameter, dtype=input.dtype, device=input.device
    )
    return numbers.reshape(shape)
