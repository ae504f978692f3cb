"""What is installed, which known traps it holds, and what runs here.

Everything in this folder uses the standard library only and imports nothing from the package around
it, so that ``tools/doctor.py`` can load it where torch, mmpretrain or the package itself are
missing or broken. ``rehearsal`` is run in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Optional, Sequence, TextIO, Tuple

from .facts import OWNERS, Ability, Diagnosis, Facts, Rehearsal, Step, fits, gather, uses_onedl
from .probe import rehearse
from .traps import MAIN_JOB, find_traps

__all__ = ['Diagnosis', 'diagnose', 'main']

_MAC = 'Darwin'
_COLOURS = {
    'error': 'bold red',
    'no': 'red',
    'missing': 'red',
    'warning': 'yellow',
    'differs': 'yellow',
    'partly': 'yellow',
    'yes': 'green',
    'tested': 'green',
    'note': 'cyan',
    'ok': 'green',
}
#: What to make of a version that is not the tested one.
_DIFFERS = (
    '  differs: the tests run with another version; it matters only where a known trap names it\n'
)
Row = Tuple[str, ...]


def diagnose(announce: Callable[[Step], Any] = lambda step: None) -> Diagnosis:
    """Look at what is installed and rehearse the whole path once.

    Takes about as long as importing torch, mmpretrain and coremltools does, and a few seconds.

    Args:
        announce: told each finished step of the rehearsal.
    """
    facts = gather()
    rehearsal = rehearse(announce)
    return Diagnosis(
        facts=facts,
        findings=tuple(find_traps(facts)),
        rehearsal=rehearsal,
        abilities=tuple(abilities(facts, rehearsal)),
    )


def make_parser() -> argparse.ArgumentParser:
    """The arguments."""
    parser = argparse.ArgumentParser(
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description='Compare what is installed with the tested versions, look for known traps,\n'
        'and rehearse training, folding, exporting and scoring on a tiny network. The\n'
        'exit code is 0 only if all of that can run here.',
        epilog='example:\n  mobileone-ext doctor',
    )
    parser.add_argument('--json', action='store_true', help='print JSON instead of text')
    return parser


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print a diagnosis.

    Returns:
        0 if the main job (train, fold, export, score) can run here, else 1.
    """
    given = make_parser().parse_args(argv)
    if given.json:
        found = diagnose()
        print(json.dumps(found.to_dict(), indent=2))
    else:
        with steps_on_terminal(sys.stdout) as announce:
            found = diagnose(announce)
        show(found, sys.stdout)
    return 0 if found.can_run else 1


def abilities(facts: Facts, rehearsal: Rehearsal) -> Iterator[Ability]:
    """Every job, with what it lacks."""
    broken = [s for s in rehearsal.steps if not s.ok]
    stopped = f'stopped at: {broken[0].title}' if broken else 'not reached'
    for job, step in (
        ('train', 'train'),
        ('fold branches', 'fold'),
        ('export to Core ML', 'export'),
        ('score a Core ML file in the reference runtime', 'score'),
    ):
        yield _ability(job, rehearsal.passed(step), 'rehearsed', stopped)
    yield _ability(
        'compile the kernels for depthwise units',
        facts.compiler,
        str(facts.compiler),
        'no C++ compiler; training is slower without them',
    )
    no_gpu = 'torch finds no CUDA device' if rehearsal.passed('import torch') else stopped
    yield _ability('train on a GPU', rehearsal.cuda, 'torch finds CUDA', no_gpu)
    version = facts.installed.get('mmdeploy')
    absent = 'mmdeploy is not installed (optional)'
    yield _ability('export through mmdeploy', version, f'mmdeploy {version}', absent)
    yield _ability('write a Swift package', rehearsal.passed('export'), '', stopped)
    yield from _apple(facts)


def _ability(job: str, runs: Any, why: str, why_not: str) -> Ability:
    return Ability(job, 'yes' if runs else 'no', why if runs else why_not)


def _apple(facts: Facts) -> Iterator[Ability]:
    """What needs a Mac: not the numbers, but Apple's own software."""
    mac = facts.system == _MAC
    for job, lacking in (
        (
            "run a file in Apple's Core ML runtime",
            'macOS only; the reference runtime gives the same numbers anywhere',
        ),
        (
            'measure latency, memory and the compute units used',
            'needs a Mac or a phone: run bench of the Swift package there',
        ),
    ):
        yield _ability(job, mac, '', lacking)
    lacking = 'CoreML.framework is part of macOS and Xcode'
    yield _ability('compile the Swift package', mac and facts.swift, str(facts.swift), lacking)


