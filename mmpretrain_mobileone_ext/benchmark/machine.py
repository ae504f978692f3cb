"""Where a measurement was made."""
from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from ..errors import SpecError

_PACKAGES = ('torch', 'mmpretrain', 'mmengine', 'mmcv', 'mmcv-lite', 'timm',
             'mmpretrain-mobileone-ext')


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
        versions=_versions())


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
        lines = Path('/proc/cpuinfo').read_text(
            'utf-8', errors='replace').splitlines()
    except OSError:
        lines = []
    names = [x.split(':', 1)[1].strip() for x in lines
             if x.startswith('model name')]
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
