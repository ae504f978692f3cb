"""Train or evaluate a unit whose norms use their running statistics."""
from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from .batch_fold import NormStats
from .moments import work_dtype
from .unit import Unit


def running_form(unit: Unit, x: Tensor) -> Tensor:
    """Sum of all branches of ``x``, activated, by running statistics.

    Differentiable to kernels, gammas and betas.
    """
    shape, spec = unit.kernel_shape, unit.spec
    like = x.new_empty((), dtype=work_dtype(shape.taps, x.dtype))
    params = unit.parameters
    if torch.is_grad_enabled():
        # Gradients through a concatenation are views of one tensor; those
        # through a product are tensors of their own.
        params = [None if p is None else p * 1 for p in params]
    kernels, gamma, beta = shape.stack_all(params, like)
    mean = shape.stack_channels([n.running_mean for n in unit.norms], 0, like)
    var = shape.stack_channels([n.running_var for n in unit.norms], 0, like)
    eps = like.new_tensor(unit.eps).view(1, -1, 1)
    stats = NormStats(mean, (var + eps).rsqrt())
    out = F.conv2d(
        x,
        shape.as_weight(stats.weight(kernels, gamma), x.dtype),
        stats.bias(gamma, beta).flatten().to(x.dtype),
        stride=spec.stride,
        padding=spec.padding,
        dilation=spec.dilation,
        groups=spec.groups)
    return F.relu_(out) if unit.relu else out
