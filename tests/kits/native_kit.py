"""Stand-ins for compilers, and what they make."""

import os
import shutil
import subprocess

from mmpretrain_mobileone_ext.models.online import kernels as native

CXX = next(filter(shutil.which, ('c++', 'g++', 'clang++')), None)
IS_POSIX = hasattr(os, 'geteuid')
IS_ROOT = IS_POSIX and os.geteuid() == 0
OTHER_USER = 12345


def compiled(folder, extra):
    source = folder / 'stub.cpp'
    source.write_text(
        extra + '\n'.join(f'extern "C" void {name}() {{}}' for name in native.kernel_names())
    )
    subprocess.run([CXX, '-fPIC', '-shared', '-o', folder / 'stub.so', source], check=True)
    return folder / 'stub.so'


def fake_compiler(folder, monkeypatch, script):
    """``$CXX`` as a shell script; ``$out`` is what it is asked to make."""
    path = folder / 'fake-c++'
    path.write_text(
        '#!/bin/sh\n'
        f'echo x >> {folder / "calls"}\n'
        'while [ "$1" != -o ]; do shift; done; out=$2\n' + script
    )
    path.chmod(0o755)
    monkeypatch.setenv('CXX', str(path))
    return folder / 'calls'


def count(calls):
    return len(calls.read_text().splitlines())


def only_library(cache):
    (library,) = cache.glob('*.so')
    return library


def load():
    """As a process does that starts now."""
    native.compiled_kernels.cache_clear()
    try:
        return native.compiled_kernels()
    finally:
        native.compiled_kernels.cache_clear()
