"""MIL control flow (``control_flow``): operations that run blocks.

The executor hands them each block as a function of the block's inputs.
Which block runs, and how often, depends on numbers: unless they are
constants, shapes are known no earlier than they are computed. Every step of
every iteration counts as work.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Callable, Union

from torch import Tensor

from ..errors import ProgramError
from .op_registry import op

Block = Callable[..., tuple[Tensor, ...]]


@op('cond')
def cond(
    pred: Union[bool, Tensor], blocks: Sequence[Block]
) -> tuple[Tensor, ...]:
    """Results of the first block if ``pred`` is true, else of the second."""
    when_true, when_false = blocks
    return when_true() if _truth(pred) else when_false()


@op('while_loop')
def while_loop(
    loop_vars: Sequence[Tensor], blocks: Sequence[Block]
) -> tuple[Tensor, ...]:
    """``while condition(*v): v = body(*v)``; returns the last ``v``.

    Raises:
        ProgramError: If the condition is not one value.
    """
    condition, body = blocks
    values = tuple(loop_vars)
    while _truth(*condition(*values)):
        values = body(*values)
    return values


def _truth(*given: Union[bool, Tensor]) -> bool:
    if len(given) != 1 or (
        isinstance(given[0], Tensor) and given[0].numel() != 1
    ):
        raise ProgramError(
            'the condition of a cond or while_loop must be one value'
        )
    return bool(given[0])
