"""The table of implemented MIL operations."""

from __future__ import annotations

import inspect
from typing import Any, Callable, TypeVar

from ....errors import ProgramError

_Function = TypeVar('_Function', bound=Callable[..., Any])

OPS: dict[str, Callable[..., Any]] = {}


def op(*names: str) -> Callable[[_Function], _Function]:
    """Register a function as the implementation of MIL operations.

    The function takes the operation's parameters by their MIL names. Those
    annotated as ``Tensor`` are data and arrive as such, constants or not;
    other constants arrive as Python numbers, lists and strings. Where the
    operation has nested blocks, ``blocks`` is a function for each. It
    returns one tensor, or a tuple for several results.

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


def data_parameters(op_type: str) -> frozenset[str]:
    """Names of the parameters that an operation takes as tensors."""
    parameters = inspect.signature(OPS[op_type]).parameters.values()
    return frozenset(p.name for p in parameters if str(p.annotation) in _TENSORS)


# Annotations are strings where a module postpones their evaluation.
_TENSORS = ('Tensor', 'Optional[Tensor]', 'Sequence[Tensor]')


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
