"""What a training step keeps, and by how much memory grows during it."""
from __future__ import annotations

import ctypes
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Optional

import torch
from torch import Tensor

from .step import TrainingStep

_PROC = Path('/proc/self')
#: Limit and use of this process's memory group, where there is one.
_GROUP = Path('/sys/fs/cgroup')
#: What "saved" means, for tables and files.
SAVED_NOTE = ('saved: distinct storages that autograd keeps from forward to '
              'backward, without those of parameters, buffers, the images '
              'and the loss weights; 1 MB = 1e6 bytes')
PEAK_NOTE = ('peak: growth of memory during a step, gradients included '
             "(CPU: the process's resident set; CUDA: torch's allocator)")


def saved_bytes(step: TrainingStep) -> int:
    """Bytes of the storages that a forward pass keeps for backward.

    Each storage counts once and whole; see ``SAVED_NOTE``.
    """
    net, data = step.candidate.net, step.data
    known = _pointers(
        [data.images, data.probe, *net.parameters(), *net.buffers()])
    saved: dict[int, torch.UntypedStorage] = {}

    def pack(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        # Held, so that its address cannot be given to another one.
        saved[storage.data_ptr()] = storage
        # An output that its own node keeps would never be freed.
        return tensor.detach()

    with torch.autograd.graph.saved_tensors_hooks(pack, _unpack):
        step.forward()
    return sum(s.nbytes() for p, s in saved.items() if p not in known)


def _unpack(tensor: Tensor) -> Tensor:
    return tensor


def _pointers(tensors: Iterable[Tensor]) -> set[int]:
    return {t.untyped_storage().data_ptr() for t in tensors}


def peak_bytes(step: TrainingStep) -> Optional[int]:
    """Growth of memory during a step; None where the system cannot say."""
    if step.device == 'cuda':
        return _cuda_peak(step)
    return _resident_peak(step)


def _cuda_peak(step: TrainingStep) -> int:
    step.clear()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step.run()
    return torch.cuda.max_memory_allocated() - before


def _resident_peak(step: TrainingStep) -> Optional[int]:
    """From the kernel's high-water mark, reset before the step (Linux)."""
    step.clear()
    _give_back_free_memory()
    before = _status('VmRSS')
    try:
        (_PROC / 'clear_refs').write_text('5', 'utf-8')
    except OSError:
        return None
    step.run()
    after = _status('VmHWM')
    return None if before is None or after is None else after - before


def _give_back_free_memory() -> None:
    """Freed heap that stays resident would hide what a step needs."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


def _status(key: str) -> Optional[int]:
    """A kB line of /proc/self/status, in bytes."""
    return _kilobytes(_PROC / 'status', key)


def _kilobytes(path: Path, key: str) -> Optional[int]:
    try:
        lines = path.read_text('utf-8').splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f'{key}:')]
    return 1024 * int(found[0]) if found else None


def free_bytes(device: str) -> Optional[int]:
    """Memory that can still be taken; None where the system does not say."""
    if device == 'cuda':
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    known = [n for n in (_kilobytes(Path('/proc/meminfo'), 'MemAvailable'),
                         _group_bytes()) if n is not None]
    return min(known) if known else None


def _group_bytes() -> Optional[int]:
    """What a container's limit leaves (control groups, version 2)."""
    try:
        limit, used = ((_GROUP / f'memory.{name}').read_text('utf-8').strip()
                       for name in ('max', 'current'))
        return int(limit) - int(used)
    except (OSError, ValueError):  # no group, or its limit is "max"
        return None
