"""What the forms see of a unit: its branches as tensors and norms."""
from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

import torch
import torch.distributed as dist
from mmcv.cnn import Conv2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ...spec import UnitSpec
from ..sync_norm import CPUSyncBatchNorm, several_ranks
from .branch_stack import KernelShape
from .torch_state import has_global_hooks

#: mmcv's ``Conv2d`` ('Conv') computes the same; ConvWS, DCN, ... do not.
PLAIN_CONVS = (nn.Conv2d, Conv2d)
_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, CPUSyncBatchNorm)
_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks',
          '_backward_pre_hooks')


@dataclass(frozen=True)
class UnitBranch:
    """A branch: its convolution (None: the skip branch) and its norm."""
    conv: Optional[nn.Conv2d]
    norm: Any

    @property
    def kernel(self) -> Optional[Tensor]:
        return None if self.conv is None else self.conv.weight


@dataclass(frozen=True)
class Unit:
    """A unit in branch form.

    Attributes:
        spec: its shape.
        branches: in the order in which they are summed.
        relu: whether a ReLU comes next, to be part of the form.
    """
    spec: UnitSpec
    branches: tuple[UnitBranch, ...]
    relu: bool = False

    @property
    def kernel_shape(self) -> KernelShape:
        spec = self.spec
        return KernelShape(spec.out_channels, spec.groups,
                           spec.in_channels // spec.groups, spec.kernel_size)

    @functools.cached_property
    def norms(self) -> list[Any]:
        return [b.norm for b in self.branches]

    @functools.cached_property
    def parameters(self) -> list[Optional[Tensor]]:
        """Kernels, then gammas, then betas, of all branches."""
        return ([b.kernel for b in self.branches]
                + [n.weight for n in self.norms]
                + [n.bias for n in self.norms])

    @property
    def eps(self) -> list[float]:
        return [n.eps for n in self.norms]

    @property
    def by_batch(self) -> Optional[bool]:
        """Whether norms use the batch's statistics; None where they differ.

        Otherwise they use running statistics.
        """
        found = {n.training or n.running_mean is None or n.running_var is None
                 for n in self.norms}
        return found.pop() if len(found) == 1 else None

    def group(self) -> Any:
        """Process group over which statistics are reduced, or None."""
        norm = self.norms[0]
        if type(norm) is nn.BatchNorm2d or not norm.training:
            return None
        group = getattr(norm, 'process_group', None)
        if not several_ranks(group):
            return None
        return group or dist.group.WORLD

    def is_plain(self) -> bool:
        """Whether the tensors are all there is to the branches.

        Hooks, parametrizations, norms and convolutions with arithmetic of
        their own are not seen by any form but the branches themselves.
        """
        modules = [m for b in self.branches for m in (b.conv, b.norm)
                   if m is not None]
        return (all(type(b.conv) in PLAIN_CONVS and b.conv.bias is None
                    and b.conv.padding_mode == 'zeros'
                    for b in self.branches if b.conv is not None)
                and all(type(b.norm) in _NORMS for b in self.branches)
                and len({type(b.norm) for b in self.branches}) == 1
                and not has_hooks(modules))


def has_hooks(modules: Sequence[nn.Module]) -> bool:
    """Whether anything watches or alters what these modules compute."""
    return has_global_hooks() or any(
        'parametrizations' in m._modules
        or any(vars(m).get(hooks) for hooks in _HOOKS) for m in modules)


def running_stats(norm: _BatchNorm) -> tuple[Any, Any, bool, float]:
    """Running mean and variance to update (or None), True, and the rate.

    As ``norm`` itself does on a forward pass in training mode: the batch is
    counted, and without a ``momentum`` the average is cumulative. The first
    arguments of ``torch.native_batch_norm`` after the affine ones.
    """
    if not _tracks(norm):
        return None, None, True, 0.
    _count_batch([norm])
    return norm.running_mean, norm.running_var, True, _rate(norm)


def track(norms: Sequence[Any], mean: Tensor, var: Tensor,
          count: float) -> None:
    """Update running statistics as the norms themselves would.

    Args:
        mean: (len(norms), C) of the batch.
        var: (len(norms), C) of the batch, biased.
        count: values per channel; the running variance is unbiased.
    """
    _count_batch([norm for norm in norms if _tracks(norm)])
    tracking = [index for index, norm in enumerate(norms)
                if _tracks(norm) and norm.running_mean is not None]
    if not tracking:
        return
    dtype = norms[tracking[0]].running_mean.dtype
    batch = torch.stack([mean, var * (count / (count - 1))], 1).to(dtype)
    values = batch.unbind()
    updates: dict[float, tuple[list, list]] = {}
    for index in tracking:
        norm = norms[index]
        olds, news = updates.setdefault(_rate(norm), ([], []))
        olds += [norm.running_mean, norm.running_var]
        news += values[index].unbind()
    for rate, (olds, news) in updates.items():
        torch._foreach_lerp_(olds, news, rate)


def _tracks(norm: _BatchNorm) -> bool:
    return norm.training and norm.track_running_stats


def _count_batch(norms: Sequence[_BatchNorm]) -> None:
    counts = [norm.num_batches_tracked for norm in norms
              if norm.num_batches_tracked is not None]
    if counts:
        torch._foreach_add_(counts, 1)


def _rate(norm: _BatchNorm) -> float:
    """Weight of the newest batch, already counted, in running statistics."""
    if norm.momentum is not None or norm.num_batches_tracked is None:
        return norm.momentum or 0.
    return 1 / float(norm.num_batches_tracked)
