"""Pictures of what happens inside a file: drift, ranges, weights."""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

from ..coreml.weight_ranges import WeightRange
from ..outside_text import shown
from .data import FP16_MAX, Drift
from .draw import ACCENT, BAD, GOOD, INK, MUTED, OTHER, Width, picture
from .wording import TIMES, decibel, magnitude, small

_COLOURS = (ACCENT, OTHER, GOOD)
_LAYERS = 12  # of the hardest
_TINY = 1e-9  # stands for zero on a logarithmic axis


def drift_plot(drifts: Sequence[Drift]) -> Optional[str]:
    """Relative error and largest |value| along the program, or None."""
    drifts = [d for d in drifts if d.rows]
    if not drifts:
        return None
    alt = 'Relative error of fp16 against fp32 along the program: ' + \
        '; '.join(f'{d.form}: {_worst_words(d)}' for d in drifts)

    def draw(figure: Any, width: Width) -> None:
        error, peak = figure.subplots(2, 1, sharex=True)
        for drift, colour in zip(drifts, _COLOURS):
            _draw_error(error, drift, colour)
            peak.plot([max(r.peak, _TINY) for r in drift.rows],
                      color=colour, linewidth=1.2)
        _name_worst(error, drifts[0])
        for axis in (error, peak):
            axis.set_yscale('log')
        _limit(peak, drifts)
        for axis in (error, peak):
            _plain_ticks(axis)
        error.set_title('relative error of the value', loc='left',
                        fontsize=9, color=MUTED)
        peak.set_title('largest |value|; above the line fp16 overflows',
                       loc='left', fontsize=9, color=MUTED)
        peak.set_xlabel('operation, in execution order')
        if len(drifts) > 1:
            error.legend(loc='lower right', fontsize=8, frameon=False,
                         labelcolor=INK)

    return picture(draw, 4.6, alt)


def _draw_error(axis: Any, drift: Drift, colour: str) -> None:
    drawn = [(i, r.relative) for i, r in enumerate(drift.rows)
             if r.relative]
    axis.plot([i for i, _ in drawn], [v for _, v in drawn], color=colour,
              linewidth=1.2, marker='o', markersize=2.5,
              label=shown(drift.form))
    lost = [i for i, r in enumerate(drift.rows) if r.relative is None]
    top = max([v for _, v in drawn if v] or [1.0])
    axis.plot(lost, [top] * len(lost), linestyle='', marker='x', color=BAD,
              markersize=6)


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
    low, high = axis.get_ylim()
    subs = (1, 2, 5) if high < 100 * low else (1, )
    axis.yaxis.set_major_locator(LogLocator(subs=subs, numticks=5))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f'{v:g}'))
    axis.yaxis.set_minor_formatter(NullFormatter())


def _name_worst(axis: Any, drift: Drift) -> None:
    """Names of the largest errors would overlap: only the largest one."""
    rows = [(r.relative, i) for i, r in enumerate(drift.rows) if r.relative]
    if not rows:
        return
    value, at = max(rows)
    left = at > len(drift.rows) / 2
    name = shown(drift.rows[at].type)
    axis.annotate(f'{name}, {small(value)}', (at, value),
                  (-6 if left else 6, 5), textcoords='offset points',
                  ha='right' if left else 'left', fontsize=8, color=INK,
                  annotation_clip=False)
    axis.margins(y=0.18)


def _limit(axis: Any, drifts: Sequence[Drift]) -> None:
    peaks = [r.peak for d in drifts for r in d.rows if r.peak > 0]
    axis.axhline(FP16_MAX, color=BAD, linewidth=0.9, linestyle=(0, (4, 3)))
    axis.annotate('65504', (0, FP16_MAX), (2, -3), fontsize=8, color=BAD,
                  textcoords='offset points', va='top')
    low, high = min([*peaks, 1.0]), max([*peaks, FP16_MAX])
    axis.set_ylim(low / 3, high * 4)


def _worst_words(drift: Drift) -> str:
    lost = [r.name for r in drift.rows if r.relative is None]
    if lost:
        return f'{len(lost)} operations are not finite, first {lost[0]}'
    worst = max(drift.rows, key=lambda r: r.relative or 0)
    return f'largest {small(worst.relative)} in {worst.name} ({worst.type})'


def ranges_plot(rows: Sequence[WeightRange]) -> Optional[str]:
    """What int8 keeps of the layers that it fits worst, or None."""
    hardest = list(rows)[:_LAYERS]
    if not hardest:
        return None
    alt = 'Signal to noise of int8 weights, one scale for all channels and ' \
        'one for each: ' + '; '.join(
            f'{r.layer} {decibel(r.sqnr_tensor_db)} and '
            f'{decibel(r.sqnr_channel_db)} dB' for r in hardest)

    def draw(figure: Any, width: Width) -> None:
        axis = figure.subplots()
        low = min(r.sqnr_tensor_db for r in hardest) - 3
        high = max(max(r.sqnr_channel_db, r.sqnr_tensor_db)
                   for r in hardest) + 3
        for at, row in enumerate(hardest):
            _draw_range(axis, at, row, (low + high) / 2)
        axis.set_ylim(len(hardest) - 0.4, -0.85)
        axis.set_xlim(low, high)
        axis.set_yticks([])
        axis.spines['left'].set_visible(False)
        axis.grid(axis='y', visible=False)
        axis.set_xlabel('signal to noise of int8 weights, dB')

    return picture(draw, 0.7 + 0.36 * len(hardest), alt)


def _draw_range(axis: Any, at: int, row: WeightRange, middle: float) -> None:
    """One layer: its name above a line from one scale to one a channel."""
    ends = sorted((row.sqnr_tensor_db, row.sqnr_channel_db))
    left = ends[0] < middle
    axis.plot(ends, [at, at],
              color=MUTED, linewidth=1)
    axis.plot(row.sqnr_channel_db, at, 'o', color=ACCENT, markersize=5.5)
    axis.plot(row.sqnr_tensor_db, at, 'o', markersize=5.5,
              color=BAD if row.why else OTHER)
    axis.annotate(f'{shown(row.layer)}  {magnitude(row.ratio)} {TIMES}',
                  (ends[0] if left else ends[1], at - 0.4),
                  (-3 if left else 3, 0), textcoords='offset points',
                  fontsize=8, color=INK if row.why else MUTED, va='center',
                  ha='left' if left else 'right')
