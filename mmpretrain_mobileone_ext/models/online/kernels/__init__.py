"""Compile and load the package's C++ kernels, once per machine and version.

Needs a C++ compiler (``$CXX``, ``c++``, ``g++`` or ``clang++``) and no headers of torch. The
library is kept in ``$XDG_CACHE_HOME/mmpretrain_mobileone_ext`` (``~/.cache``), under a name made of
source, flags and processor, and of its own content: see ``library_cache``. Where it cannot be kept
it is compiled at each start, and a line says so. Without a compiler one line says so and callers
use methods that need none; ``MOBILEONE_EXT_NO_COMPILER=1`` asks for that.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import hashlib
import logging
import os
import platform
import re
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log
from torch import Tensor

from ....errors import KernelError
from .compiler import FLAGS, compile_library, find_compiler
from .library_cache import LibraryCache, load

SOURCES = tuple(
    Path(__file__).with_name(name)
    for name in (
        'depthwise_moments.cpp',
        'depthwise_fold.cpp',
        'depthwise_weight.cpp',
        'depthwise_input.cpp',
        'pixels.cpp',
        'pointwise_fold.cpp',
    )
)
_HEADERS = tuple(Path(__file__).with_name(name) for name in ('packed.h', 'params.h'))
#: How a source names a kernel for both types.
_KERNEL = re.compile(r'extern "C" void (\w+)_##NAME')
#: For everything: another process that compiles, and both attempts here.
_SECONDS = 120
_Argument = Union[Tensor, Sequence[Optional[Tensor]], int, ctypes.Array, None]


@functools.cache
def compiled_kernels() -> Optional[ctypes.CDLL]:
    """The library of all sources, or None where it cannot be built."""
    if os.environ.get('MOBILEONE_EXT_NO_COMPILER', '0') not in ('', '0'):
        return None
    try:
        return _library()
    except (KernelError, OSError) as error:
        _warn(f'units train without the compiled kernels: {error}')
        return None


def has_kernels_for(x: Tensor) -> bool:
    """Whether the compiled kernels exist and take tensors like x."""
    return x.device.type == 'cpu' and x.dtype in (torch.float32, torch.float64) and _are_compiled()


@torch.compiler.assume_constant_result
def _are_compiled() -> bool:
    # torch.compile takes the answer and does not look into this function.
    return compiled_kernels() is not None


def call(name: str, dtype: torch.dtype, *args: _Argument) -> None:
    """Call a kernel on contiguous tensors or arrays (None: a null pointer).

    A list of tensors is handed over as an array of their pointers.

    Raises:
        ValueError: a tensor is not contiguous: kernels know no strides.
        TypeError: a tensor is neither of ``dtype``, nor of float64, nor of bool.
    """
    for arg in args:
        if isinstance(arg, Tensor) and arg.dtype not in (dtype, torch.float64, torch.bool):
            raise TypeError(f'{name} of {dtype} was given a tensor of {arg.dtype}')
    type_name = str(dtype).split('.')[1]
    kernel = getattr(compiled_kernels(), f'{name}_{type_name}')
    kernel(*map(_argument, args))


def _argument(value: _Argument) -> Any:
    if isinstance(value, ctypes.Array):
        return value
    if value is None or isinstance(value, Tensor):
        return ctypes.c_void_p(_address(value))
    if isinstance(value, int):
        return ctypes.c_int64(value)
    return (ctypes.c_void_p * len(value))(*map(_address, value))


def _address(tensor: Optional[Tensor]) -> Optional[int]:
    if tensor is None:
        return None
    if not tensor.is_contiguous():
        raise ValueError(
            f'a kernel was given a tensor of strides {tensor.stride()}, shape {tuple(tensor.shape)}'
        )
    return tensor.data_ptr()


def _library() -> ctypes.CDLL:
    """The kept library if it is whole, else one that is compiled now."""
    deadline = time.monotonic() + _SECONDS
    start = [*find_compiler(), *FLAGS]
    key = _key(start)
    with contextlib.ExitStack() as opened:
        cache, kept, problem = None, None, ''
        try:
            cache = opened.enter_context(LibraryCache.locked(deadline))
            kept = cache.find(key)
        except OSError as error:
            problem = str(error)
        if kept is not None:
            # Built with a library that is gone since.
            with contextlib.suppress(OSError):
                return load(kept)
        data, library = _build(start, deadline)
        try:
            if cache is not None:
                cache.keep(key, data)
        except OSError as error:
            problem = str(error)
        if problem:
            _warn(f'the compiled kernels are not kept, so that each start compiles them: {problem}')
        return library


def _build(start: Sequence[str], deadline: float) -> tuple[bytes, ctypes.CDLL]:
    """Compile in a folder of its own; nothing is kept that does not load."""
    try:
        with tempfile.TemporaryDirectory(prefix='mobileone-') as folder:
            made = Path(folder) / 'kernels.so'
            compile_library(start, SOURCES, made, deadline)
            data = made.read_bytes()
        library = load(data)
    except OSError as error:
        raise KernelError(f'{" ".join(start)}: {error}') from error
    missing = [name for name in kernel_names() if not hasattr(library, name)]
    if missing:
        raise KernelError(f'{" ".join(start)} made a library without {missing[0]}')
    return data, library


def kernel_names() -> list[str]:
    """What a library of all sources exports."""
    names = _KERNEL.findall(''.join(p.read_text('utf-8') for p in SOURCES))
    return [f'{name}_{kind}' for name in names for kind in ('float32', 'float64')]


def _key(start: Sequence[str]) -> str:
    """Names what decides about a library: source, flags and processor."""
    parts = [
        *(path.read_bytes() for path in (*SOURCES, *_HEADERS)),
        os.fsencode('\n'.join(start)),
        _processor().encode(),
    ]
    return 'kernels-' + hashlib.sha256(b'\n'.join(parts)).hexdigest()[:16]


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        info = Path('/proc/cpuinfo').read_text('utf-8', errors='replace')
    except OSError:
        return platform.processor() + platform.machine()
    return ''.join(
        line
        for line in info.splitlines()[:40]
        if line.startswith(('flags', 'Features', 'model name'))
    )


def _warn(line: str) -> None:
    print_log(line, logger='current', level=logging.WARNING)
