"""Sums of patches around a pivot, and the pivot."""
# ruff: noqa: N803 (Triton's language: sizes in capitals)

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..batch_fold import PatchSums
from .launch import work_dtype

#: Pixels that are asked for a typical value.
_SAMPLE = 256


@dataclass(frozen=True)
class PivotedSums(PatchSums):
    """Sums over patches minus the pivot; outside the image that is -pivot.

    Attributes:
        pivot: (C_in,) in float32 or wider.
    """

    pivot: Tensor


def sample_mean(x: Tensor) -> Tensor:
    """Mean of up to 256 pixels, spread evenly over a batch (N, H, W, C), as (C,)."""
    channels = x.shape[-1]
    count = x.numel() // channels
    mean = torch.empty(channels, dtype=work_dtype(x), device=x.device)
    grid = (triton.cdiv(channels, 32),)
    _sample_mean[grid](x, mean, count, min(count, _SAMPLE), channels, BLOCK=64, CHANNELS=32)
    return mean


@triton.jit
def _sample_mean(x, mean, NUM_PIXELS, NUM, C, BLOCK: tl.constexpr, CHANNELS: tl.constexpr):
    channel = tl.program_id(0) * CHANNELS + tl.arange(0, CHANNELS)
    total = tl.zeros((BLOCK, CHANNELS), tl.float64)
    for first in range(0, NUM, BLOCK):
        sample = first + tl.arange(0, BLOCK)
        pixel = sample.to(tl.int64) * NUM_PIXELS // NUM
        mask = (sample < NUM)[:, None] & (channel < C)[None, :]
        total += tl.load(x + pixel[:, None] * C + channel[None, :], mask=mask, other=0)
    found = tl.sum(total, 0) / NUM
    tl.store(mean + channel, found.to(mean.dtype.element_ty), mask=channel < C)
