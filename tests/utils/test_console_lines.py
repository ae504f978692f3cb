"""A pipe gets plain lines, whatever the environment says of colours."""

import os
import subprocess
import sys

import pytest

CODE = """
from mmpretrain_mobileone_ext.utils.text import PlainConsole, Steps
with Steps(True).step('convert', total=3) as advance:
    for _ in range(3):
        advance(1)
PlainConsole().print('done')
"""


@pytest.mark.parametrize(
    'name',
    [
        'FORCE_COLOR',
        *(pytest.param(name, marks=pytest.mark.slow) for name in ('TTY_COMPATIBLE', 'NOTHING')),
    ],
)
def test_a_pipe_gets_a_line_for_each_step(name):
    done = subprocess.run(
        [sys.executable, '-c', CODE],
        capture_output=True,
        text=True,
        env={**os.environ, name: '1'},
        check=True,
    )
    assert done.stdout == 'done\n'
    (line,) = [text for text in done.stderr.splitlines() if 'convert' in text]
    assert line.startswith('convert: ')
    assert '\x1b' not in done.stderr


@pytest.mark.skipif(os.name != 'posix', reason='pseudo terminals are of POSIX')
def test_a_terminal_gets_a_bar():
    import pty

    ours, theirs = pty.openpty()
    done = subprocess.Popen([sys.executable, '-c', CODE], stdout=theirs, stderr=theirs)
    os.close(theirs)
    seen = b''
    try:
        while part := os.read(ours, 1 << 16):
            seen += part
    except OSError:  # Linux says so at the end
        pass
    os.close(ours)
    assert done.wait() == 0
    assert b'\x1b[' in seen
