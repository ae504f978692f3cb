"""Run one of the installed tools as a process, its output in a log."""
from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import Progress, TextColumn, TimeElapsedColumn

from .child_process import ChildProcess
from .config_scope import MIM
from .errors import MobileOneExtError

#: Spinning OpenMP threads starve the data loader where cores are few.
_ENV = {'OMP_WAIT_POLICY': 'PASSIVE', 'PYTHONUNBUFFERED': '1'}
#: As the log is read, whatever this process's terminal can show.
_PRINTED = {'PYTHONIOENCODING': 'utf-8:backslashreplace'}
_EPOCH = re.compile(r'(?:Epoch|Iter)\((train|test)\) +'
                    r'\[(\d+)?\]?\[? *(\d+)/ *(\d+)\]')


def run_tool(tool: str, args: Sequence[str], log: Path, title: str,
             console: Console) -> float:
    """Run ``python tools/<tool>``; its output goes into ``log``.

    It ends with this process, see ``child_process``.

    Args:
        tool: file name, such as ``train.py``.
        args: command-line arguments.
        log: file that is replaced.
        title: what the progress and an error call this step.
        console: a terminal sees the epochs that go by.

    Returns:
        Seconds that it took.

    Raises:
        MobileOneExtError: it failed; with its own error line or the end of
            its log.
    """
    start = time.monotonic()
    command = [sys.executable, str(MIM / 'tools' / tool), *args]
    code = _stream(command, log, title, console)
    if code:
        raise MobileOneExtError(f'{title} failed with exit code {code}: '
                                f'{_reason(log)} (all of it is in {log})')
    return time.monotonic() - start


def _reason(log: Path) -> str:
    """The tool's own words, or what it said last."""
    lines = log.read_text('utf-8', errors='replace').splitlines()
    errors = [line for line in lines if line.startswith('error: ')]
    return errors[-1][len('error: '):] if errors else \
        ' '.join(lines[-3:]) or 'it said nothing'


def _stream(command: Sequence[str], log: Path, title: str,
            console: Console) -> int:
    """Run a command, its output into ``log``; show epochs on a terminal."""
    columns = (TextColumn('{task.description}', markup=False),
               TimeElapsedColumn())
    bar = Progress(*columns, console=console, transient=True,
                   disable=not console.is_terminal)
    with bar, open(log, 'w', buffering=1, encoding='utf-8') as file, \
            ChildProcess(command, stdout=subprocess.PIPE,
                         stderr=subprocess.STDOUT, encoding='utf-8',
                         errors='replace',
                         env={**_ENV, **os.environ, **_PRINTED}) as process:
        task = bar.add_task(title)
        for line in process.stdout or ():
            file.write(line)
            found = _EPOCH.search(line)
            if found:
                bar.update(task, description=f'{title} {found.group(0)}')
        return process.wait()