@contextmanager
def steps_on_terminal(stream: TextIO) -> Iterator[Callable[[Step], None]]:
    """A function that shows each step of the rehearsal as it ends.

    Nothing is shown where nobody watches: :func:`show` lists the steps.
    """
    watched = stream.isatty()

    def announce(step: Step) -> None:
        if watched:
            state = 'ok' if step.ok else f'failed: {step.error}'
            stream.write(f'  {step.title}: {step.seconds:.1f} s, {state}\n')
            stream.flush()

    if watched:
        stream.write('Rehearsing on a tiny network\n')
    yield announce


def show(found: Diagnosis, stream: TextIO) -> None:
    """Print everything, the verdict last."""
    put = _rich(stream) if stream.isatty() else _plain(stream)
    versions = version_rows(found.facts)
    put('Versions', ('package', 'tested', 'found', 'state'), versions)
    if any(state == 'differs' for *_, state in versions):
        stream.write(_DIFFERS)
    if found.findings:
        rows = [(f.level, f.what, f.why, f.fix) for f in found.findings]
        put('Known traps', ('level', 'what', 'why', 'what helps'), rows)
    if not stream.isatty():  # there each step was shown as it ended
        steps = found.rehearsal.steps
        rows = [(s.title, 'ok' if s.ok else 'error', f'{s.seconds:.1f}', s.error) for s in steps]
        put('Rehearsal', ('step', 'state', 'seconds', 'error'), rows)
    put('What runs here', ('job', 'runs', 'why'), [(a.job, a.runs, a.why) for a in found.abilities])
    stream.write(verdict(found) + '\n')


def version_rows(facts: Facts) -> List[Row]:
    """Every package of the tested matrix, and Python.

    A package that the main job does not need is 'optional' where it is not installed. Of packages
    that own the same module those are listed that are installed.
    """
    rows: List[Row] = [
        ('python', '3.11', facts.python, 'tested' if fits(facts.python, '==3.11.*') else 'differs')
    ]
    for name, wanted in facts.tested.items():
        version = facts.installed.get(name)
        if version is None and name == 'mmcv-lite' and 'mmcv' in facts.installed:
            rows.append(('mmcv', wanted, facts.installed['mmcv'], 'differs'))
        elif version or not _is_replaced(name, facts):
            absent = 'missing' if name in MAIN_JOB else 'optional'
            state = absent if version is None else 'tested' if fits(version, wanted) else 'differs'
            rows.append((name, wanted, version or '', state))
    return rows


def _is_replaced(name: str, facts: Facts) -> bool:
    """Whether another package owns its module here; OneDL's packages are no part of OpenMMLab's."""
    others = next((owners for owners in OWNERS.values() if name in owners), ())
    is_fork = name.startswith('onedl-')
    return any(o in facts.installed for o in others) or (is_fork and not uses_onedl(facts))


def verdict(found: Diagnosis) -> str:
    """One sentence."""
    if found.can_run:
        return 'Training, folding, exporting and scoring run here.'
    errors = [f.what for f in found.findings if f.level == 'error']
    broken = [s for s in found.rehearsal.steps if not s.ok]
    reasons = errors or [f'{s.title}: {s.error}' for s in broken]
    hint = found.rehearsal.hint
    helps = f'. What usually helps: {hint}' if hint else ''
    return f'The main job cannot run here: {"; ".join(reasons)}{helps}'


def _plain(stream: TextIO) -> Callable[..., None]:

    def put(title: str, head: Row, rows: Sequence[Row]) -> None:
        stream.write(f'{title}\n')
        for row in rows:
            stream.write('  ' + ' | '.join(c for c in row if c) + '\n')
        stream.write('\n')

    return put


def _rich(stream: TextIO) -> Callable[..., None]:
    try:
        from rich.box import SIMPLE_HEAD
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text
    except ImportError:
        return _plain(stream)
    console = Console(file=stream, highlight=False)

    def put(title: str, head: Row, rows: Sequence[Row]) -> None:
        table: Any = Table(
            *head, title=title, title_justify='left', title_style='bold', box=SIMPLE_HEAD
        )
        for row in rows:
            table.add_row(*(Text(c, style=_COLOURS.get(c, '')) for c in row))
        console.print(table)

    return put
