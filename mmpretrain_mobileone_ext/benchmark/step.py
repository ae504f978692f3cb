"""One training step of one form on one fixed batch, and its time."""
from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Optional

import torch
from torch import Tensor

from .candidates import Candidate


@dataclass(frozen=True)
class Batch:
    """Images and what their last feature maps are weighted with.

    Attributes:
        images: (N, 3, S, S), contiguous, in [0, 1).
        probe: like the last feature map, in [-1, 1); the loss is
            ``(last_map * probe).sum()``, in float32 or wider.
    """
    images: Tensor
    probe: Tensor

    def to(self, *args) -> Batch:
        """As of ``torch.Tensor.to``."""
        return Batch(self.images.to(*args), self.probe.to(*args))


def make_batch(candidate: Candidate, batch: int, size: int, seed: int,
               device: str) -> Batch:
    """A batch from a seed, float32; the same on every device.

    ``candidate`` tells the channels of the last feature map.
    """
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, size, size, generator=rng)
    shape = _map_shape(candidate, images)
    probe = torch.rand(shape, generator=rng) * 2 - 1
    return Batch(images, probe).to(device)


@torch.no_grad()
def _map_shape(candidate: Candidate, images: Tensor) -> torch.Size:
    """From one image in eval mode, which changes no running statistics."""
    like = next(candidate.net.parameters())
    candidate.net.eval()
    shape = candidate.last_map(images[:1].to(like)).shape
    candidate.net.train()
    return torch.Size((len(images), *shape[1:]))


@dataclass(frozen=True)
class Lap:
    """Time of a step, in ms."""
    forward_ms: float
    backward_ms: float


@dataclass(frozen=True)
class TrainingStep:
    """Forward, loss and backward; no optimizer.

    Attributes:
        candidate: whose step it is.
        data: the batch.
        amp: dtype of autocast around the forward pass, or None.
    """
    candidate: Candidate
    data: Batch
    amp: Optional[str] = None

    @property
    def device(self) -> str:
        return self.data.images.device.type

    def clear(self) -> None:
        """Set all gradients to None."""
        self.candidate.net.zero_grad(set_to_none=True)

    def forward(self) -> Tensor:
        """The scalar loss."""
        return weighted_sum(self.last_map(), self.data.probe)

    def last_map(self) -> Tensor:
        """The last feature map, (N, C, S / 32, S / 32)."""
        with self._autocast():
            return self.candidate.last_map(self.data.images)

    def _autocast(self) -> AbstractContextManager:
        if self.amp is None:
            return nullcontext()
        return torch.autocast(self.device, getattr(torch, self.amp))

    def run(self) -> Lap:
        """One step from cleared to cleared gradients; only it is timed."""
        self.clear()
        timed = _timed_on_cuda if self.device == 'cuda' else _timed_on_cpu
        lap = timed(self.forward)
        self.clear()
        return lap


def weighted_sum(last_map: Tensor, probe: Tensor) -> Tensor:
    """The fixed loss, in the probe's dtype."""
    return (last_map.to(probe.dtype) * probe).sum()


def _timed_on_cpu(forward: Callable[[], Tensor]) -> Lap:
    start = time.perf_counter()
    loss = forward()
    middle = time.perf_counter()
    loss.backward()
    end = time.perf_counter()
    return Lap(1000 * (middle - start), 1000 * (end - middle))


def _timed_on_cuda(forward: Callable[[], Tensor]) -> Lap:
    """By events, so that nothing waits between forward and backward."""
    start, middle, end = (
        torch.cuda.Event(enable_timing=True) for _ in range(3))
    torch.cuda.synchronize()
    start.record()
    loss = forward()
    middle.record()
    loss.backward()
    end.record()
    torch.cuda.synchronize()
    return Lap(start.elapsed_time(middle), middle.elapsed_time(end))
