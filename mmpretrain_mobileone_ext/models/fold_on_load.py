"""Fold branch weights while they are loaded into a folded unit."""
from __future__ import annotations

from typing import Any

from ..errors import CheckpointError
from .fuse import CONVS, SCALE, SKIP, round_once
from .load_values import check_dtypes, check_finite


def fold_incoming(block: Any, state_dict: dict,
                  prefix: str) -> None:
    """Fold branch weights on their way into a folded block, in place.

    Does nothing for a block in branch form or a state dict without branch
    weights. The branches must be those of the block's spec: a lost one would
    fold into wrong weights of the right shape.

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped branch keys,
            another kind of number, or weights or a fold that are not finite.
        FoldError: a conv or norm for which no exact fold exists.
    """
    marks = tuple(prefix + name for name in (CONVS, SCALE, SKIP))
    found = [k for k in state_dict if k.startswith(marks)]
    folded = f'{prefix}branch_reparam.'
    # With both forms in it the branch keys stay, as unexpected ones.
    if not block.deploy or not found or f'{folded}weight' in state_dict:
        return
    twin = block.branch_twin()
    given = {k[len(prefix):]: state_dict.pop(k) for k in found}
    check_dtypes(given, twin.state_dict(), prefix)
    try:
        twin.load_state_dict(given, assign=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(f'{block.spec.name}: the branches in the '
                              f'checkpoint do not fit: {reason}') from error
    check_finite(twin, given, prefix)
    dtype = block.branch_reparam.weight.dtype
    for name, value in zip(('weight', 'bias'), twin.fold()):
        state_dict[folded + name] = round_once(value, dtype)
