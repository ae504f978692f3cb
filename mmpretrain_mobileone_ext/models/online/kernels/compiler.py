"""Find and run the C++ compiler, for a bounded time and with no leftovers."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from ....errors import KernelError
from ....utils.processes import ChildProcess

FLAGS = ('-O3', '-march=native', '-std=c++17', '-fPIC', '-shared')
_SHOWN = 300
_READ = 1 << 16


def find_compiler() -> list[str]:
    """The words that start the compiler: of ``$CXX``, or the first found.

    ``$CXX`` is a path or words as a shell reads them (``ccache g++``).

    Raises:
        KernelError: there is none.
    """
    wanted = os.environ.get('CXX', '').strip()
    for words in [[wanted], _words(wanted)] if wanted else [['c++'], ['g++'], ['clang++']]:
        found = shutil.which(words[0]) if words else None
        if found:
            return [found, *words[1:]]
    raise KernelError(f'no C++ compiler found ({wanted or "c++, g++, clang++"})')


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError as error:
        raise KernelError(f'CXX is {text!r}, which a shell cannot read ({error})') from None


def compile_library(
    start: Sequence[str], sources: Sequence[Path], out: Path, deadline: float
) -> None:
    """Compile ``sources`` to the shared library ``out``.

    Args:
        start: the compiler's words and flags.
        deadline: of ``time.monotonic``, for all attempts together.

    Raises:
        KernelError: the compiler failed, or did not end in time.
        OSError: it cannot be started.
    """
    # Apple's clang has no OpenMP: one thread is better than none.
    for threads in (['-fopenmp'], []):
        reason = _run([*start, *threads, '-o', str(out), *map(str, sources)], deadline)
        if not reason and not out.is_file():
            reason = 'it ended with exit code 0, but made no library'
        if not reason:
            return
    raise KernelError(f'{" ".join(start)} failed: {reason}')


def _run(words: list[str], deadline: float) -> str:
    """Run a command; returns why it failed, '' if it did not."""
    seconds = deadline - time.monotonic()
    if seconds <= 0:
        raise KernelError(f'{words[0]} did not end in time')
    # Not a pipe: whoever inherits it could keep it open.
    with tempfile.TemporaryFile() as said:
        try:
            with ChildProcess(words, stdout=subprocess.DEVNULL, stderr=said) as process:
                code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise KernelError(f'{words[0]} gave no result within {seconds:.0f} s') from None
        said.seek(0)
        text = said.read(_READ).decode(errors='replace')
    return '' if code == 0 else _reason(text, code)


def _reason(text: str, code: int) -> str:
    lines = [' '.join(line.split()) for line in text.splitlines() if line.strip()]
    errors = [line for line in lines if 'error' in line.lower()]
    said = (errors or lines or [''])[0][:_SHOWN]
    end = f'ended by signal {-code}' if code < 0 else f'exit code {code}'
    return said or end
