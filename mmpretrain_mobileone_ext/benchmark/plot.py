"""Results as pictures, through matplotlib's objects (no global state)."""
from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional

from ..outside_text import plot_label
from .present import megabytes, milliseconds
from .results import Case, Cost

#: Okabe and Ito's colours, told apart by colour-blind people too. The floor
#: is grey and hatched: it is no way to train.
COLOURS = {
    'mmpretrain': '#D55E00',
    'branches': '#E69F00',
    'auto': '#0072B2',
    'moments': '#56B4E9',
    'memory': '#009E73',
    'folded': '#FFFFFF',
    'timm': '#CC79A7',
}
_LABELS = {'folded': 'folded (floor)'}
_NEUTRAL = '#777777'
_FLOOR = dict(hatch='////', edgecolor=_NEUTRAL)
_PLAIN = dict(edgecolor='none')
_DPI = 160
#: Inches.
_WIDTH, _BAR, _MARGIN = 8.8, 0.25, 0.95
#: Room for the heading above a group, in bars.
_HEADING = 1.2


@dataclass(frozen=True)
class _Bar:
    """One form of one case, at its height in the picture."""
    y: float
    case: Case
    cost: Cost


@dataclass(frozen=True)
class _Panel:
    """A quantity: its title, and how a cost gives value and label."""
    title: str
    value: Callable[[Cost], Optional[float]]
    label: Callable[[Cost], str]


_PANELS = (
    _Panel('time of a training step, ms', lambda c: c.median_ms,
           lambda c: milliseconds(c.median_ms)),
    _Panel('saved for backward, MB',
           lambda c: None if c.saved_bytes is None else c.saved_bytes / 1e6,
           lambda c: megabytes(c.saved_bytes)),
)


def write_cost_plot(path: Path, cases: Sequence[Case], caption: str) -> None:
    """Step time and saved memory side by side, a group of bars a case.

    Args:
        path: where the picture is put; the suffix says the format.
        cases: measured ones.
        caption: a line below, on where it was measured.
    """
    bars = _placed(cases)
    bottom = bars[-1].y + 0.6
    figure = _figure(_WIDTH, _MARGIN + _BAR * bottom)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, panel in zip(axes, _PANELS):
        _draw_panel(axis, panel, bars)
    axes[0].set_yticks([b.y for b in bars],
                       [_LABELS.get(b.cost.form, b.cost.form) for b in bars])
    axes[0].set_ylim(bottom, 0)
    figure.supxlabel(plot_label(caption), fontsize=7, color='#555555')
    figure.savefig(path, dpi=_DPI)


def _placed(cases: Sequence[Case]) -> list[_Bar]:
    """Bars from the top, with room for a heading above every group."""
    bars: list[_Bar] = []
    y = 0.0
    for case in cases:
        y += _HEADING
        for cost in case.costs:
            bars.append(_Bar(y, case, cost))
            y += 1
    return bars


def _figure(width: float, height: float) -> Any:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    figure = Figure(figsize=(width, height), layout='constrained',
                    facecolor='white')
    FigureCanvasAgg(figure)
    return figure


def _draw_panel(axis: Any, panel: _Panel, bars: Sequence[_Bar]) -> None:
    values = [panel.value(b.cost) or 0.0 for b in bars]
    for bar, value in zip(bars, values):
        form = bar.cost.form
        style = _FLOOR if form == 'folded' else _PLAIN
        axis.barh(bar.y, value, height=0.78, color=COLOURS[form], **style)
        text = plot_label(bar.cost.failure or panel.label(bar.cost))
        axis.annotate(text, (value, bar.y), (3, 0), va='center', fontsize=8,
                      textcoords='offset points')
    for bar in {b.case: b for b in reversed(bars)}.values():
        axis.annotate(plot_label(bar.case.title), (0, bar.y - 0.5), (3, 1),
                      fontsize=8.5, fontweight='bold',
                      textcoords='offset points')
    axis.set_title(panel.title, fontsize=10, loc='left')
    axis.set_xlim(0, 1.16 * max(values) or 1)
    # Without a tick at the right edge, that would meet the next panel's 0.
    axis.locator_params(axis='x', nbins=6, prune='upper')
    axis.tick_params(axis='y', length=0, labelsize=8.5)
    axis.tick_params(axis='x', labelsize=8)
    axis.spines[['top', 'right']].set_visible(False)


def write_sweep_plot(path: Path, cases: Sequence[Case], form: str,
                     reference: str, caption: str) -> None:
    """A grid of ratios: architectures down, shapes across.

    Args:
        path: where the picture is put; the suffix says the format.
        cases: of a sweep, skipped ones too.
        form, reference: the ratio is the first one's time by the second's.
        caption: a line below, on where it was measured.
    """
    archs = list(dict.fromkeys(c.arch for c in cases))
    shapes = sorted({(c.size, c.batch) for c in cases})
    figure = _figure(_WIDTH, 1.6 + 0.42 * len(archs))
    axis = figure.subplots()
    ratios = {c: c.ratio(form, reference) for c in cases}
    limit = max([1 - r for r in ratios.values() if r] + [0.1])
    for case, ratio in ratios.items():
        place = (shapes.index((case.size, case.batch)),
                 archs.index(case.arch))
        _draw_cell(axis, place, ratio, limit)
    axis.set_xlim(-0.5, len(shapes) - 0.5)
    axis.set_ylim(len(archs) - 0.5, -0.5)
    axis.set_xticks(range(len(shapes)),
                    [f'{batch} x {size}²' for size, batch in shapes])
    axis.set_yticks(range(len(archs)), archs)
    axis.tick_params(length=0, labelsize=8.5)
    axis.spines[:].set_visible(False)
    axis.set_title(f'time of a training step, {form} / {reference} '
                   '(blue: faster, orange: slower)', fontsize=10, loc='left')
    figure.supxlabel(plot_label(caption), fontsize=7, color='#555555')
    figure.savefig(path, dpi=_DPI)


def _draw_cell(axis: Any, place: tuple[int, int], ratio: Optional[float],
               limit: float) -> None:
    """A square in blue below 1 and in orange above, with its number."""
    from matplotlib.patches import Rectangle
    x, y = place
    colour, depth = _shade(ratio, limit)
    axis.add_patch(
        Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour,
                  alpha=depth, linewidth=0))
    text = 'skipped' if ratio is None else f'{ratio:.2f}'
    axis.text(x, y, text, ha='center', va='center', fontsize=8.5,
              color='#999999' if ratio is None else 'black')


def _shade(ratio: Optional[float], limit: float) -> tuple[str, float]:
    """Colour and opacity; whatever is slower is seen at once."""
    if ratio is None:
        return _NEUTRAL, 0.06
    if ratio >= 1.005:  # 1.01 as printed
        return COLOURS['branches'], min(0.3 + 2 * (ratio - 1), 1)
    return COLOURS['auto'], 0.7 * max(1 - ratio, 0) / limit
