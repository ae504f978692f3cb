"""Results as tables and pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Optional

from rich.table import Table

from ....report.figures import BLUE, GREEN, ORANGE, PINK, SKY, VERMILION, new_figure, save_figure
from ....utils.text import figures_table, plot_label
from .candidates import plain_form
from .options import BenchmarkOptions
from .results import ArchExactness, Case, Cost, Exactness
from .step import rated

ABSENT = '-'


def setting(options: BenchmarkOptions, machine: dict[str, Any]) -> str:
    """One line on where and how it was measured."""
    where = machine['gpu'] or machine['cpu']
    numbers = arithmetic(
        options.device, options.amp, options.channels_last, machine.get('tf32', {})
    )
    return (
        f'{where}, {machine["cores"]} cores, {options.threads} threads, '
        f'torch {machine["versions"].get("torch")}, {options.device}, '
        f'{numbers}, median of {options.steps} steps in turns'
        + (', more for small inputs' if options.sweep else '')
    )


def arithmetic(
    device: str, amp: Optional[str], channels_last: bool, tf32: Mapping[str, bool]
) -> str:
    """Types of numbers and their layout, in words.

    Args:
        device, amp, channels_last: options of a run.
        tf32: as of ``utils.machine.tf32``.
    """
    words = [f'autocast {amp}' if amp else 'float32']
    if device == 'cuda':
        on = [name for name, allowed in tf32.items() if allowed]
        words.append(f'TF32 in {" and ".join(on)}' if on else 'no TF32')
    if channels_last:
        words.append('channels_last')
    return ', '.join(words)


def milliseconds(value: Optional[float]) -> str:
    """Three digits or all before the point."""
    if value is None:
        return ABSENT
    return f'{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}'


def megabytes(count: Optional[int]) -> str:
    """Bytes as MB (1e6)."""
    if count is None:
        return ABSENT
    return f'{count / 1e6:.{0 if count >= 100e6 else 1}f}'


def _times(value: Optional[float]) -> str:
    return ABSENT if value is None else f'{value:.2f}x'


def _error(value: Optional[float]) -> str:
    return ABSENT if value is None else f'{value:.1e}'


def costs_table(case: Case) -> Table:
    """One row a form; times in ms, speed against the first that ran."""
    reference = next((c.form for c in case.costs if c.step_ms), None)
    against = f', speed against {reference}' if reference else ''
    table = figures_table(
        ['form'],
        ['step ms', 'min', 'fwd', 'bwd', 'first', 'speed', 'saved MB', 'peak MB'],
        title=f'{case.title}: one training step{against}',
    )
    for cost in case.costs:
        table.add_row(cost.form, *_cost_cells(case, cost, reference))
    return table


def _cost_cells(case: Case, cost: Cost, reference: Optional[str]) -> list[str]:
    if cost.failure:
        return [_in_short(cost.failure), *[ABSENT] * 7]
    ratio = case.ratio(reference, cost.form) if reference else None
    return [
        milliseconds(cost.median_ms),
        milliseconds(min(cost.step_ms)),
        milliseconds(median(cost.forward_ms)),
        milliseconds(median(cost.backward_ms)),
        milliseconds(cost.first_ms),
        _times(ratio),
        megabytes(cost.saved_bytes),
        megabytes(cost.peak_bytes),
    ]


def _in_short(failure: str) -> str:
    """For a cell; the rest is one of the case's notes."""
    return failure.partition(':')[0]


def exactness_table(found: ArchExactness, amp: Optional[str]) -> Table:
    """One row a form: float64 agreements and gradient errors."""
    names = ['output', 'input grad', 'param grads', 'statistics', 'fp32 grad error']
    if amp:
        names.append(f'{amp} grad error')
    seeds = max((len(f.output) for f in found.forms), default=0)
    table = figures_table(['form'], names, title=f'{found.title}: exactness, {seeds} seeds')
    for form in found.forms:
        cells = _exactness_cells(form)
        table.add_row(form.form, *cells[: len(names)])
    return table


