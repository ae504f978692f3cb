"""Accuracy against latency; the area of a bubble is the parameters."""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..outside_text import plot_label
from .place import place_labels
from .results import Comparison, Row

#: Okabe and Ito's colours, told apart by colour-blind people too.
_OURS, _OTHERS = '#0072B2', '#D55E00'
_DPI = 160
_AREA = 34  # square points a million parameters


def write_plot(path: Path, found: Comparison, caption: str) -> None:
    """Draw all rows that have both figures.

    Args:
        path: where; the suffix says the format.
        found: at least one row with a latency and an accuracy.
        caption: a line below, on where it was measured.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    rows = [r for r in found.rows if r.torch and r.top1 is not None]
    figure = Figure(figsize=(8.4, 5.2), layout='constrained',
                    facecolor='white')
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    _axes(axis, rows)
    _bubbles(axis, rows)
    figure.supxlabel(plot_label(caption), fontsize=7, color='#555555')
    place_labels(figure, axis, [
        (plot_label(r.label), _x(r), r.top1 or 0, _radius(r)) for r in rows])
    figure.savefig(path, dpi=_DPI)


def _x(row: Row) -> float:
    return row.torch.median_ms if row.torch else 0.0


def _radius(row: Row) -> float:
    """Of a bubble, in points."""
    return (_AREA * (row.params or 0) / 1e6 / 3.1416)**0.5


def _axes(axis: Any, rows: Sequence[Row]) -> None:
    from matplotlib.ticker import NullFormatter, ScalarFormatter
    times, scores = [_x(r) for r in rows], [r.top1 or 0 for r in rows]
    axis.set_xscale('log')
    axis.set_xlim(min(times) / 1.35, max(times) * 1.5)
    room = max(0.14 * (max(scores) - min(scores)), 0.5)
    axis.set_ylim(min(scores) - room, max(scores) + room)
    axis.set_xticks(_ticks(*axis.get_xlim()))
    axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.xaxis.set_minor_formatter(NullFormatter())
    axis.set_xlabel('latency of one image on this CPU, ms (torch, folded)',
                    fontsize=9)
    axis.set_title('published ImageNet top-1, %; area of a bubble: '
                   'parameters', loc='left', fontsize=9)
    axis.grid(color='#DDDDDD', linewidth=0.6)
    axis.set_axisbelow(True)
    axis.spines[['top', 'right']].set_visible(False)
    axis.tick_params(labelsize=8)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 3, 5, 7, 10, ... as far as they are visible."""
    every = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 3, 5, 7)]
    return [t for t in every if low <= t <= high] or [low, high]


def _bubbles(axis: Any, rows: Sequence[Row]) -> None:
    for ours, colour, name in ((True, _OURS, 'MobileOne'),
                               (False, _OTHERS, 'others')):
        kind = sorted((r for r in rows if r.ours == ours), key=_x)
        if not kind:
            continue
        if ours:
            axis.plot([_x(r) for r in kind], [r.top1 for r in kind],
                      color=colour, linewidth=1, alpha=0.5, zorder=2)
        axis.scatter([_x(r) for r in kind], [r.top1 for r in kind],
                     s=[_AREA * (r.params or 0) / 1e6 for r in kind],
                     color=colour, alpha=0.45, linewidths=0, zorder=3)
        axis.scatter([_x(r) for r in kind], [r.top1 for r in kind], s=9,
                     color=colour, zorder=4, label=name)
    if len({r.ours for r in rows}) > 1:
        axis.legend(loc='lower right', fontsize=8, frameon=False)
