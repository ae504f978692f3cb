"""Core ML: export, and execution of the exported file on any OS.

Nothing here imports coremltools until a function that needs it is called: the public names resolve
on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .program.read import read_program
    from .runtime.load import load_program

__all__ = ['export_coreml', 'load_program', 'read_program']

_HOME = {
    'export_coreml': '..exporter',
    'load_program': '.runtime.load',
    'read_program': '.program.read',
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
    return getattr(importlib.import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])