def _exactness_cells(found: Exactness) -> list[str]:
    if found.failure:
        return [found.failure, *[ABSENT] * 5]
    agreements = (found.output, found.input_gradient, found.gradients, found.statistics)
    errors = (found.fp32_error, found.amp_error)
    return [
        *(_error(_worst(values)) for values in agreements),
        *(_error(median(values) if values else None) for values in errors),
    ]


def _worst(values: Sequence[float]) -> float:
    """The largest; a NaN, which max() may hide, is worse than any."""
    bad = [v for v in values if v != v]
    return bad[0] if bad else max(values)


def sweep_table(cases: Sequence[Case], form: str, reference: str) -> Table:
    """One row a case: both medians, and their pairwise ratio."""
    table = figures_table(
        ['arch'],
        [
            'batch',
            'size',
            f'{reference} ms',
            f'{form} ms',
            f'{form} / {reference}',
            f'{reference} MB',
            f'{form} MB',
        ],
        title=f'{form} against {reference}',
    )
    for case in cases:
        table.add_row(
            case.arch, str(case.batch), str(case.size), *_sweep_cells(case, form, reference)
        )
    return table


def _sweep_cells(case: Case, form: str, reference: str) -> list[str]:
    if case.skipped:
        return ['skipped', *[ABSENT] * 4]
    costs = [case.cost(reference), case.cost(form)]
    times = [_in_short(c.failure or milliseconds(c.median_ms)) for c in costs if c]
    ratio = case.ratio(form, reference)
    return [
        *times,
        ABSENT if ratio is None else f'{ratio:.2f}',
        *(megabytes(c.saved_bytes) for c in costs if c),
    ]


def sweep_lines(cases: Sequence[Case], form: str, reference: str) -> list[str]:
    """What was skipped and why, and where the ratio is worst and best."""
    lines = [f'skipped {c.title}: {c.skipped}' for c in cases if c.skipped]
    ranking = rated(cases, form, reference)
    if not ranking:
        return [*lines, 'no case ran in both forms']
    for name, (ratio, case) in (('worst', ranking[0]), ('best', ranking[-1])):
        lines.append(f'{name} ratio: {ratio:.2f} at {case.title}')
    slower = sum(ratio > 1 for ratio, _ in ranking)
    lines.append(f'{form} is slower than {reference} in {slower} of {len(ranking)} cases')
    return lines


#: The floor is white and hatched: it is no way to train.
COLOURS = {
    'mmpretrain': VERMILION,
    'branches': ORANGE,
    'auto': BLUE,
    'moments': SKY,
    'memory': GREEN,
    'folded': '#FFFFFF',
    'w8': '#F0E442',
    'w8a8': '#999999',
    'timm': PINK,
}
_LABELS = {'folded': 'folded (floor)'}
_NEUTRAL = '#777777'
_FLOOR = dict(hatch='////', edgecolor=_NEUTRAL)
_PLAIN = dict(edgecolor='none')
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
    _Panel(
        'time of a training step, ms', lambda c: c.median_ms, lambda c: milliseconds(c.median_ms)
    ),
    _Panel(
        'saved for backward, MB',
        lambda c: None if c.saved_bytes is None else c.saved_bytes / 1e6,
        lambda c: megabytes(c.saved_bytes),
    ),
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
    figure = new_figure(_WIDTH, _MARGIN + _BAR * bottom, caption)
    axes = figure.subplots(1, 2, sharey=True)
    for axis, panel in zip(axes, _PANELS):
        _draw_panel(axis, panel, bars)
    axes[0].set_yticks([b.y for b in bars], [_LABELS.get(b.cost.form, b.cost.form) for b in bars])
    axes[0].set_ylim(bottom, 0)
    save_figure(figure, path)


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


