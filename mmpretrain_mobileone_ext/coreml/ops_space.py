"""MIL operations that trade channels for space (``tensor_transformation``)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from .op_registry import op


@op('pixel_shuffle')
def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """(N, C f^2, H, W) to (N, C, H f, W f); C varies slowest."""
    return F.pixel_shuffle(x, upscale_factor)


@op('pixel_unshuffle')
def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """Inverse of ``pixel_shuffle``."""
    return F.pixel_unshuffle(x, int(downscale_factor))


@op('depth_to_space')
def depth_to_space(x: Tensor, block_size: int) -> Tensor:
    """(N, C b^2, H, W) to (N, C, H b, W b); C varies fastest."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, b, b, c // (b * b), h, w)
    return blocks.permute(0, 3, 4, 1, 5, 2).reshape(n, -1, h * b, w * b)


@op('space_to_depth')
def space_to_depth(x: Tensor, block_size: int) -> Tensor:
    """Inverse of ``depth_to_space``."""
    n, c, h, w = x.shape
    b = block_size
    blocks = x.reshape(n, c, h // b, b, w // b, b)
    return blocks.permute(0, 3, 5, 1, 2, 4).reshape(n, -1, h // b, w // b)
