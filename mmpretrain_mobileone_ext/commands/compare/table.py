"""What a comparison found, as a table, Markdown, CSV, JSON and a picture."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, Optional

from rich.table import Table

from ...coreml.neural_engine.forecast import BOUNDS
from ...coreml.neural_engine.latency.estimate import ORDER, Estimate
from ...errors import MobileOneExtError
from ...report.figures import BLUE, VERMILION, new_figure, place_labels, save_figure
from ...utils.files import write_json, write_text, write_whole
from ...utils.text import DASH, csv_text, figures_table, markdown, markdown_table, plot_label
from .entries import Published, best_top1, pick

WEIGHTS_NOTE = (
    'Weights are random (params, FLOPs, times, size and operations do not depend on them); '
    'accuracy is that of the cited sources.'
)
ESTIMATED = 'iPhone12 ms, predicted'
ESTIMATE_NOTE = (
    f'{ESTIMATED}: made of the operations of the Core ML file; {BOUNDS}; ~ is an order only '
    '(attention, or not all of it on the Neural Engine).'
)
_AREA = 34  # of a bubble, square points a million parameters


class Latency(NamedTuple):
    """Milliseconds: median and quickest of so many runs."""

    median_ms: float
    min_ms: float
    runs: int

    @classmethod
    def of(cls, times: Sequence[float]) -> Latency:
        """Of the times of single runs, in ms."""
        return cls(median(times), min(times), len(times))


@dataclass(frozen=True)
class DeviceLatency:
    """Of a bench's JSON: a device, and ms a prediction."""

    device: str
    median_ms: float
    source: str


class EstimatedLatency(NamedTuple):
    """Milliseconds on an iPhone 12 by the model of time; no bounds where only the order counts.

    ``coreml.neural_engine.latency.estimate`` says what the bounds are.
    """

    ms: float
    low: Optional[float]
    high: Optional[float]
    label: str

    @classmethod
    def of(cls, found: Optional[Estimate]) -> Optional[EstimatedLatency]:
        """Of an estimate, without its layers; what it does not count leaves an order only."""
        if found is None:
            return None
        if found.notes:
            return cls(found.ms, None, None, ORDER)
        return cls(found.ms, found.low, found.high, found.label)

    @property
    def words(self) -> str:
        """E.g. '0.76 (0.68 to 0.85)'."""
        if self.low is None or self.high is None:
            return f'~{self.ms:.1f}'
        return f'{self.ms:.2f} ({self.low:.2f} to {self.high:.2f})'


@dataclass
class Row:
    """One model; what could not be measured is None.

    Attributes:
        name, label, origin: as of ``Entry``.
        ours: whether it is a MobileOne.
        params, flops: of the folded network, flops in multiply-adds.
        torch, onnx: latency of one image on this CPU.
        coreml_bytes, coreml_ops: of an fp16 ``.mlpackage``.
        estimate: of the latency of that file on an iPhone 12.
        devices: latencies that were measured on devices.
        published: accuracy and latency as others state it.
        failure: why the model could not be measured further.
    """

    name: str
    label: str
    origin: str
    ours: bool
    published: tuple[Published, ...] = ()
    params: Optional[int] = None
    flops: Optional[int] = None
    torch: Optional[Latency] = None
    onnx: Optional[Latency] = None
    coreml_bytes: Optional[int] = None
    coreml_ops: Optional[int] = None
    coreml_relative: Optional[float] = None
    estimate: Optional[EstimatedLatency] = None
    devices: list[DeviceLatency] = field(default_factory=list)
    failure: Optional[str] = None

    @property
    def top1(self) -> Optional[float]:
        """As published, percent."""
        return best_top1(self.published)


