"""Peak memory of a stretch of a run, on a GPU or of the process."""
from __future__ import annotations

import sys
from pathlib import Path
from typing import Optional

import torch

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
