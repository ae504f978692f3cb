"""Run batch norms in training mode and keep their running statistics."""
from __future__ import annotations

from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm


@contextmanager
def shielded_stats(module: nn.Module):
    """Let batch norms run without touching their running statistics.

    Buffers are swapped for copies rather than restored in place: autograd
    may hold the originals.
    """
    kept = [(m, dict(m._buffers)) for m in module.modules()
            if isinstance(m, _BatchNorm)]
    for norm, buffers in kept:
        norm._buffers.update({
            k: None if v is None else v.clone()
            for k, v in buffers.items()
        })
    try:
        yield
    finally:
        for norm, buffers in kept:
            norm._buffers.update(buffers)
