"""The machine that something runs on: what it is, its threads and memory, the random state.

Memory of the process is read from ``/proc``: ``psutil`` knows neither the high-water mark of Linux,
nor how to reset it, nor the limit of a container.
"""

from __future__ import annotations

import os
import platform
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import metadata
from pathlib import Path
from typing import Any, Optional

import numpy as np
import torch

from ..errors import SpecError

_PACKAGES = (
    'torch',
    'mmpretrain',
    'mmengine',
    'mmcv',
    'mmcv-lite',
    'timm',
    'mmpretrain-mobileone-ext',
)
_PROC = Path('/proc/self')
#: Limit and use of this process's memory group, where there is one.
_GROUP = Path('/sys/fs/cgroup')


def machine(device: str) -> dict[str, Any]:
    """Processor, cores, load and versions, for people and for JSON."""
    return dict(
        cpu=_cpu_model(),
        cores=_usable_cores(),
        load=os.getloadavg() if hasattr(os, 'getloadavg') else None,
        capability=torch.backends.cpu.get_cpu_capability(),
        gpu=torch.cuda.get_device_name() if device == 'cuda' else None,
        system=platform.platform(),
        python=platform.python_version(),
        versions=_versions(),
    )


def check_device(device: str) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        SpecError: 'cuda' without a usable GPU.
    """
    if device == 'cuda' and not torch.cuda.is_available():
        raise SpecError("device 'cuda': torch finds no usable GPU here")


@contextmanager
def torch_threads(count: int) -> Iterator[None]:
    """Let torch use so many threads inside an operation, for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def tf32(allowed: Optional[bool] = None) -> Iterator[dict[str, bool]]:
    """Let CUDA round float32 products and convolutions to TF32, or not, for a while.

    Args:
        allowed: for both; None leaves them as they are.

    Yields:
        Whether each of them may.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32
    if allowed is not None:
        matmul.allow_tf32 = cudnn.allow_tf32 = allowed
    try:
        yield dict(products=matmul.allow_tf32, convolutions=cudnn.allow_tf32)
    finally:
        matmul.allow_tf32, cudnn.allow_tf32 = before


def _cpu_model() -> str:
    try:
        lines = Path('/proc/cpuinfo').read_text('utf-8', errors='replace').splitlines()
    except OSError:
        lines = []
    names = [x.split(':', 1)[1].strip() for x in lines if x.startswith('model name')]
    return names[0] if names else platform.processor() or platform.machine()


def _usable_cores() -> int:
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def reset_peak(device: torch.device) -> bool:
    """Forget what was before: torch's peak, or Linux's high-water mark.

    Returns:
        False where the system cannot forget: the peak is then that since the start of the
        process.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return True
    try:
        (_PROC / 'clear_refs').write_text('5', 'utf-8')
    except OSError:
        return False
    return True


def peak_bytes(device: torch.device) -> Optional[int]:
    """Bytes that tensors took at most on a GPU; else of resident memory."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    found = _line_bytes(_PROC / 'status', 'VmHWM')
    if found is not None:
        return found
    try:
        import resource
    except ImportError:  # Windows
        return None
    # macOS counts bytes where Linux counts KiB.
    unit = 1 if sys.platform == 'darwin' else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def used_bytes(device: torch.device) -> Optional[int]:
    """What :func:`peak_bytes` would be now; None where the system does not say."""
    if device.type == 'cuda':
        return torch.cuda.memory_allocated(device)
    return _line_bytes(_PROC / 'status', 'VmRSS')


def free_bytes(device: str) -> Optional[int]:
    """Memory that can still be taken; None where the system does not say."""
    if device == 'cuda':
        cached = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
        return torch.cuda.mem_get_info()[0] + cached
    known = (_line_bytes(Path('/proc/meminfo'), 'MemAvailable'), _group_bytes())
    return min((n for n in known if n is not None), default=None)


def _line_bytes(path: Path, key: str) -> Optional[int]:
    """A kB line of a file of the kernel."""
    try:
        lines = path.read_text('utf-8').splitlines()
    except OSError:
        return None
    return next((1024 * int(x.split()[1]) for x in lines if x.startswith(f'{key}:')), None)


def _group_bytes() -> Optional[int]:
    """What a container's limit leaves (control groups, version 2)."""
    try:
        limit, used = (
            int((_GROUP / f'memory.{name}').read_text('utf-8')) for name in ('max', 'current')
        )
    except (OSError, ValueError):  # no group, or its limit is "max"
        return None
    return limit - used


@contextmanager
def untouched_rng() -> Iterator[None]:
    """Give torch, NumPy and Python their random state back afterwards."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[]):
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


def is_compiling() -> bool:
    """Whether torch.compile or torch.export traces."""
    if hasattr(torch.compiler, 'is_compiling'):
        return torch.compiler.is_compiling()
    return torch._dynamo.is_compiling()  # torch < 2.3


def is_exporting() -> bool:
    """Whether torch.export traces; torch < 2.7 does not tell."""
    asked = getattr(torch.compiler, 'is_exporting', None)
    return asked is not None and asked()
