"""Swap two names in one step, where the operating system can."""
from __future__ import annotations

import ctypes
import functools
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Optional

_AT_FDCWD = -100  # paths are relative to the working directory
_RENAME_EXCHANGE = 2  # of linux/fs.h
_RENAME_SWAP = 2  # of macOS' sys/stdio.h


def exchange(one: Path, other: Path) -> bool:
    """Give each of two things the name of the other, in one step.

    Whoever looks, or is killed, sees both under the one or under the other
    name. Both are on the same disk, each a file, a link or a folder.

    Returns:
        False where system or disk cannot; nothing has changed then.
    """
    call = _call()
    return call is not None and call(os.fsencode(one), os.fsencode(other)) == 0


@functools.cache
def _call() -> Optional[Callable[[bytes, bytes], int]]:
    """renameat2(2) of Linux or renamex_np(2) of macOS, as a swap."""
    names = {'linux': 'renameat2', 'darwin': 'renamex_np'}
    if sys.platform not in names:
        return None
    function = getattr(ctypes.CDLL(None), names[sys.platform], None)
    if function is None:  # a C library without it
        return None
    integer, text, flags = ctypes.c_int, ctypes.c_char_p, ctypes.c_uint
    if sys.platform == 'darwin':
        function.argtypes = [text, text, flags]
        return lambda a, b: function(a, b, _RENAME_SWAP)
    function.argtypes = [integer, text, integer, text, flags]
    return lambda a, b: function(_AT_FDCWD, a, _AT_FDCWD, b, _RENAME_EXCHANGE)
