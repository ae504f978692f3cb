"""The table of implemented MIL operations."""

from __future__ import annotations

from typing import Any, Callable, TypeVar

from ..errors import ProgramError

_Function = TypeVar('_Function', bound=Callable[..., Any])

OPS: dict[str, Callable[..., Any]] = {}


def op(*names: str) -> Callable[[_Function], _Function]:
    """Register a function as the implementation of MIL operations.

    The function takes the operation's parameters by their MIL names: data
    as ``torch.Tensor``, compile-time constants as Python numbers, lists and
    strings. It returns one tensor, or a tuple for several results.

    Args:
        *names (str): MIL operation types, e.g. ``'conv'``.
    """

    def register(function: _Function) -> _Function:
        for name in names:
            if name in OPS:
                raise ValueError(f'MIL operation {name!r} registered twice')
            OPS[name] = function
        return function

    return register


def lookup(op_type: str, op_name: str) -> Callable[..., Any]:
    """Return the implementation of a MIL operation.

    Args:
        op_type (str): MIL operation type.
        op_name (str): Name of the operation in the file, for the message.

    Raises:
        ProgramError: If the operation is not implemented; the message names
            it and lists the ones that are.
    """
    if op_type not in OPS:
        raise ProgramError(
            f'operation {op_type!r} (named {op_name!r}) is not implemented '
            f'by the reference runtime; implemented: {", ".join(sorted(OPS))}'
        )
    return OPS[op_type]
