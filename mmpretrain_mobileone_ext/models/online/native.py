"""Compile and load the package's C++ kernels, once per machine and version.

Needs a C++ compiler (``$CXX``, ``c++``, ``g++`` or ``clang++``) and no headers
of torch. The library is kept in ``$XDG_CACHE_HOME/mmpretrain_mobileone_ext``
(``~/.cache``), under a name made of source, flags and processor. Without a
compiler one line says so and callers use forms that need none;
``MOBILEONE_EXT_NO_COMPILER=1`` asks for that.
"""
from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log
from torch import Tensor

from ...errors import KernelError

SOURCES = tuple(Path(__file__).with_name(name) for name in (
    'depthwise_moments.cpp', 'depthwise_fold.cpp', 'depthwise_weight.cpp',
    'depthwise_input.cpp', 'pixels.cpp', 'pointwise_fold.cpp'))
_HEADERS = tuple(Path(__file__).with_name(name)
                 for name in ('packed.h', 'params.h'))
_FLAGS = ('-O3', '-march=native', '-std=c++17', '-fPIC', '-shared')
_SECONDS = 120
_Argument = Union[Tensor, Sequence[Optional[Tensor]], int, ctypes.Array,
                  None]


@functools.cache
def compiled_kernels() -> Optional[ctypes.CDLL]:
    """The library of all sources, or None where it cannot be built."""
    if os.environ.get('MOBILEONE_EXT_NO_COMPILER', '0') not in ('', '0'):
        return None
    try:
        return ctypes.CDLL(str(build(SOURCES)))
    except (KernelError, OSError) as error:
        print_log(f'units train without the compiled kernels: '
                  f'{error}', logger='current', level=logging.WARNING)
        return None


def has_kernels_for(x: Tensor) -> bool:
    """Whether the compiled kernels exist and take tensors like x."""
    return (x.device.type == 'cpu'
            and x.dtype in (torch.float32, torch.float64)
            and compiled_kernels() is not None)


def call(name: str, dtype: torch.dtype, *args: _Argument) -> None:
    """Call a kernel on contiguous tensors or arrays (None: a null pointer).

    A list of tensors is handed over as an array of their pointers.

    Raises:
        ValueError: a tensor is not contiguous: kernels know no strides.
    """
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
        raise ValueError(f'a kernel was given a tensor of strides '
                         f'{tensor.stride()}, shape {tuple(tensor.shape)}')
    return tensor.data_ptr()


def build(sources: Sequence[Path]) -> Path:
    """Compile ``sources`` to a shared library, unless that has been done.

    Raises:
        KernelError: no compiler, or it failed.
        OSError: the cache cannot be written.
    """
    compiler = _compiler()
    texts = [path.read_text() for path in (*sources, *_HEADERS)]
    key = '\n'.join([*texts, compiler, *_FLAGS, _processor()])
    digest = hashlib.sha256(key.encode()).hexdigest()[:16]
    library = _cache_folder() / f'kernels-{digest}.so'
    if library.exists():
        return library
    with tempfile.TemporaryDirectory(dir=library.parent) as folder:
        made = Path(folder) / library.name
        # Apple's clang has no OpenMP: one thread is better than none.
        for threads in (['-fopenmp'], []):
            reason = _run([compiler, *_FLAGS, *threads, '-o', str(made),
                           *map(str, sources)])
            if not reason:
                made.replace(library)
                return library
    raise KernelError(f'{compiler} failed: {reason}')


def _run(command: list[str]) -> str:
    """Run a command; returns why it failed, '' if it did not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True,
                              check=False, timeout=_SECONDS)
    except subprocess.TimeoutExpired:
        return f'no result after {_SECONDS} s'
    if done.returncode == 0:
        return ''
    lines = done.stderr.strip().splitlines()
    return lines[0] if lines else f'exit code {done.returncode}'


def _compiler() -> str:
    wanted = os.environ.get('CXX')
    for name in [wanted] if wanted else ['c++', 'g++', 'clang++']:
        found = shutil.which(name)
        if found:
            return found
    raise KernelError('no C++ compiler found '
                      f'({wanted or "c++, g++, clang++"})')


def _processor() -> str:
    """What ``-march=native`` depends on."""
    try:
        info = Path('/proc/cpuinfo').read_text()
    except OSError:
        return platform.processor() + platform.machine()
    return ''.join(line for line in info.splitlines()[:40]
                   if line.startswith(('flags', 'Features', 'model name')))


def _cache_folder() -> Path:
    base = os.environ.get('XDG_CACHE_HOME') or Path.home() / '.cache'
    folder = Path(base) / 'mmpretrain_mobileone_ext'
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    return folder
