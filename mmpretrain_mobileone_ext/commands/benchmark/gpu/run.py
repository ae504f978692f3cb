"""Command line of ``tools/check_gpu.py``."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ....utils.files import check_apart, check_writable, write_json, write_text
from ....utils.machine import check_device, machine
from ....utils.processes import ChildProcess
from ....utils.text import PlainConsole, own_command
from ...console.benchmarks import gpu_parser
from .options import GpuOptions
from .page import page

#: How a part can end, as its state begins.
DONE, FAILED, ENDED = 'done', 'failed', 'ended'
_FORMS = ('mmpretrain', 'branches', 'auto', 'folded')
_PRECISIONS = {'bf16': ('--amp', 'bf16', '--channels-last'), 'fp32': ()}
#: Architectures that are measured before all others in every way.
_FIRST = 2
#: Shares of the time that comparing may take.
_SHARES = {'units': 0.25, 'operators': 0.15}
#: A check that has begun may take so much longer than its share.
_PATIENCE = 1.5
#: In fewer seconds nothing begins and ends.
_LEAST = 15
_CHILD = (
    'import sys; from mmpretrain_mobileone_ext.commands.cli import guarded; from '
    'mmpretrain_mobileone_ext.commands.benchmark.{} import run; sys.exit(guarded(run))'
)


class Part(NamedTuple):
    """A process of its own.

    Attributes:
        name: for people.
        module: below ``commands.benchmark``; its ``run`` takes ``words`` and ``--json``.
        words: of its command line.
        share: of all time, which it should keep to; None for what is left.
    """

    name: str
    module: str
    words: tuple[str, ...]
    share: Optional[float] = None


def plan(options: GpuOptions) -> list[Part]:
    """What is right comes first, then times; small networks before large ones."""
    parts = [
        Part(name, 'gpu.checks', ('--part', name, '--device', options.device), share)
        for name, share in _SHARES.items()
    ]
    for archs in (options.arch[:_FIRST], options.arch[_FIRST:]):
        if archs:
            parts += [_speed(options, archs, name, _FORMS) for name in _PRECISIONS]
            parts += [
                _speed(options, archs, name, ('auto', 'folded'), True) for name in _PRECISIONS
            ]
    for archs in (options.arch[:_FIRST], options.arch[_FIRST:]):
        if archs:
            parts.append(_speed(options, archs, 'bf16', ('mmpretrain', 'branches'), True))
    return parts


def _speed(
    options: GpuOptions,
    archs: Sequence[str],
    precision: str,
    forms: Sequence[str],
    also: bool = False,
) -> Part:
    """Times of some forms, compiled ones too or not."""
    given = asdict(options)
    numbers = [
        word
        for name in ('batch', 'size', 'steps', 'warmup')
        for word in (f'--{name}', str(given[name]))
    ]
    way = ('--compile',) if also else ()
    words = (
        *('--device', options.device, '--no-check', *numbers, *_PRECISIONS[precision], *way),
        *('--arch', *archs, '--forms', *forms),
    )
    name = f'{precision}{", compiled too" if also else ""}: {" ".join(archs)} ({" ".join(forms)})'
    return Part(name, 'training.run', words)


@dataclass
class GpuReport:
    """Everything of one run, growing while it runs.

    Attributes:
        parts: name, ``state`` (DONE, or what happened instead) and seconds of each.
        checks: what the comparing parts wrote.
        speed: what the timing parts wrote.
    """

    machine: dict[str, Any]
    command: Sequence[str]
    options: dict[str, Any]
    parts: list[dict[str, Any]] = field(default_factory=list)
    checks: dict[str, Any] = field(default_factory=dict)
    speed: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: Part, state: str, seconds: float, found: Optional[dict[str, Any]]) -> None:
        """Take down how a part ended, and what it left."""
        if part.module == 'gpu.checks':
            if found and state == DONE and found['done'] < found['total']:
                state = f'{found["done"]} of {found["total"]} checks fitted'
            self.checks[part.name] = found
        elif found:
            self.speed.append(dict(found, part=part.name))
        self.parts.append(dict(name=part.name, state=state, seconds=round(seconds, 1)))

    @property
    def failures(self) -> int:
        """Comparisons that failed, and parts that broke; a comparison that never ends is one."""
        found = [c for c in self.checks.values() if c]
        rows = [row for c in found for row in (*c['findings'], *c['operators'])]
        broken = [
            part['state'].startswith(FAILED)
            or (part['name'] in self.checks and part['state'].startswith(ENDED))
            for part in self.parts
        ]
        return sum(not row['passed'] for row in rows) + sum(broken)


Launch = Callable[[Sequence[str], float], Optional[int]]


def launch(command: Sequence[str], seconds: float) -> Optional[int]:
    """Run a command; its exit code, None where it was ended after so many seconds."""
    try:
        with ChildProcess(command) as child:
            return child.wait(seconds)
    except subprocess.TimeoutExpired:
        return None


def run_check(options: GpuOptions, start_child: Launch = launch) -> GpuReport:
    """Run all parts that fit, in turn; write files after each.

    Args:
        options: what to run.
        start_child: runs a part's command for so many seconds at most.

    Raises:
        SpecError: no such device here.
        MobileOneExtError: a file that cannot be written.
    """
    check_device(options.device)
    for path in (options.json, options.markdown):
        check_writable(path)
    report = GpuReport(machine(options.device), own_command(), asdict(options))
    end = time.monotonic() + 60 * options.minutes
    with tempfile.TemporaryDirectory() as folder:
        for index, part in enumerate(plan(options)):
            file = Path(folder, f'{index}.json')
            _run_part(options, report, part, file, end, start_child)
            write_json(options.json, asdict(report))
            write_text(
                options.markdown, page(report.machine, report.parts, report.checks, report.speed)
            )
    _close(options, report)
    return report


def _run_part(
    options: GpuOptions, report: GpuReport, part: Part, file: Path, end: float, start_child: Launch
) -> None:
    start = time.monotonic()
    left = end - start
    if left < _LEAST:
        report.add(part, f'left out: {max(left, 0):.0f} s were left', 0, None)
        return
    words = list(part.words)
    if part.share is not None:
        seconds = max(int(part.share * 60 * options.minutes), 1)
        words += ['--seconds', str(seconds)]
        left = min(left, _PATIENCE * seconds + _LEAST)
    code = start_child(
        [sys.executable, '-c', _CHILD.format(part.module), *words, '--json', str(file)], left
    )
    spent = time.monotonic() - start
    states = {0: DONE, None: f'{ENDED} after {spent:.0f} s'}
    found = json.loads(file.read_text('utf-8')) if file.exists() else None
    report.add(part, states.get(code, f'{FAILED} with exit code {code}'), spent, found)


def _close(options: GpuOptions, report: GpuReport) -> None:
    console = PlainConsole(highlight=False)
    for part in report.parts:
        if part['state'] != DONE:
            console.print(f'{part["name"]}: {part["state"]}', soft_wrap=True)
    console.print(f'{options.json} and {options.markdown} hold what was found', soft_wrap=True)
    console.print(f'{report.failures} failed' if report.failures else 'nothing failed')


def run(argv: Optional[Sequence[str]] = None) -> None:
    """Check as the command line says.

    Raises:
        MobileOneExtError: one line that says what is wrong.
        SystemExit: with code 1: a comparison failed.
    """
    given = vars(gpu_parser().parse_args(argv))
    check_apart({'--json': given['json'], '--markdown': given['markdown']}, {})
    if run_check(GpuOptions(**{**given, 'arch': tuple(given['arch'])})).failures:
        raise SystemExit(1)
