"""Command line of ``tools/preflight.py``: where a file's operations run, before a phone tells."""

from __future__ import annotations

import json
import sys
from argparse import Namespace
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Optional

from rich.table import Table

from ..coreml.program.graph import Program
from ..coreml.program.read import read_program
from ..errors import MobileOneExtError, ProgramError
from ..neural_engine.chips import GUIDE, find_chip
from ..neural_engine.verdict import Group, Verdict, by_chips, preflight, stored_words, to_dict
from ..utils.files import check_apart, check_writable, write_json
from ..utils.text import PlainConsole, shown
from .console.exporting import preflight_parser

_ON, _OFF, _UNKNOWN = 'engine', '-', '?'
#: What a reader has to know of every figure.
CAVEAT = (
    f'Facts: {GUIDE}. Its author drove the engine directly; Core ML may still place work on the '
    'CPU or the GPU. Xcode and MLComputePlan tell what it does on a device.'
)


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Judge the file that the command line names.

    Returns:
        Exit code: 0; 1 where ``--require`` asks for what the file does not keep.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = preflight_parser().parse_args(argv)
    chips = list({chip.name: chip for chip in map(find_chip, given.chip)}.values())
    to_file = None if given.json in (None, '-') else Path(given.json)
    check_apart({'--json': to_file}, {'the model': given.model})
    check_writable(to_file)
    program = _read(given.model)
    verdicts = preflight(program, chips)
    document = to_dict(program, verdicts)
    if to_file is not None:
        write_json(to_file, document)
    if given.json == '-':
        print(json.dumps(document, indent=2))
    else:
        show(program, verdicts, given)
    return int(given.require == 'engine' and not all(v.is_whole for v in verdicts))


def _read(path: Path) -> Program:
    if path.suffix == '.aimodel':
        raise MobileOneExtError(
            f'{path} is a Core AI file, whose operations the guide does not list; give the '
            '.mlpackage or .mlmodel of the same network'
        )
    program = read_program(path)
    if not program.operations:
        raise ProgramError(f'{path}: the program has no operations')
    return program


def show(program: Program, verdicts: Sequence[Verdict], given: Namespace) -> None:
    """Print tables and one line for each chip."""
    console = PlainConsole(highlight=False)
    print_all = console.print
    if given.all:
        print_all(_operations(verdicts))
    for title, pick, head in (
        (f'{program.path.name}: not on the Neural Engine', _off, 'why'),
        ('on it, by a detour or at a risk', _remarks, 'what'),
    ):
        if any(map(pick, verdicts)):
            print_all(_groups(title, head, verdicts, pick))
    for line in stored_words(verdicts):
        print_all(shown(line), soft_wrap=True)
    _conversions(verdicts[0], print_all)
    for v in verdicts:
        print_all(shown(f'{v.chip.name}: {v.sentence}'), soft_wrap=True)
    for v in verdicts:
        if v.chip.doubt:
            print_all(f'({v.chip.name}: {v.chip.doubt})', soft_wrap=True, style='dim')
    print_all(CAVEAT, soft_wrap=True, style='dim')
    sys.stdout.flush()


def _off(verdict: Verdict) -> tuple[Group, ...]:
    return verdict.off


def _remarks(verdict: Verdict) -> tuple[Group, ...]:
    return verdict.remarks


def _groups(
    title: str, head: str, verdicts: Sequence[Verdict], pick: Callable[[Verdict], Iterable[Group]]
) -> Table:
    table = Table(title=shown(title), title_justify='left')
    table.add_column('operation', overflow='fold')
    table.add_column('number', justify='right')
    for name in ('chips', head, 'instead'):
        table.add_column(name, overflow='fold')
    for row in by_chips(verdicts, pick):
        table.add_row(shown(row.type), str(row.number), row.where, shown(row.text), row.instead)
    return table


def _operations(verdicts: Sequence[Verdict]) -> Table:
    """Every operation with its unit on every chip."""
    table = Table(title='every operation; ? is unknown', title_justify='left')
    table.add_column('operation', overflow='fold')
    table.add_column('name', overflow='fold')
    for v in verdicts:
        table.add_column(v.chip.name)
    for places in zip(*(v.placements for v in verdicts)):
        op = places[0].operation
        units = (_ON if p.on_engine else _UNKNOWN if p.label == 'unknown' else _OFF for p in places)
        table.add_row(shown(op.type), shown(op.name), *units)
    return table


def _conversions(verdict: Verdict, print_all: Callable[..., None]) -> None:
    kinds = ', '.join(p.operation.type for p in verdict.border)
    if kinds:
        print_all(shown(f'before and behind the network, on the CPU: {kinds}'), soft_wrap=True)
