"""Command line of ``tools/compare.py``: measure all models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Optional, TypeVar

import torch
from torch import nn

from ...coreml.swift.bench import BenchResult, read_bench_json
from ...errors import MobileOneExtError, SpecError
from ...utils.files import check_folder
from ...utils.machine import machine, torch_threads
from ...utils.text import PlainConsole, Steps, one_line
from ..benchmark import time_in_turns
from ..console.scoring import compare_parser
from .entries import DEFAULT, Entry, resolve
from .runtimes import complexity, coreml_figures, deployed, example, missing, onnx_call
from .table import (
    ESTIMATE_NOTE,
    WEIGHTS_NOTE,
    Comparison,
    DeviceLatency,
    EstimatedLatency,
    Latency,
    Row,
    comparison_table,
    write_comparison,
)

S = TypeVar('S')
T = TypeVar('T')
_WARMUP = 3
_LOG_WIDTH = 120


def run_comparison(
    names: Sequence[str],
    *,
    size: int = 224,
    threads: int = 1,
    rounds: int = 30,
    coreml: bool = True,
    onnx: bool = True,
    bench: Sequence[Path] = (),
    progress: bool = True,
) -> Comparison:
    """Compare classifiers.

    Args:
        names: of the model hub, or config files.
        size: of the images, in pixels.
        threads: of torch and ONNX Runtime.
        rounds: timed runs of each model.
        coreml: convert each to Core ML.
        onnx: time each in ONNX Runtime, where installed.
        bench: JSON files of ``coreml/swift/bench.schema.json``.
        progress: report on stderr.

    Raises:
        SpecError: an unknown model, a number below 1, or a bench that is of none of the models.
        ExportError: a bench that is unreadable.
    """
    for name, value in (('size', size), ('threads', threads), ('rounds', rounds)):
        if value < 1:
            raise SpecError(f'{name}={value} must be 1 or more')
    entries = resolve(names)
    rows = [Row(e.name, e.label, e.origin, e.is_ours, e.published) for e in entries]
    _add_benches(rows, [read_bench_json(path) for path in bench])
    steps, notes = Steps(progress), []
    with torch_threads(threads):
        nets = _build(entries, rows, size, steps)
        _time_torch(nets, rows, size, rounds, steps)
        lacking = missing() if onnx else []
        if lacking:
            notes.append('no ONNX Runtime column: not installed are ' + ', '.join(lacking))
        elif onnx:
            _time_onnx(nets, rows, size, threads, rounds, steps)
        if coreml:
            _convert(nets, rows, size, steps)
    return Comparison(tuple(rows), size, threads, machine('cpu'), tuple(notes))


def _add_benches(rows: Sequence[Row], benches: Sequence[BenchResult]) -> None:
    for found in benches:
        fitting = [r for r in rows if found.model.lower() in (r.name.lower(), r.label.lower())]
        if not fitting:
            raise SpecError(
                f'{found.source}: a benchmark of {found.model!r}, which is none of the models: '
                f'{", ".join(r.label for r in rows)}; the exported file must have the name of its '
                'model'
            )
        units = '' if found.compute_units == 'all' else found.compute_units
        kind = 'simulator' if found.simulator else ''
        device = ' '.join(filter(None, [found.device, units, kind]))
        fitting[0].devices.append(DeviceLatency(device, found.median_ms, found.source.name))


def _attempt(row: Row, action: Callable[[], Any], what: str) -> Any:
    """Do it, or let the row say why not."""
    try:
        return action()
    # Constructors and exporters of any network in any package run here.
    except Exception as error:
        row.failure = f'{what}: {one_line(error)}'
        return None


def _each(
    given: Mapping[str, S],
    rows: Sequence[Row],
    action: Callable[[S], T],
    title: str,
    what: str,
    steps: Steps,
) -> dict[str, T]:
    """Results of an action by name, without those of models that it fails on."""
    found = {}
    with steps.step(title, total=len(given)) as advance:
        for row in (r for r in rows if r.name in given):
            result = _attempt(row, partial(action, given[row.name]), what)
            if result is not None:
                found[row.name] = result
            advance(1)
    return found


def _build(
    entries: Sequence[Entry], rows: Sequence[Row], size: int, steps: Steps
) -> dict[str, nn.Module]:
    configs = {e.name: e.config for e in entries}
    build = partial(deployed, size=size)
    nets = _each(configs, rows, build, 'build and fold', 'build', steps)
    for row in (r for r in rows if r.name in nets):
        counts = _attempt(row, partial(complexity, nets[row.name], size), 'count')
        row.params, row.flops = counts or (None, None)
    return nets


def _time_torch(
    nets: dict[str, nn.Module], rows: Sequence[Row], size: int, rounds: int, steps: Steps
) -> None:
    image = example(size)
    with torch.inference_mode():
        _time({n: partial(net, image) for n, net in nets.items()}, rows, 'torch', rounds, steps)


def _time_onnx(
    nets: dict[str, nn.Module],
    rows: Sequence[Row],
    size: int,
    threads: int,
    rounds: int,
    steps: Steps,
) -> None:
    export = partial(onnx_call, image=example(size), threads=threads)
    calls = _each(nets, rows, export, 'export to ONNX', 'ONNX', steps)
    _time(calls, rows, 'onnx', rounds, steps)


def _time(
    calls: Mapping[str, Callable[[], Any]],
    rows: Sequence[Row],
    column: str,
    rounds: int,
    steps: Steps,
) -> None:
    with steps.step(f'{column}: {rounds} rounds in turns', total=rounds + _WARMUP) as advance:
        found = time_in_turns(calls, rounds, _WARMUP, advance)
    for row in rows:
        if row.name in found:
            setattr(row, column, Latency.of(found[row.name]))


def _convert(nets: dict[str, nn.Module], rows: Sequence[Row], size: int, steps: Steps) -> None:
    convert = partial(coreml_figures, size=size)
    found = _each(nets, rows, convert, 'convert to Core ML', 'Core ML', steps)
    for row in rows:
        if row.name in found:
            figures = found[row.name]
            row.coreml_bytes, row.coreml_ops = figures.size_bytes, figures.operations
            row.coreml_relative = figures.relative
            row.estimate = EstimatedLatency.of(figures.estimate)


def run(argv: Optional[Sequence[str]] = None) -> None:
    """Compare as the command line says; print a table.

    Raises:
        MobileOneExtError: a wrong argument; or, after everything is written, models that failed.
    """
    given = vars(compare_parser().parse_args(argv))
    out, names = given.pop('out'), given.pop('models')
    check_folder(out)
    found = run_comparison(names or DEFAULT, **given)
    console = PlainConsole()
    if not console.is_terminal:  # a log is not 80 columns wide
        console = PlainConsole(width=_LOG_WIDTH)
    console.print(comparison_table(found))
    estimated = [ESTIMATE_NOTE] if any(row.estimate for row in found.rows) else []
    for note in (WEIGHTS_NOTE, *estimated, *found.notes):
        console.print(note, highlight=False)
    for path in [] if out is None else write_comparison(found, out):
        console.print(str(path), highlight=False)
    if found.failed:
        raise MobileOneExtError(
            f'{len(found.failed)} of {len(found.rows)} models failed: '
            + '; '.join(f'{r.label}: {r.failure}' for r in found.failed)
        )
