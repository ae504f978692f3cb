"""First and second moments of convolution patches over a batch."""
from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

#: Up to this many taps everything small is computed in float64: it costs
#: nothing there, and a sum over many pixels deserves it.
_DOUBLE_TAPS = 64


@dataclass(frozen=True)
class Moments:
    """Moments of the patches ``p`` that a convolution reads.

    A patch has P = kernel_size^2 * in_channels / groups taps; G groups.

    Attributes:
        mean: (G, P), E[p], in float64.
        cov: (G, P, P), E[p p^T] - mean mean^T (biased, as batch norm
            normalizes).
        power: (G, P), E[p^2].
    """
    mean: Tensor
    cov: Tensor
    power: Tensor


@dataclass(frozen=True)
class PatchSums:
    """Sums over patches, from which moments come.

    Attributes:
        count: patches summed over.
        sums: (G, P) float64.
        products: (G, P, P) float64, of p p^T.
    """
    count: float
    sums: Tensor
    products: Tensor

    def reduced(self, group: Any) -> PatchSums:
        """Those of all ranks of a process group; None: of this rank."""
        if group is None:
            return self
        sums, products = self.sums, self.products
        own = torch.cat([sums.new_tensor([self.count]), sums.flatten(),
                         products.flatten()])
        dist.all_reduce(own, group=group)
        return PatchSums(round(own[0].item()),
                         own[1:1 + sums.numel()].view_as(sums),
                         own[1 + sums.numel():].view_as(products))

    def moments(self, dtype: torch.dtype) -> Moments:
        """Moments in ``dtype``; ``mean`` stays in float64."""
        mean = self.sums / self.count
        cov = torch.baddbmm(self.products, mean.unsqueeze(2),
                            mean.unsqueeze(1), beta=1 / self.count, alpha=-1)
        power = self.products.diagonal(dim1=1, dim2=2) / self.count
        return Moments(mean, cov.to(dtype), power.to(dtype))


def work_dtype(taps: int, dtype: torch.dtype) -> torch.dtype:
    """Type of everything as small as weights, for tensors of ``dtype``."""
    if taps <= _DOUBLE_TAPS:
        return torch.float64
    return torch.promote_types(dtype, torch.float32)
