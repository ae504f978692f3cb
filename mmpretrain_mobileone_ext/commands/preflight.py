"""Command line of ``tools/preflight.py``: where a file's operations run, before a phone tells."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Optional

from rich.table import Table

from ..coreml.neural_engine.forecast import Forecast, caveat, clearest, forecasts
from ..coreml.neural_engine.latency.calibrate import Calibration, calibrate, read_samples
from ..coreml.neural_engine.latency.estimate import LatencyModel, fitted_model
from ..coreml.neural_engine.shapes import with_shapes
from ..coreml.neural_engine.verdict import (
    Group,
    Verdict,
    by_chips,
    preflight,
    stored_words,
    to_dict,
)
from ..coreml.program.graph import Program
from ..coreml.program.read import read_program
from ..coreml.runtime.engine.chips import DEFAULT_CHIPS, GUIDE, Chip, find_chip
from ..errors import MobileOneExtError, ProgramError, SpecError
from ..utils.files import check_apart, check_writable, write_json
from ..utils.machine import machine
from ..utils.text import PlainConsole, own_command, shown
from .console.exporting import preflight_parser

#: Of the figures as JSON; raised when a reader would have to change.
SCHEMA = 1
_ON, _OFF, _UNKNOWN = 'engine', '-', '?'
#: What a reader has to know of every figure.
CAVEAT = (
    f'Facts: {GUIDE}. Its author drove the engine directly; Core ML may still place work on the '
    'CPU or the GPU. Xcode and MLComputePlan tell what it does on a device.'
)


def run(argv: Optional[Sequence[str]] = None) -> int:
    """Judge the files that the command line names.

    Returns:
        Exit code: 0; 1 where ``--require`` asks for what a file does not keep.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = preflight_parser().parse_args(argv)
    chips = _chips(given.chip, bool(given.calibrate))
    to_file = None if given.json in (None, '-') else Path(given.json)
    for path in given.models:
        check_apart({'--json': to_file}, {'the model': path})
    for path in given.calibrate:
        check_apart({'--json': to_file}, {'--calibrate': path})
    check_writable(to_file)
    programs = [_read(path) for path in given.models]
    calibration = _calibration(given.calibrate, given.models, chips[0])
    found = [_judge(program, chips, calibration.model, given.suggest) for program in programs]
    if given.json is not None:
        _write([one.document(given.all) for one in found], calibration, to_file)
    if given.json != '-':
        show(found, calibration, given.all)
    is_whole = all(v.is_whole for one in found for v in one.verdicts)
    return int(given.require == 'engine' and not is_whole)


def _chips(names: Sequence[str], is_calibrated: bool) -> list[Chip]:
    """Those that were asked for, once each; of a calibration the device's."""
    chips = list({chip.name: chip for chip in map(find_chip, names or DEFAULT_CHIPS)}.values())
    if is_calibrated and (not names or len(chips) > 1):
        given = ', '.join(chip.name for chip in chips) if names else 'none'
        raise SpecError(
            f'--calibrate needs --chip with the one chip of the device that was measured; given: '
            f'{given}'
        )
    return chips


class _Found(NamedTuple):
    """What is known of a file on every chip."""

    program: Program
    verdicts: tuple[Verdict, ...]
    forecasts: tuple[Forecast, ...]

    def document(self, each: bool) -> dict[str, Any]:
        """As JSON has it; with ``each`` operation and layer."""
        latency = [forecast.document(each) for forecast in self.forecasts]
        return {**to_dict(self.program, self.verdicts, each), 'latency': latency}


def _calibration(benches: Sequence[Path], models: Sequence[Path], chip: Chip) -> Calibration:
    """The model of time, and what was done for it in a line; '' for nothing."""
    if not benches:
        return Calibration(fitted_model(), '')
    samples, device = read_samples(benches, models, chip)
    return calibrate(fitted_model(), samples, device)


def _judge(
    program: Program, chips: Sequence[Chip], model: LatencyModel, with_suggestions: bool
) -> _Found:
    program = with_shapes(program)
    verdicts = preflight(program, chips)
    return _Found(program, verdicts, forecasts(program, verdicts, model, with_suggestions))


def _write(files: list[dict[str, Any]], calibration: Calibration, path: Optional[Path]) -> None:
    """All that was found, into a file or to stdout."""
    document = {
        'schema_version': SCHEMA,
        'command': own_command(),
        'machine': machine('cpu'),
        'source': GUIDE,
        'latency_model': {**calibration.model.document(), 'calibration': calibration.words},
        'files': files,
    }
    if path is None:
        print(json.dumps(document, indent=2))
    else:
        write_json(path, document)


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


