"""A comparison as a table, Markdown, CSV and JSON."""
from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

from rich.table import Table

from ..atomic_file import write_whole
from ..errors import MobileOneExtError
from ..outside_text import csv_text, markdown
from ..report.wording import DASH
from .plot import write_plot
from .published import pick
from .results import Comparison, Row

WEIGHTS_NOTE = ('Weights are random (params, FLOPs, times, size and '
                'operations do not depend on them); accuracy is that of the '
                'cited sources.')


class Column(NamedTuple):
    """A quantity: its head, its value in a row, and its digits."""
    head: str
    value: Callable[[Row], Optional[float]]
    digits: int = 0


def columns(found: Comparison) -> list[Column]:
    """What was measured of any row; nothing else gets a column."""
    every = [
        Column('params M', lambda r: _scaled(r.params, 1e6), 2),
        Column('FLOPs M', lambda r: _scaled(r.flops, 1e6)),
        Column('torch ms', lambda r: r.torch and r.torch.median_ms, 1),
        Column('ORT ms', lambda r: r.onnx and r.onnx.median_ms, 1),
        Column('Core ML MiB', lambda r: _scaled(r.coreml_bytes, 2**20), 2),
        Column('ops', lambda r: r.coreml_ops),
        *(Column(f'{name} ms', partial(_device, name=name), 2)
          for name in _devices(found)),
        Column('top-1 hub', lambda r: _published(r, 'hub', 'top1'), 2),
        Column('top-1 paper', lambda r: _published(r, 'paper', 'top1'), 1),
        Column('iPhone12 ms, paper',
               lambda r: _published(r, 'paper', 'mobile_ms'), 2),
    ]
    return [c for c in every
            if any(c.value(row) is not None for row in found.rows)]


def _scaled(value: Optional[int], unit: float) -> Optional[float]:
    return None if value is None else value / unit


def _published(row: Row, kind: str, name: str) -> Optional[float]:
    return getattr(pick(row.published, kind), name, None)


def _devices(found: Comparison) -> list[str]:
    return list(dict.fromkeys(
        d.device for row in found.rows for d in row.devices))


def _device(row: Row, name: str) -> Optional[float]:
    return next((d.median_ms for d in row.devices if d.device == name), None)


def _cell(column: Column, row: Row) -> str:
    value = column.value(row)
    return DASH if value is None else f'{value:.{column.digits}f}'


def caption(found: Comparison) -> str:
    """How and where it was measured, in a line."""
    versions = found.machine['versions']
    load = found.machine['load']
    busy = '' if load is None else f', load {load[0]:.1f}'
    runs = max((r.torch.runs for r in found.rows if r.torch), default=0)
    return (f'{found.machine["cpu"]}, {found.threads} thread(s) of '
            f'{found.machine["cores"]} cores{busy}, torch '
            f'{versions.get("torch")}; one image of {found.size} x '
            f'{found.size}, folded, median of {runs} runs in turns')


def comparison_table(found: Comparison) -> Table:
    """For a terminal."""
    table = Table(caption=caption(found), title_justify='left')
    table.add_column('model', no_wrap=True)
    shown = columns(found)
    for column in shown:
        head = column.head.replace(' ', '\n')
        table.add_column(head, justify='right', no_wrap=True)
    for row in found.rows:
        mark = '' if row.failure is None else ' (failed)'
        table.add_row(row.label + mark, *(_cell(c, row) for c in shown))
    return table


def write_comparison(found: Comparison, out: Path) -> list[Path]:
    """Write ``compare.{md,csv,json,png}``; no picture without points.

    Raises:
        MobileOneExtError: the disk refuses.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MobileOneExtError(
            f'{out} cannot be made: {error.strerror}') from error
    document = json.dumps(found.to_dict(), indent=2, default=str) + '\n'
    texts = {'compare.json': document, 'compare.csv': _csv(found),
             'compare.md': _markdown(found)}
    # Bytes, because csv brings its own line ends.
    written = [write_whole(out / name, partial(Path.write_bytes,
                                               data=text.encode()))
               for name, text in texts.items()]
    if any(row.torch and row.top1 is not None for row in found.rows):
        written.append(write_whole(
            out / 'compare.png',
            partial(write_plot, found=found, caption=caption(found))))
    return written


def _markdown(found: Comparison) -> str:
    shown = columns(found)
    failed = ['failed'] if found.failed else []
    lines = [_line(['model', *(c.head for c in shown), *failed]),
             '|---|' + '---:|' * len(shown) + '---|' * len(failed)]
    for row in found.rows:
        cells = [row.label, *(_cell(c, row) for c in shown)]
        lines.append(_line([*cells, *([row.failure or ''] if failed else [])]))
    sources = sorted({p.source for row in found.rows for p in row.published})
    lines += ['', markdown(caption(found)) + '.', WEIGHTS_NOTE,
              'FLOPs are multiply-adds of the network with branches and norms '
              'folded.', *(f'{markdown(note)}.' for note in found.notes)]
    lines += ['', 'Published figures: ' + markdown('; '.join(sources)) + '.'] \
        if sources else []
    return '\n'.join(lines) + '\n'


def _line(cells: Sequence[str]) -> str:
    """A row of a Markdown table."""
    return '| ' + ' | '.join(map(markdown, cells)) + ' |'


def _csv(found: Comparison) -> str:
    """Unrounded; a row a model."""
    shown = columns(found)
    rows: list[list[Any]] = [['name', 'label', *(c.head for c in shown),
                              'top-1 source', 'failure']]
    for row in found.rows:
        values: list[Any] = [c.value(row) for c in shown]
        sources = '; '.join(p.source for p in row.published)
        rows.append([row.name, row.label, *values, sources, row.failure])
    return csv_text(rows)