@dataclass(frozen=True)
class Comparison:
    """All rows, with what they were measured on.

    Attributes:
        rows: in the order in which the models were given.
        size: of the images, in pixels.
        threads: of torch and of ONNX Runtime.
        machine: as of ``benchmark.machine``.
        notes: what was left out, and why.
    """

    rows: tuple[Row, ...]
    size: int
    threads: int
    machine: dict[str, Any]
    notes: tuple[str, ...] = ()

    @property
    def failed(self) -> list[Row]:
        return [row for row in self.rows if row.failure]

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for JSON."""
        found = asdict(self)
        for row, plain in zip(self.rows, found['rows']):
            for kind in ('torch', 'onnx', 'estimate'):
                lap = getattr(row, kind)
                plain[kind] = None if lap is None else lap._asdict()
        return found


def write_plot(path: Path, found: Comparison, caption: str) -> None:
    """Draw all rows that have both figures.

    Args:
        path: where; the suffix says the format.
        found: at least one row with a latency and an accuracy.
        caption: a line below, on where it was measured.
    """
    from matplotlib.patheffects import withStroke

    bubbles = [
        _Bubble(plot_label(r.label), r.ours, r.torch.median_ms, r.top1, r.params or 0)
        for r in found.rows
        if r.torch and r.top1 is not None
    ]
    figure = new_figure(8.4, 5.2, caption)
    axis = figure.subplots()
    _axes(axis, bubbles)
    _draw_bubbles(axis, bubbles)
    # Lines that a name crosses stop short of its letters.
    halo = [withStroke(linewidth=2.5, foreground='white')]
    spots = [(b.label, b.ms, b.top1, (b.area / 3.1416) ** 0.5) for b in bubbles]
    place_labels(figure, axis, spots, color='#222222', path_effects=halo)
    save_figure(figure, path)


class _Bubble(NamedTuple):
    """A row that has a place in the picture."""

    label: str
    ours: bool
    ms: float
    top1: float
    params: int

    @property
    def area(self) -> float:
        """Square points."""
        return _AREA * self.params / 1e6


def _axes(axis: Any, bubbles: Sequence[_Bubble]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter

    times, scores = [b.ms for b in bubbles], [b.top1 for b in bubbles]
    axis.set_xscale('log')
    axis.set_xlim(min(times) / 1.35, max(times) * 1.5)
    room = max(0.14 * (max(scores) - min(scores)), 0.5)
    axis.set_ylim(min(scores) - room, max(scores) + room)
    axis.set_xticks(_ticks(*axis.get_xlim()))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel('latency of one image on this CPU, ms (torch, folded)', fontsize=9)
    axis.set_title(
        'published ImageNet top-1, %; area of a bubble: parameters', loc='left', fontsize=9
    )
    axis.grid(color='#DDDDDD', linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[['top', 'right']].set_visible(False)
    axis.tick_params(labelsize=8)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 3, 5, 7, 10, ... as far as they are visible."""
    every = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 3, 5, 7)]
    return [t for t in every if low <= t <= high] or [low, high]


def _draw_bubbles(axis: Any, bubbles: Sequence[_Bubble]) -> None:
    for ours, color, name in ((True, BLUE, 'MobileOne'), (False, VERMILION, 'others')):
        kind = sorted((b for b in bubbles if b.ours == ours), key=lambda b: b.ms)
        if not kind:
            continue
        at = [b.ms for b in kind], [b.top1 for b in kind]
        if ours:
            axis.plot(*at, color=color, linewidth=1, alpha=0.5, zorder=2)
        areas = [b.area for b in kind]
        axis.scatter(*at, s=areas, color=color, alpha=0.45, linewidths=0, zorder=3)
        axis.scatter(*at, s=9, color=color, zorder=4, label=name)
    if len({b.ours for b in bubbles}) > 1:
        axis.legend(loc='lower right', fontsize=8, frameon=False)


class Column(NamedTuple):
    """A quantity: its head, its value in a row, and its digits, or its words."""

    head: str
    value: Callable[[Row], Optional[float]]
    digits: int = 0
    words: Optional[Callable[[Row], str]] = None


def columns(found: Comparison) -> list[Column]:
    """What was measured of any row; nothing else gets a column."""
    every = [
        Column('params M', lambda r: _scaled(r.params, 1e6), 2),
        Column('FLOPs M', lambda r: _scaled(r.flops, 1e6)),
        Column('torch ms', lambda r: r.torch and r.torch.median_ms, 1),
        Column('ORT ms', lambda r: r.onnx and r.onnx.median_ms, 1),
        Column('Core ML MiB', lambda r: _scaled(r.coreml_bytes, 2**20), 2),
        Column('ops', lambda r: r.coreml_ops),
        Column(ESTIMATED, lambda r: r.estimate and r.estimate.ms, words=_estimated),
        *(Column(f'{name} ms', partial(_device, name=name), 2) for name in _devices(found)),
        Column('top-1 hub', lambda r: _published(r, 'hub', 'top1'), 2),
        Column('top-1 paper', lambda r: _published(r, 'paper', 'top1'), 1),
        Column('iPhone12 ms, paper', lambda r: _published(r, 'paper', 'mobile_ms'), 2),
    ]
    return [c for c in every if any(c.value(row) is not None for row in found.rows)]