def show(found: Sequence[_Found], calibration: Calibration, each: bool = False) -> None:
    """Print tables and lines for each chip.

    Args:
        found: programs with what is known of them, each for the same chips.
        calibration: the model of time, and how it was fitted to the user's device if it was.
        each: of every operation, too.
    """
    console = PlainConsole(highlight=False)
    for one in found:
        _show_one(one.program, one.verdicts, each, console)
        _show_times(one, each, console)
    for v in found[0].verdicts:
        if v.chip.doubt:
            console.print(f'({v.chip.name}: {v.chip.doubt})', soft_wrap=True, style='dim')
    for line in filter(None, (calibration.words, CAVEAT, caveat(calibration.model))):
        console.print(shown(line), soft_wrap=True, style='dim')


def _show_times(found: _Found, each: bool, console: PlainConsole) -> None:
    """How long it takes on each chip, its layers, and what would shorten it."""
    name = shown(found.program.path.name)
    console.print(f'{name}, one prediction:', soft_wrap=True)
    for forecast in found.forecasts:
        console.print(shown(f'  {forecast.sentence()}'), soft_wrap=True)
    first = clearest(found.forecasts)
    if first.estimate is not None:
        console.print(shown(f'  of it on {first.chip}: {first.parts}'), soft_wrap=True)
    if each and first.estimate is not None:
        console.print(_layers(f'{name} on {first.chip}: time by layer', first))
    if first.suggestions:
        console.print(
            shown(f'{name} on {first.chip}, what would shorten it, each by itself:'), soft_wrap=True
        )
    for s in first.suggestions:
        console.print(shown(f'  {s.sentence}'), soft_wrap=True)


def _layers(title: str, forecast: Forecast) -> Table:
    table = Table(title=title, title_justify='left')
    for head in ('operation', 'name'):
        table.add_column(head, overflow='fold')
    table.add_column('ms', justify='right')
    table.add_column('waits for')
    for layer, ms, wait in forecast.slowest():
        table.add_row(shown(layer.type), shown(layer.name), f'{ms:.4f}', wait)
    return table


def _show_one(
    program: Program, verdicts: Sequence[Verdict], each: bool, console: PlainConsole
) -> None:
    name = shown(program.path.name)
    if each:
        console.print(_operations(name, verdicts))
    for title, pick, head in (
        ('not on the Neural Engine', _off, 'why'),
        ('on it, by a detour or at a risk', _remarks, 'what'),
    ):
        if any(map(pick, verdicts)):
            console.print(_groups(f'{name}: {title}', head, verdicts, pick))
    console.print(f'{name}:', soft_wrap=True)
    for line in stored_words(verdicts):
        console.print(shown(f'  {line}'), soft_wrap=True)
    border = min((v.border for v in verdicts), key=len)
    kinds = ', '.join(p.operation.type for p in border)
    if kinds:
        console.print(
            shown(f'  before and behind the network, not on the engine: {kinds}'), soft_wrap=True
        )
    for v in verdicts:
        console.print(shown(f'  {v.chip.name}: {v.sentence}'), soft_wrap=True)


def _off(verdict: Verdict) -> tuple[Group, ...]:
    return verdict.off


def _remarks(verdict: Verdict) -> tuple[Group, ...]:
    return verdict.remarks


def _groups(
    title: str, head: str, verdicts: Sequence[Verdict], pick: Callable[[Verdict], Iterable[Group]]
) -> Table:
    table = Table(title=title, title_justify='left')
    table.add_column('operation', overflow='fold')
    table.add_column('number', justify='right')
    for name in ('chips', head, 'instead'):
        table.add_column(name, overflow='fold')
    for row in by_chips(verdicts, pick):
        table.add_row(shown(row.type), str(row.number), row.where, shown(row.text), row.instead)
    return table


def _operations(name: str, verdicts: Sequence[Verdict]) -> Table:
    """Every operation with its unit on every chip."""
    table = Table(title=f'{name}: every operation; ? is unknown', title_justify='left')
    table.add_column('operation', overflow='fold')
    table.add_column('name', overflow='fold')
    for v in verdicts:
        table.add_column(v.chip.name)
    for places in zip(*(v.placements for v in verdicts)):
        op = places[0].operation
        units = (_ON if p.on_engine else _UNKNOWN if p.label == 'unknown' else _OFF for p in places)
        table.add_row(shown(op.type), shown(op.name), *units)
    return table
