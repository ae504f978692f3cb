"""Print a diagnosis: tables on a terminal, plain lines elsewhere."""
from __future__ import annotations

from contextlib import contextmanager
from typing import Any, Callable, Iterator, List, Sequence, TextIO, Tuple

from .diagnosis import Diagnosis, Facts, Step
from .traps import MAIN_JOB
from .versions import fits

_COLOURS = {'error': 'bold red', 'no': 'red', 'missing': 'red',
            'warning': 'yellow', 'differs': 'yellow', 'partly': 'yellow',
            'yes': 'green', 'tested': 'green', 'note': 'cyan', 'ok': 'green'}
Row = Tuple[str, ...]


@contextmanager
def steps_on_terminal(
        stream: TextIO) -> Iterator[Callable[[Step], None]]:
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
    put('Versions', ('package', 'tested', 'found', 'state'),
        version_rows(found.facts))
    if found.findings:
        put('Known traps', ('level', 'what', 'why', 'what helps'),
            [(f.level, f.what, f.why, f.fix) for f in found.findings])
    if not stream.isatty():  # there each step was shown as it ended
        put('Rehearsal', ('step', 'state', 'seconds', 'error'),
            [(s.title, 'ok' if s.ok else 'error', f'{s.seconds:.1f}',
              s.error) for s in found.rehearsal.steps])
    put('What runs here', ('job', 'runs', 'why'),
        [(a.job, a.runs, a.why) for a in found.abilities])
    stream.write(verdict(found) + '\n')


def version_rows(facts: Facts) -> List[Row]:
    """Every package of the tested matrix, and Python.

    A package that the main job does not need is 'optional' where it is not
    installed.
    """
    rows: List[Row] = [('python', '3.11', facts.python,
                       'tested' if fits(facts.python, '==3.11.*')
                       else 'differs')]
    for name, wanted in facts.tested.items():
        version = facts.installed.get(name)
        if version is None and name == 'mmcv-lite' and \
                'mmcv' in facts.installed:
            rows.append(('mmcv', wanted, facts.installed['mmcv'], 'differs'))
            continue
        absent = 'missing' if name in MAIN_JOB else 'optional'
        state = absent if version is None else \
            'tested' if fits(version, wanted) else 'differs'
        rows.append((name, wanted, version or '', state))
    return rows


def verdict(found: Diagnosis) -> str:
    """One sentence."""
    if found.can_run:
        return 'Training, folding, exporting and scoring run here.'
    errors = [f.what for f in found.findings if f.level == 'error']
    broken = [s for s in found.rehearsal.steps if not s.ok]
    reasons = errors or [f'{s.title}: {s.error}' for s in broken]
    hint = found.rehearsal.hint
    return ('The main job cannot run here: ' + '; '.join(reasons) +
            (f'. What usually helps: {hint}' if hint else ''))


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
        table: Any = Table(*head, title=title, title_justify='left',
                           title_style='bold', box=SIMPLE_HEAD)
        for row in rows:
            table.add_row(*(Text(c, style=_COLOURS.get(c, ''))
                            for c in row))
        console.print(table)

    return put