def _estimated(row: Row) -> str:
    return row.estimate.words if row.estimate else DASH


def _scaled(value: Optional[int], unit: float) -> Optional[float]:
    return None if value is None else value / unit


def _published(row: Row, kind: str, name: str) -> Optional[float]:
    return getattr(pick(row.published, kind), name, None)


def _devices(found: Comparison) -> list[str]:
    return list(dict.fromkeys(d.device for row in found.rows for d in row.devices))


def _device(row: Row, name: str) -> Optional[float]:
    return next((d.median_ms for d in row.devices if d.device == name), None)


def _cell(column: Column, row: Row) -> str:
    value = column.value(row)
    if value is not None and column.words is not None:
        return column.words(row)
    return DASH if value is None else f'{value:.{column.digits}f}'


def caption(found: Comparison) -> str:
    """How and where it was measured, in a line."""
    versions = found.machine['versions']
    load = found.machine['load']
    busy = '' if load is None else f', load {load[0]:.1f}'
    runs = max((r.torch.runs for r in found.rows if r.torch), default=0)
    return (
        f'{found.machine["cpu"]}, {found.threads} thread(s) of {found.machine["cores"]} '
        f'cores{busy}, torch {versions.get("torch")}; one image of {found.size} x {found.size}, '
        f'folded, median of {runs} runs in turns'
    )


def comparison_table(found: Comparison) -> Table:
    """For a terminal."""
    shown = columns(found)
    heads = [c.head.replace(' ', '\n') for c in shown]
    table = figures_table(['model'], heads, whole=True, caption=caption(found))
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
        raise MobileOneExtError(f'{out} cannot be made: {error.strerror}') from error
    written = [
        write_json(out / 'compare.json', found.to_dict()),
        write_text(out / 'compare.csv', _csv(found)),
        write_text(out / 'compare.md', _markdown(found)),
    ]
    if any(row.torch and row.top1 is not None for row in found.rows):
        draw = partial(write_plot, found=found, caption=caption(found))
        written.append(write_whole(out / 'compare.png', draw))
    return written


def _markdown(found: Comparison) -> str:
    shown = columns(found)
    failed = ['failed'] if found.failed else []
    rows = [
        [row.label, *(_cell(c, row) for c in shown), *([row.failure or ''] if failed else [])]
        for row in found.rows
    ]
    heads = ['model', *(c.head for c in shown), *failed]
    table = markdown_table(heads, rows, 'l' + 'r' * len(shown) + 'l' * len(failed))
    sources = sorted({p.source for row in found.rows for p in row.published})
    lines = [
        markdown(caption(found)) + '.',
        WEIGHTS_NOTE,
        'FLOPs are multiply-adds of the network with branches and norms folded.',
        *([markdown(ESTIMATE_NOTE)] if any(r.estimate for r in found.rows) else []),
        *(f'{markdown(note)}.' for note in found.notes),
    ]
    lines += ['', 'Published figures: ' + markdown('; '.join(sources)) + '.'] if sources else []
    return f'{table}\n' + '\n'.join(lines) + '\n'


_BOUNDS = (f'{ESTIMATED}: low', f'{ESTIMATED}: high')


def _csv(found: Comparison) -> str:
    """Unrounded; a row a model."""
    shown = columns(found)
    rows: list[list[Any]] = [
        ['name', 'label', *(c.head for c in shown), *_BOUNDS, 'top-1 source', 'failure']
    ]
    for row in found.rows:
        values: list[Any] = [c.value(row) for c in shown]
        sources = '; '.join(p.source for p in row.published)
        bounds = (row.estimate.low, row.estimate.high) if row.estimate else (None, None)
        rows.append([row.name, row.label, *values, *bounds, sources, row.failure])
    return csv_text(rows)
