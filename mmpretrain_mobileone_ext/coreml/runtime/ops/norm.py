"""MIL normalizations (coremltools ``mil.ops.defs.iOS15.normalization``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import op


@op('batch_norm', fresh=True)
def batch_norm(
    x: Tensor,
    mean: Tensor,
    variance: Tensor,
    gamma: Optional[Tensor] = None,
    beta: Optional[Tensor] = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """``gamma (x - mean) / sqrt(variance + epsilon) + beta``, per channel."""
    return F.batch_norm(x, mean, variance, gamma, beta, False, 0.0, epsilon)


@op('instance_norm')
def instance_norm(
    x: Tensor, gamma: Optional[Tensor] = None, beta: Optional[Tensor] = None, epsilon: float = 1e-5
) -> Tensor:
    """Normalize each channel of each sample; ``x`` is (N, C, *D)."""
    axes = range(2, x.dim())
    return _affine(_standardized(x, axes, epsilon), gamma, beta, [-1, *[1] * len(axes)])


@op('layer_norm')
def layer_norm(
    x: Tensor,
    axes: Optional[Sequence[int]] = None,
    gamma: Optional[Tensor] = None,
    beta: Optional[Tensor] = None,
    epsilon: float = 1e-5,
) -> Tensor:
    """``gamma (x - E[x]) / sqrt(Var[x] + epsilon) + beta`` over ``axes``."""
    rank = x.dim()
    chosen = sorted(axis % rank for axis in axes or range(rank))
    shape = [x.shape[i] if i in chosen else 1 for i in range(rank)]
    return _affine(_standardized(x, chosen, epsilon), gamma, beta, shape)


@op('l2_norm')
def l2_norm(x: Tensor, epsilon: float = 1e-6) -> Tensor:
    """``x / sqrt(sum(x^2) + epsilon)`` over the last three dimensions."""
    total = x.square().sum((-3, -2, -1), keepdim=True)
    return x / torch.sqrt(total + epsilon)


@op('local_response_norm')
def local_response_norm(
    x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0
) -> Tensor:
    """``x / (k + alpha / size * sum(x^2 of neighbors))^beta``.

    Channels are the third dimension from the end. MIL's document says (N, C, *D) of rank 3 or 4,
    which is the same for rank 4. At rank 3 the values in Apple's test of the operation
    (``TestNormalizationLocal ResponseNorm``, measured on devices) and the layer of the same name in
    NeuralNetwork.proto decide: they take (C, H, W).
    """
    squares = x.square().movedim(-3, -1)
    # The window covers size // 2 channels before the current one.
    padded = F.pad(squares, (size // 2, (size - 1) // 2))
    total = padded.unfold(-1, size, 1).sum(-1).movedim(-1, -3)
    return x / (k + alpha / size * total) ** beta


def _standardized(x: Tensor, axes: Sequence[int], epsilon: float) -> Tensor:
    """Subtract the mean, divide by the biased standard deviation."""
    dims = tuple(axes)
    centered = x - x.mean(dims, keepdim=True)
    variance = centered.square().mean(dims, keepdim=True)
    return centered / torch.sqrt(variance + epsilon)


def _affine(
    x: Tensor, gamma: Optional[Tensor], beta: Optional[Tensor], shape: Sequence[int]
) -> Tensor:
    scaled = x if gamma is None else x * gamma.reshape(shape)
    return scaled if beta is None else scaled + beta.reshape(shape)
