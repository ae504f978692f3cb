"""MIL activations and quantization."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import op
from .shared import along, choice

_RANGES = {'int8': (-128, 127), 'uint8': (0, 255)}


@op('relu', selects=True, in_place=lambda x: x.relu_())
def relu(x: Tensor) -> Tensor:
    """``max(x, 0)``."""
    return torch.relu(x)


@op('relu6', fresh=True)
def relu6(x: Tensor) -> Tensor:
    """``min(max(x, 0), 6)``."""
    return x.clamp(0.0, 6.0)


@op('sigmoid', fresh=True)
def sigmoid(x: Tensor) -> Tensor:
    """``1 / (1 + exp(-x))``."""
    return torch.sigmoid(x)


@op('silu', fresh=True)
def silu(x: Tensor) -> Tensor:
    """``x * sigmoid(x)``."""
    return F.silu(x)


@op('softsign', fresh=True)
def softsign(x: Tensor) -> Tensor:
    """``x / (1 + |x|)``."""
    return F.softsign(x)


@op('tanh', fresh=True)
def tanh(x: Tensor) -> Tensor:
    """Hyperbolic tangent."""
    return torch.tanh(x)


@op('clamped_relu')
def clamped_relu(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``min(beta, x)`` if ``x >= 0``, else ``min(beta, alpha * x)``.

    This is MIL's document; for ``beta < 0`` coremltools folds constants to another value,
    ``min(beta, max(x, 0)) + min(beta, alpha * min(x, 0))``.
    """
    return torch.clamp(torch.where(x >= 0, x, alpha * x), max=beta)


@op('leaky_relu')
def leaky_relu(x: Tensor, alpha: float) -> Tensor:
    """``x`` if ``x >= 0``, else ``alpha * x``."""
    return F.leaky_relu(x, alpha)


@op('prelu')
def prelu(x: Tensor, alpha: Tensor) -> Tensor:
    """``x`` if ``x > 0``, else ``alpha[c] * x``; ``x`` is (N, C, ...)."""
    return torch.where(x > 0, x, along(alpha, 1, x.dim()) * x)


@op('elu')
def elu(x: Tensor, alpha: float) -> Tensor:
    """``x`` if ``x > 0``, else ``alpha * (exp(x) - 1)``."""
    return F.elu(x, alpha)


@op('thresholded_relu')
def thresholded_relu(x: Tensor, alpha: float) -> Tensor:
    """``x`` if ``x >= alpha``, else 0; NaN stays NaN, as folded."""
    return torch.where(x < alpha, torch.zeros_like(x), x)


@op('linear_activation')
def linear_activation(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * x + beta``."""
    return alpha * x + beta


@op('sigmoid_hard')
def sigmoid_hard(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``min(max(alpha * x + beta, 0), 1)``."""
    return torch.clamp(alpha * x + beta, 0.0, 1.0)


@op('scaled_tanh')
def scaled_tanh(x: Tensor, alpha: float, beta: float) -> Tensor:
    """``alpha * tanh(beta * x)``."""
    return alpha * torch.tanh(beta * x)


@op('softplus')
def softplus(x: Tensor) -> Tensor:
    """``log(1 + exp(x))``, without overflow."""
    # Not F.softplus: it switches to the identity above a threshold.
    return torch.log1p(torch.exp(-x.abs())) + torch.relu(x)


@op('softplus_parametric')
def softplus_parametric(x: Tensor, alpha: Tensor, beta: Tensor) -> Tensor:
    """``alpha[c] * log(1 + exp(beta[c] * x))``; ``x`` is (N, C, ...)."""
    return along(alpha, 1, x.dim()) * softplus(along(beta, 1, x.dim()) * x)


@op('softmax')
def softmax(x: Tensor, axis: int = -1) -> Tensor:
    """``exp(x) / sum(exp(x), axis)``."""
    return torch.softmax(x, axis)


def _gelu(x: Tensor) -> Tensor:
    return 0.5 * x * (1.0 + torch.erf(x / math.sqrt(2.0)))


def _gelu_by_tanh(x: Tensor) -> Tensor:
    inner = math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)
    return 0.5 * x * (1.0 + torch.tanh(inner))


def _gelu_by_sigmoid(x: Tensor) -> Tensor:
    return x * torch.sigmoid(1.702 * x)


_GELU = {
    'EXACT': _gelu,
    'TANH_APPROXIMATION': _gelu_by_tanh,
    'SIGMOID_APPROXIMATION': _gelu_by_sigmoid,
}


@op('gelu')
def gelu(x: Tensor, mode: str = 'EXACT') -> Tensor:
    """Gaussian error linear unit, ``x Phi(x)``, in one of MIL's three modes."""
    return choice('gelu mode', mode, _GELU)(x)


@op('quantize')
def quantize(
    input: Tensor, scale: Any, output_dtype: str, zero_point: Any = None, axis: Optional[int] = None
) -> Tensor:
    """``clip(round(input / scale) + zero_point)``, half to even.

    The integers stay in the dtype of ``input``: fp32 holds them exactly.
    """
    low, high = _RANGES[output_dtype]
    steps = torch.round(input / _along(scale, input, axis))
    return (steps + _along(zero_point, input, axis)).clamp(low, high)


@op('dequantize')
def dequantize(
    input: Tensor, scale: Any, zero_point: Any = None, axis: Optional[int] = None
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
    values = torch.as_tensor(parameter, dtype=input.dtype, device=input.device)
    return along(values, axis, input.dim())
