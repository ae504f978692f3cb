"""The memory layout in which torch's own operators run a unit's branches."""
from __future__ import annotations

from torch import Tensor


def branch_layout(x: Tensor) -> Tensor:
    """x (N, C, H, W), out of channels_last on a CPU.

    There (torch 2.14.1, AVX2), in channels_last, batch norm adds up pixel by
    pixel in float32 and is off by 2e-5 where it otherwise is by 4e-8 (32 x
    128 x 28²); oneDNN's convolutions of 256 channels round 1.4 times as
    much; the weight gradient of a strided 1x1 convolution with 3, 4 or 6
    input channels corrupts the heap; and depthwise convolutions take up to
    twice as long.
    """
    return x.contiguous() if x.device.type == 'cpu' else x
