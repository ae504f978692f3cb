"""The memory layout in which a unit's convolutions run."""
from __future__ import annotations

from torch import Tensor

#: oneDNN (torch 2.14.1, AVX2) corrupts the heap in the weight gradient of a
#: strided 1x1 convolution with 3, 4 or 6 input channels in channels_last.
_VECTOR = 8


def safe_layout(x: Tensor) -> Tensor:
    """x, out of channels_last where that crashes: images, that is."""
    if x.device.type == 'cpu' and x.dim() == 4 and x.shape[1] < _VECTOR:
        return x.contiguous()
    return x


def branch_layout(x: Tensor, groups: int) -> Tensor:
    """x, out of channels_last where torch's branches crash or crawl.

    On a CPU depthwise branches take up to twice as long in it; units in
    another form hand it on.
    """
    if x.device.type == 'cpu' and groups > 1:
        return x.contiguous()
    return safe_layout(x)
