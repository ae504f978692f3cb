"""Images as matrices (pixels, channels), a chunk at a time."""
from __future__ import annotations

from typing import Optional

import torch
from torch import Tensor


def pixel_rows(x: Tensor) -> Tensor:
    """Images (N, C, H, W) as (N * H * W, C); no copy in channels_last.

    Contiguous in any case: one image in another layout could be viewed as a
    matrix of strides (1, H * W).
    """
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1]).contiguous()


def chunks(*matrices: Optional[Tensor], most: int) -> list[tuple]:
    """The same pixels of all matrices; None stays None.

    Args:
        most: pixels of a chunk. Chunks are of equal size, but for the last,
            which may be smaller.
    """
    count = next(len(m) for m in matrices if m is not None)
    size = -(-count // -(-count // most))
    return [tuple(None if m is None else m[at:at + size] for m in matrices)
            for at in range(0, count, size)]


def size_for_kernels(pixels: Tensor) -> tuple[int, int, int]:
    """What the kernels of pixels.cpp want to know of a matrix."""
    return (*pixels.shape, torch.get_num_threads())