def _draw_panel(axis: Any, panel: _Panel, bars: Sequence[_Bar]) -> None:
    values = [panel.value(b.cost) or 0.0 for b in bars]
    for bar, value in zip(bars, values):
        form = bar.cost.form
        style = _FLOOR if plain_form(form) == 'folded' else _PLAIN
        axis.barh(bar.y, value, height=0.78, color=COLOURS[plain_form(form)], **style)
        text = plot_label(_in_short(bar.cost.failure or panel.label(bar.cost)))
        axis.annotate(
            text, (value, bar.y), (3, 0), va='center', fontsize=8, textcoords='offset points'
        )
    for bar in {b.case: b for b in reversed(bars)}.values():
        axis.annotate(
            plot_label(bar.case.title),
            (0, bar.y - 0.5),
            (3, 1),
            fontsize=8.5,
            fontweight='bold',
            textcoords='offset points',
        )
    axis.set_title(panel.title, fontsize=10, loc='left')
    axis.set_xlim(0, 1.16 * max(values) or 1)
    # Without a tick at the right edge, that would meet the next panel's 0.
    axis.locator_params(axis='x', nbins=6, prune='upper')
    axis.tick_params(axis='y', length=0, labelsize=8.5)
    axis.tick_params(axis='x', labelsize=8)
    axis.spines[['top', 'right']].set_visible(False)


def write_sweep_plot(
    path: Path, cases: Sequence[Case], form: str, reference: str, caption: str
) -> None:
    """A grid of ratios: architectures down, shapes across.

    Args:
        path: where the picture is put; the suffix says the format.
        cases: of a sweep, skipped ones too.
        form, reference: the ratio is the first one's time by the second's.
        caption: a line below, on where it was measured.
    """
    archs = list(dict.fromkeys(c.arch for c in cases))
    shapes = sorted({(c.size, c.batch) for c in cases})
    figure = new_figure(_WIDTH, 1.6 + 0.42 * len(archs), caption)
    axis = figure.subplots()
    ratios = {c: c.ratio(form, reference) for c in cases}
    limit = max([1 - r for r in ratios.values() if r] + [0.1])
    for case, ratio in ratios.items():
        place = (shapes.index((case.size, case.batch)), archs.index(case.arch))
        _draw_cell(axis, place, ratio, limit)
    axis.set_xlim(-0.5, len(shapes) - 0.5)
    axis.set_ylim(len(archs) - 0.5, -0.5)
    axis.set_xticks(range(len(shapes)), [f'{batch} x {size}²' for size, batch in shapes])
    axis.set_yticks(range(len(archs)), archs)
    axis.tick_params(length=0, labelsize=8.5)
    axis.spines[:].set_visible(False)
    axis.set_title(
        f'time of a training step, {form} / {reference} (blue: faster, orange: slower)',
        fontsize=10,
        loc='left',
    )
    save_figure(figure, path)


def _draw_cell(axis: Any, place: tuple[int, int], ratio: Optional[float], limit: float) -> None:
    """A square in blue below 1 and in orange above, with its number."""
    from matplotlib.patches import Rectangle

    x, y = place
    colour, depth = _shade(ratio, limit)
    axis.add_patch(
        Rectangle((x - 0.48, y - 0.46), 0.96, 0.92, facecolor=colour, alpha=depth, linewidth=0)
    )
    text = 'skipped' if ratio is None else f'{ratio:.2f}'
    axis.text(
        x,
        y,
        text,
        ha='center',
        va='center',
        fontsize=8.5,
        color='#999999' if ratio is None else 'black',
    )


def _shade(ratio: Optional[float], limit: float) -> tuple[str, float]:
    """Colour and opacity; whatever is slower is seen at once."""
    if ratio is None:
        return _NEUTRAL, 0.06
    if ratio >= 1.005:  # 1.01 as printed
        return COLOURS['branches'], min(0.3 + 2 * (ratio - 1), 1)
    return COLOURS['auto'], 0.7 * max(1 - ratio, 0) / limit
