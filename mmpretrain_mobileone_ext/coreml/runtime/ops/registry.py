"""The table of implemented MIL operations, each with all that is known about it."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import Any, Callable, Optional, TypeVar

from ....errors import ProgramError

_Function = TypeVar('_Function', bound=Callable[..., Any])

# Annotations are strings where a module postpones their evaluation.
_LIST = 'Sequence[Tensor]'
_TENSORS = ('Tensor', 'Optional[Tensor]', _LIST)


@dataclass(frozen=True)
class Op:
    """An implemented operation; the executor knows no operation but by this.

    Attributes:
        function: takes the operation's parameters by their MIL names.
        selects: results are values of the inputs, or 0. Those of fp16 values need no rounding.
        fresh: results are new tensors, never views.
        in_place: computes the same into ``x``, for an ``x`` that nothing else reads.
        channels_last: a constant parameter that is faster with channels innermost where it has four
            dimensions.
        untyped: it passes values on or has no fp16 form, so that its type says nothing about the
            arithmetic of a program.
    """

    function: Callable[..., Any]
    selects: bool = False
    fresh: bool = False
    in_place: Optional[Callable[..., Any]] = None
    channels_last: str = ''
    untyped: bool = False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.function(*args, **kwargs)

    @functools.cached_property
    def data(self) -> frozenset[str]:
        """Parameters that are tensors, or lists of tensors."""
        return self._annotated(*_TENSORS)

    @functools.cached_property
    def lists(self) -> frozenset[str]:
        """Parameters that are lists of tensors, even of one."""
        return self._annotated(_LIST)

    def _annotated(self, *types: str) -> frozenset[str]:
        parameters = inspect.signature(self.function).parameters.values()
        return frozenset(p.name for p in parameters if str(p.annotation) in types)


OPS: dict[str, Op] = {}


def op(*names: str, **facts: Any) -> Callable[[_Function], _Function]:
    """Register a function as the implementation of MIL operations.

    The function takes the operation's parameters by their MIL names. Those annotated as ``Tensor``
    are data and arrive as such, constants or not; other constants arrive as Python numbers, lists
    and strings. Where the operation has nested blocks, ``blocks`` is a function for each. It
    returns one tensor, or a tuple for several results.

    Args:
        *names (str): MIL operation types, e.g. ``'conv'``.
        **facts: What else is known about them; see :class:`Op`.
    """

    def register(function: _Function) -> _Function:
        for name in names:
            if name in OPS:
                raise ValueError(f'MIL operation {name!r} registered twice')
            OPS[name] = Op(function, **facts)
        return function

    return register


def lookup(op_type: str, op_name: str) -> Op:
    """Return a MIL operation by its type.

    Args:
        op_type (str): MIL operation type.
        op_name (str): Name of the operation in the file, for the message.

    Raises:
        ProgramError: If the operation is not implemented; the message names it and lists the ones
            that are.
    """
    if op_type not in OPS:
        raise ProgramError(
            f'operation {op_type!r} (named {op_name!r}) is not implemented '
            f'by the reference runtime; implemented: {", ".join(sorted(OPS))}'
        )
    return OPS[op_type]
