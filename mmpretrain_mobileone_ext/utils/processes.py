"""Child processes that end with their parent, whatever ends that.

Between the two stands a guard: this file, run as a program. Its standard input is a pipe whose
other end only the parent has, so that it is closed when the parent ends in any way, ``kill -9``
included, on every system. The guard starts the child in a process group of its own and ends all of
that group when the pipe is closed or the child is through: data loaders, compilers and whatever
else the child started.

Standard library only, and nothing of the package: ``doctor`` loads this file where the package
cannot be imported.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any, List, Optional, Sequence

#: How long an interrupted child may clean up, in seconds.
GRACE = 0.5
_INTERRUPT = b'i'
#: What ends a guard together with its child.
_ENDINGS = ('SIGTERM', 'SIGINT', 'SIGHUP')
_NOT_STARTED = 127  # as a shell says it
#: A zombie counts as alive, and nobody may be there to bury it.
_LOOKS, _LOOK = 50, 0.01


class ChildProcess(subprocess.Popen):
    """A ``Popen`` whose process, with all that it starts, ends with this one.

    It reads nothing: its standard input is empty. A block that is left by an error interrupts it,
    as Ctrl-C does, and kills it after ``GRACE``. Whoever forks without exec hands the parent's end
    of the pipe on, and with it the child's life.

    Args:
        command: program and arguments; exit code 127 if it cannot be run.
        options: of ``Popen``, but for ``stdin`` and ``start_new_session``.
    """

    def __init__(self, command: Sequence[str], **options: Any):
        guard = [sys.executable, '-I', '-S', os.path.abspath(__file__)]
        line, end = os.pipe()
        self._line = os.fdopen(end, 'wb', buffering=0)
        try:
            super().__init__([*guard, *command], stdin=line, start_new_session=True, **options)
        except BaseException:
            self._line.close()
            raise
        finally:
            os.close(line)

    def kill(self) -> None:
        """End it and all that it started, at once."""
        self._line.close()

    def interrupt(self) -> None:
        """Let it clean up as after Ctrl-C, then end it."""
        try:
            with contextlib.suppress(OSError, ValueError):
                self._line.write(_INTERRUPT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.wait(GRACE)
        finally:
            self.kill()

    def __exit__(self, kind: Any, *rest: Any) -> None:
        try:
            if kind is not None:
                self.interrupt()
            super().__exit__(kind, *rest)
        finally:
            self.kill()


def run_child(
    command: Sequence[str], seconds: Optional[float] = None, **options: Any
) -> subprocess.CompletedProcess:
    """Run a command to its end; what it prints is captured as text.

    Args:
        command: as of ``ChildProcess``.
        seconds: after which it is ended; no limit when None.
        options: as of ``ChildProcess``.

    Raises:
        subprocess.TimeoutExpired: it took longer.
    """
    with ChildProcess(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding='utf-8',
        errors='replace',
        **options,
    ) as child:
        out, err = child.communicate(timeout=seconds)
    return subprocess.CompletedProcess(command, child.returncode, out, err)


def _guard(command: List[str]) -> int:
    """Run a command until it, or the parent, is through; its return code."""
    # Ignored where the parent runs in a shell's background, and inherited.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        child = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
    except OSError as error:
        print(f'error: cannot run {command[0]}: {error}', file=sys.stderr)
        return _NOT_STARTED
    for name in _ENDINGS:
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda *_: _end(child))
    threading.Thread(target=_follow_line, args=(child,), daemon=True).start()
    code = child.wait()
    _end_rest(child)
    return code


def _follow_line(child: subprocess.Popen) -> None:
    while os.read(0, 1):
        _send(child, signal.SIGINT)
    _end(child)


def _end(child: subprocess.Popen) -> None:
    if os.name == 'posix':
        _send(child, signal.SIGKILL)
    elif child.poll() is None:
        subprocess.run(
            ['taskkill', '/T', '/F', '/PID', str(child.pid)], capture_output=True, check=False
        )


def _end_rest(child: subprocess.Popen) -> None:
    """End what the child left behind, and see it gone."""
    for _ in range(_LOOKS):
        if not _send(child, signal.SIGKILL):
            return
        time.sleep(_LOOK)


def _send(child: subprocess.Popen, number: int) -> bool:
    """Signal all of the child's process group; whether any is left."""
    if os.name != 'posix':
        return False
    try:
        os.killpg(child.pid, number)
    except (ProcessLookupError, PermissionError):
        return False
    return True


def _leave(code: int) -> None:
    """End as the child did, so that the parent sees the same."""
    if code < 0:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == '__main__':
    _leave(_guard(sys.argv[1:]))
