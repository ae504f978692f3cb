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
        count: M = N * H_out * W_out, over all ranks.
        mean: (G, P), E[p], in float64.
        cov: (G, P, P), E[p p^T] - mean mean^T (biased, as batch norm
            normalizes).
        power: (G, P), E[p^2].
    """
    count: float
    mean: Tensor
    cov: Tensor
    power: Tensor


def moments_from_sums(count: int, sums: Tensor, products: Tensor,
                      group: Any, dtype: torch.dtype) -> Moments:
    """Turn sums over the patches of this rank into :class:`Moments`.

    Args:
        count: patches summed over.
        sums: (G, P) float64.
        products: (G, P, P) float64.
        group: process group to reduce over, or None for this rank alone.
        dtype: of the images.
    """
    if group is not None:
        own = torch.cat([sums.new_tensor([count]), sums.flatten(),
                         products.flatten()])
        dist.all_reduce(own, group=group)
        count = round(own[0].item())
        sums = own[1:1 + sums.numel()].view_as(sums)
        products = own[1 + sums.numel():].view_as(products)
    mean = sums / count
    cov = torch.baddbmm(products, mean.unsqueeze(2), mean.unsqueeze(1),
                        beta=1 / count, alpha=-1)
    power = products.diagonal(dim1=1, dim2=2) / count
    work = work_dtype(sums.shape[1], dtype)
    return Moments(count, mean, cov.to(work), power.to(work))


def work_dtype(taps: int, dtype: torch.dtype) -> torch.dtype:
    """Type of everything as small as weights, for tensors of ``dtype``."""
    if taps <= _DOUBLE_TAPS:
        return torch.float64
    return torch.promote_types(dtype, torch.float32)
