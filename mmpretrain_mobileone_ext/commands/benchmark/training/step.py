"""One training step on one fixed batch: its time, its memory, and how far both can grow."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from typing import Any, Optional

import torch
from torch import Tensor

from ....utils.machine import free_bytes, peak_bytes, reset_peak, used_bytes
from .candidates import Candidate
from .options import BenchmarkOptions
from .results import Case

#: A step needs more than what is saved: gradients and working space.
ROOM = 1.5
#: A step longer than this is not worth waiting for.
MAX_STEP_S = 60.0
#: What "saved" means, for tables and files.
SAVED_NOTE = (
    'saved: distinct storages that autograd keeps from forward to backward, without those of '
    'parameters, buffers, the images and the loss weights; 1 MB = 1e6 bytes'
)
PEAK_NOTE = (
    'peak: growth of memory during a step, gradients included '
    "(CPU: the process's resident set; CUDA: torch's allocator)"
)


@dataclass(frozen=True)
class Batch:
    """Images and what their last feature maps are weighted with.

    Attributes:
        images: (N, 3, S, S), in [0, 1).
        probe: like the last feature map, in [-1, 1); the loss is ``(last_map * probe).sum()``, in
            float32 or wider.
    """

    images: Tensor
    probe: Tensor

    def to(self, *args: Any, **kwargs: Any) -> Batch:
        """As of ``torch.Tensor.to``."""
        return Batch(self.images.to(*args, **kwargs), self.probe.to(*args, **kwargs))


def make_batch(
    candidate: Candidate, batch: int, size: int, seed: int, device: str, channels_last: bool = False
) -> Batch:
    """A batch from a seed, float32; the same on every device.

    ``candidate`` tells the channels of the last feature map.
    """
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(batch, 3, size, size, generator=rng)
    shape = _map_shape(candidate, images)
    probe = torch.rand(shape, generator=rng) * 2 - 1
    data = Batch(images, probe).to(device)
    return data.to(memory_format=torch.channels_last) if channels_last else data


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
    start, middle, end = (torch.cuda.Event(enable_timing=True) for _ in range(3))
    torch.cuda.synchronize()
    start.record()
    loss = forward()
    middle.record()
    loss.backward()
    end.record()
    torch.cuda.synchronize()
    return Lap(start.elapsed_time(middle), middle.elapsed_time(end))


def saved_bytes(step: TrainingStep) -> int:
    """Bytes of the storages that a forward pass keeps for backward.

    Each storage counts once and whole; see ``SAVED_NOTE``.
    """
    net, data = step.candidate.net, step.data
    inputs = (data.images, data.probe, *net.parameters(), *net.buffers())
    known = {t.untyped_storage().data_ptr() for t in inputs}
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Held, so that its address cannot be given to another one.
        saved[storage.data_ptr()] = storage
        # An output that its own node keeps would never be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        step.forward()
    return sum(s.nbytes() for p, s in saved.items() if p not in known)


def peak_growth(step: TrainingStep) -> Optional[int]:
    """Growth of memory during a step; None where the system cannot say."""
    device = step.data.images.device
    step.clear()
    if device.type == 'cpu':
        # Freed heap that stays resident would hide what a step needs.
        with suppress(AttributeError, OSError):  # another C library
            ctypes.CDLL(None).malloc_trim(0)
    before = used_bytes(device)
    if not reset_peak(device):
        return None
    step.run()
    after = peak_bytes(device)
    return None if before is None or after is None else after - before


@dataclass
class Forecast:
    """Predicts a case of an architecture from the largest one measured.

    Both time and saved bytes grow with the number of pixels; fixed parts make small cases predict
    too much, never too little.
    """

    bytes_per_pixel: float = 0.0
    ms_per_pixel: float = 0.0

    def learn(self, case: Case) -> None:
        """Take the costlier form of a measured case."""
        saved = [c.saved_bytes for c in case.costs if c.saved_bytes]
        times = [c.median_ms for c in case.costs if c.median_ms]
        if saved and times:
            self.bytes_per_pixel = max(saved) / case.pixels
            self.ms_per_pixel = max(times) / case.pixels

    def refusal(self, pixels: int, free: Optional[int]) -> Optional[str]:
        """Why a case with so many pixels should not be run, or None.

        Args:
            pixels: of all images together.
            free: bytes that can be taken; None where unknown.
        """
        need = ROOM * self.bytes_per_pixel * pixels
        seconds = self.ms_per_pixel * pixels / 1000
        if free is not None and need > free:
            return f'needs about {need / 1e9:.1f} GB, {free / 1e9:.1f} GB are free'
        if seconds > MAX_STEP_S:
            return f'a step would take about {seconds:.0f} s, more than {MAX_STEP_S:.0f} s'
        return None


def sweep_cases(
    options: BenchmarkOptions, measure: Callable[[str, int, int], Case]
) -> Iterator[Case]:
    """Measure the grid, small shapes of an architecture first.

    Yields every case: measured, or with the reason why it was skipped.

    Args:
        options: architectures, batches, sizes and the device.
        measure: measures (arch, batch, size).
    """
    forecasts = {arch: Forecast() for arch in options.arch or ()}
    for arch, batch, size in options.cases():
        free = free_bytes(options.device)
        refusal = forecasts[arch].refusal(batch * size**2, free)
        if refusal:
            yield Case(arch, batch, size, skipped=refusal)
            continue
        case = measure(arch, batch, size)
        forecasts[arch].learn(case)
        yield case


def rated(cases: Sequence[Case], form: str, reference: str) -> list[tuple[float, Case]]:
    """(ratio, case) of the cases in which both forms ran, worst first."""
    found = [(c.ratio(form, reference), c) for c in cases]
    return sorted(((r, c) for r, c in found if r is not None), key=lambda pair: -pair[0])
