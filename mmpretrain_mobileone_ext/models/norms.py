"""Batch norms: their running statistics, synchronized norms, and norms that leave no trace."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, Optional

import torch
import torch.distributed as dist
from mmengine.registry import MODELS
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..utils.checks import boolean, integer, number
from .quantization import Quantizer


class _SumOverRanks(torch.autograd.Function):
    """Sum a tensor over all ranks; each rank has a gradient to every one."""

    @staticmethod
    def forward(ctx, own: Tensor) -> Tensor:
        total = own.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        total = grad.clone()
        dist.all_reduce(total)
        return total


def sum_over_ranks(own: Tensor) -> Tensor:
    """Differentiable ``dist.all_reduce``."""
    return _SumOverRanks.apply(own)


def several_ranks(group: Any = None) -> bool:
    """Whether there is more than one process (in ``group``)."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size(group) > 1


@MODELS.register_module('CPUSyncBN')
class CPUSyncBatchNorm(nn.BatchNorm2d):
    """What ``nn.SyncBatchNorm`` computes, for ranks on CPUs.

    torch's own refuses to train there, and DDP refuses to wrap it. Mean and biased variance are
    those of the joined batch of all ranks, in two passes, and gradients flow through both
    reductions. In eval mode and in one process it is ``nn.BatchNorm2d``; parameters, buffers and
    the fold are the same. On GPUs ``SyncBN`` is faster.

    Use as ``norm_cfg=dict(type='CPUSyncBN')``; ranks may have batches of different size. Arguments
    are those of ``nn.BatchNorm2d``.

    Raises:
        SpecError: an argument of a wrong type.
    """

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: Optional[float] = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
    ):
        integer('CPUSyncBN: num_features', num_features, 1)
        number('CPUSyncBN: eps', eps)
        if momentum is not None:
            number('CPUSyncBN: momentum', momentum, 0, 1)
        boolean('CPUSyncBN: affine', affine)
        boolean('CPUSyncBN: track_running_stats', track_running_stats)
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Normalize (N, C, H, W) over N, H, W of all ranks."""
        if not (self.training and several_ranks()):
            return super().forward(x)
        shape, dims = [1, -1, 1, 1], [0, 2, 3]
        # The count travels as one more channel of the sums.
        own = x.new_full((1,), x.numel() / x.shape[1])
        sums = sum_over_ranks(torch.cat([x.sum(dims), own]))
        count = sums[-1].detach()
        mean = sums[:-1] / count
        centered = x - mean.view(shape)
        var = sum_over_ranks(centered.square().sum(dims)) / count
        self._track(mean.detach(), var.detach(), count)
        out = centered * (var + self.eps).rsqrt().view(shape)
        if self.affine:
            out = out * self.weight.view(shape) + self.bias.view(shape)
        return out

    def _track(self, mean: Tensor, var: Tensor, count: Tensor) -> None:
        """Update running statistics as batch norm does (unbiased)."""
        if (
            self.running_mean is None
            or self.running_var is None
            or self.num_batches_tracked is None
        ):
            return
        self.num_batches_tracked.add_(1)
        rate = self.momentum
        if rate is None:
            rate = 1 / float(self.num_batches_tracked)
        unbiased = var * count / (count - 1)
        self.running_mean.lerp_(mean.to(self.running_mean), rate)
        self.running_var.lerp_(unbiased.to(self.running_var), rate)


def track(norms: Sequence[Any], stats: Tensor) -> None:
    """Update running statistics as the norms themselves would.

    The batch is counted; without a ``momentum`` the average is cumulative.

    Args:
        stats: (2, len(norms), C), means and unbiased variances of the batch.
    """
    tracking = [i for i, n in enumerate(norms) if n.training and n.track_running_stats]
    counts = [norms[i].num_batches_tracked for i in tracking]
    counts = [count for count in counts if count is not None]
    if counts:
        torch._foreach_add_(counts, 1)
    updates: dict[Any, tuple[list, list]] = {}
    means, variances = (v.unbind() for v in stats.to(_running_dtype(norms)).unbind())
    for index in tracking:
        norm = norms[index]
        if norm.running_mean is None:
            continue
        cumulative = norm.momentum is None and norm.num_batches_tracked is not None
        rate = index if cumulative else norm.momentum or 0.0
        olds, news = updates.setdefault((cumulative, rate), ([], []))
        olds += [norm.running_mean, norm.running_var]
        news += [means[index], variances[index]]
    for (cumulative, rate), (olds, news) in updates.items():
        if cumulative:
            share = norms[rate].num_batches_tracked.to(olds[0].dtype).reciprocal()
            for old, new in zip(olds, news):
                old.lerp_(new, share)
        else:
            torch._foreach_lerp_(olds, news, rate)


def _running_dtype(norms: Sequence[Any]) -> torch.dtype:
    kept = (n.running_mean.dtype for n in norms if n.running_mean is not None)
    return next(kept, torch.float32)


@contextmanager
def shielded_stats(module: nn.Module):
    """Let batch norms and quantizers run without touching what they keep of batches.

    Buffers are swapped for copies rather than restored in place: autograd may hold the originals.
    """
    kinds = (_BatchNorm, Quantizer)
    kept = [(m, dict(m._buffers)) for m in module.modules() if isinstance(m, kinds)]
    for keeper, buffers in kept:
        keeper._buffers.update({k: None if v is None else v.clone() for k, v in buffers.items()})
    try:
        yield
    finally:
        for keeper, buffers in kept:
            keeper._buffers.update(buffers)
