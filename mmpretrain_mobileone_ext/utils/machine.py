"""The machine and the process that something runs in."""

from __future__ import annotations

import os
import platform
import random
import sys
from collections.abc import Iterator
from contextlib import contextmanager
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
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


_PROC = Path('/proc/self')


def reset_peak(device: torch.device) -> None:
    """Forget what was before: torch's peak, or Linux's high-water mark.

    Where the system cannot forget, the peak is that since the start of the
    process.
    """
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        (_PROC / 'clear_refs').write_text('5', 'utf-8')
    except OSError:
        return


def peak_bytes(device: torch.device) -> Optional[int]:
    """Bytes that tensors took at most on a GPU; else of resident memory."""
    if device.type == 'cuda':
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = (_PROC / 'status').read_text('utf-8').splitlines()
    except OSError:
        lines = []
    found = [line.split()[1] for line in lines if line.startswith('VmHWM:')]
    if found:
        return 1024 * int(found[0])
    try:
        import resource
    except ImportError:  # Windows
        return None
    # macOS counts bytes where Linux counts KiB.
    unit = 1 if sys.platform == 'darwin' else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


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
