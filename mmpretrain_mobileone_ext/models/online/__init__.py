"""Exact online re-parameterization: many branches, computed as one.

In training mode a batch norm needs no more than mean and variance of its input, and each branch is
linear in the patches its convolution reads. So the sum of all branches is one convolution whose
weights follow from the branches and from the moments of the patches, gradients included. Methods to
compute that sum, all of them exact:

- ``branches``: each branch runs.
- ``moments``: one convolution, by the patches' first two moments.
- ``recompute``: branches run, and run again in backward; only x is kept.
- ``fused``: the same in one pass over pixels, and the convolution's output
  is kept too. For pointwise units with one convolution.
- ``running``: one convolution, where norms use running statistics.

Running statistics are updated by ``track`` in ``models/norms.py``.
"""

from .dispatch import (
    DEVICE_RULES,
    Preference,
    SmallInputRule,
    check_preference,
    device_class,
    online_sum,
    planned_method,
    quantized_sum,
)
from .unit import Unit, branch_layout, has_hooks, may_overrun, pixel_step

__all__ = [
    'DEVICE_RULES',
    'Preference',
    'SmallInputRule',
    'Unit',
    'branch_layout',
    'check_preference',
    'device_class',
    'has_hooks',
    'may_overrun',
    'online_sum',
    'pixel_step',
    'planned_method',
    'quantized_sum',
]
