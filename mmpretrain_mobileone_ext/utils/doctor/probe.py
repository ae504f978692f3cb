"""Run the rehearsal in a process that may break in any way."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from threading import Event, Timer
from typing import Any, Callable, List, Optional, Sequence, Tuple

from .facts import Rehearsal, Step

_SECONDS = 300
_PACKAGE = Path(__file__).resolve().parents[2]
_PROGRAM = _PACKAGE / 'commands/rehearsal.py'
_PROCESSES = _PACKAGE / 'utils/processes.py'
#: Part of an error's text to what usually helps.
_HINTS = (
    ('torchvision::nms', 'install torch and torchvision in one command'),
    ('libGL.so', 'pip uninstall -y opencv-python && pip install opencv-python-headless'),
    ('libgthread', 'pip uninstall -y opencv-python && pip install opencv-python-headless'),
    ('pkg_resources', "pip install 'setuptools<81'"),
    ('Descriptors cannot', "pip install 'protobuf<=3.20.2'"),
    (
        'compiled using NumPy 1',
        "pip install 'numpy<2', or a newer build of the package that the traceback names",
    ),
    ('mmcv.ops', 'remove mmcv and install mmcv-lite'),
    (
        'GLIBCXX',
        'the C++ runtime is older than the wheel: use a newer system or conda-forge packages',
    ),
)


def rehearse(
    announce: Callable[[Step], Any] = lambda step: None,
    program: Sequence[str] = (str(_PROGRAM),),
    seconds: float = _SECONDS,
) -> Rehearsal:
    """Import, train, fold, export and score in a child process.

    Args:
        announce: told each finished step.
        program: arguments of the Python that runs it.
        seconds: after which it is ended.
    """
    with tempfile.TemporaryFile('w+', encoding='utf-8', errors='replace') as errors:
        steps, cuda, code, timed_out = _run(
            [sys.executable, *_flags(), *program], errors, announce, seconds
        )
        errors.seek(0)
        text = errors.read()
    if timed_out:
        text = f'no result after {seconds:g} s'
    open_step = steps[-1] if steps and not steps[-1].ok else None
    if open_step is None and code != 0:
        open_step = Step('start', False, 0.0)
        steps.append(open_step)
    if open_step is None:
        return Rehearsal(tuple(steps), cuda)
    failed = Step(open_step.title, False, open_step.seconds, _reason(text, code))
    announce(failed)
    return Rehearsal((*steps[:-1], failed), cuda, _hint(text))


def _flags() -> List[str]:
    """The child finds the modules that this process finds."""
    return [
        flag for flag, is_set in (('-I', sys.flags.isolated), ('-S', sys.flags.no_site)) if is_set
    ]


def _processes() -> Any:
    """The package's module, without the package: that may be broken."""
    spec: Any = importlib.util.spec_from_file_location('mobileone_processes', _PROCESSES)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _run(
    command: List[str], errors: Any, announce: Callable[[Step], Any], seconds: float
) -> Tuple[List[Step], bool, int, bool]:
    """Follow the child's lines; the last step is open if it died in it."""
    steps: List[Step] = []
    cuda, start, timed_out = False, time.monotonic(), Event()
    # Two OpenMP threads on a busy machine wait for each other.
    env = {'OMP_WAIT_POLICY': 'PASSIVE', **os.environ}
    with _processes().ChildProcess(
        command, stdout=subprocess.PIPE, stderr=errors, env=env, encoding='utf-8', errors='replace'
    ) as child:

        def end() -> None:
            timed_out.set()  # before the child's end can be seen
            child.kill()

        timer = Timer(seconds, end)
        timer.start()
        for line in child.stdout or ():
            message = _message(line)
            cuda = message.get('cuda', cuda)
            if 'step' in message:
                start = time.monotonic()
                steps.append(Step(message['step'], False, 0.0))
            if 'done' in message and steps:
                steps[-1] = Step(message['done'], True, message['seconds'])
                announce(steps[-1])
        code = child.wait()
        timer.cancel()
    if steps and not steps[-1].ok:
        steps[-1] = Step(steps[-1].title, False, round(time.monotonic() - start, 2))
    return steps, cuda, code, timed_out.is_set()


def _message(line: str) -> dict:
    """One of the child's lines; libraries may print others."""
    try:
        message = json.loads(line)
    except ValueError:
        return {}
    return message if isinstance(message, dict) else {}


def _reason(text: str, code: int) -> str:
    """The last line of a traceback, or how the process ended."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if lines:
        return lines[-1][:300]
    return f'ended by signal {-code}' if code < 0 else f'exit code {code}'


def _hint(text: str) -> str:
    found: Optional[str] = next((fix for part, fix in _HINTS if part in text), None)
    return found or ''
