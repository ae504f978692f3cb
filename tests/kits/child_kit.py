"""Which processes carry a mark in their environment; needs Linux' /proc."""

import os
import signal
import subprocess
import time
import uuid
from pathlib import Path

MARK = 'MOBILEONE_TEST_MARK'


def marked_env(**more):
    """An environment that every descendant inherits, and no other has."""
    return {**os.environ, MARK: uuid.uuid4().hex, **more}


def start(command, env):
    """A process that Ctrl-C ends, even if pytest runs in the background."""
    return subprocess.Popen(
        command,
        env=env,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def living(env):
    """PIDs that carry the mark and are no zombies."""
    mark = f'{MARK}={env[MARK]}'.encode()
    return [
        int(p.name)
        for p in Path('/proc').glob('[0-9]*')
        if _read(p / 'environ').split(b'\0').count(mark)
        and _read(p / 'stat').rsplit(b')')[-1].split()[0] not in b'ZX'
    ]


def assert_gone(env, within, but=None):
    """All of them end within so many seconds, ``but`` one PID."""
    end = time.monotonic() + within
    while True:
        late = time.monotonic() > end
        left = {pid: _read(Path(f'/proc/{pid}/cmdline')) for pid in living(env) if pid != but}
        if not left:
            return
        assert not late, left
        time.sleep(0.01)


def _read(path):
    try:
        return path.read_bytes() or b'?'
    except OSError:  # it ended meanwhile
        return b') X'
