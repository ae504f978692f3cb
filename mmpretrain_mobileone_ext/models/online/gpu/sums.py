"""The pivot around which patches are summed, and what is left of a variance by then."""
# ruff: noqa: N803 (Triton's language: sizes in capitals)

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from .launch import work_dtype

#: A variance smaller than this share of ``sum_t w_t^2 E[p_t^2]``, p around the pivot, has lost
#: digits. Float32 sums are of few pixels here, so what they lose is little (see ``least_share`` of
#: batch_fold.py); a share that depends on the count would compile a kernel for each batch size.
CANCELLATION = 1e-3
#: Pixels that are asked for a typical value.
_SAMPLE = 256


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
