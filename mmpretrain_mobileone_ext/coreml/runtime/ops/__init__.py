"""MIL operations on torch: one small function each, found by MIL name.

Importing this module fills the table; semantics follow Apple's MIL operation documentation
(coremltools ``mil.ops.defs``, iOS 15 to iOS 18). Operations are computed in the dtype of their
tensors (fp32 in the reference runtime); the runtime, not the operation, applies fp16 rounding.
"""

from __future__ import annotations

from . import activation, control, conv, elementwise, norm, recurrent, sampling, scatter, tensor  # noqa: F401
from .registry import OPS, Op, lookup, op

__all__ = ['OPS', 'Op', 'implemented', 'lookup', 'op']


def implemented() -> tuple[str, ...]:
    """Return the names of the implemented MIL operations, sorted."""
    return tuple(sorted(OPS))
