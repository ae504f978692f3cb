"""SVG pictures that take their colours and fonts from the page."""

from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Optional

from ...utils.parity import FP16_MAX
from ...utils.text import TIMES, decibel, magnitude, shown, small
from ..data import Drift
from ..layers import WeightRange

#: Colours on the canvas that stand for the page's variables, so that one picture serves light and
#: dark.
_NAMES = ('ink', 'muted', 'line', 'good', 'bad', 'accent', 'other', 'paper')
_VARIABLES = {f'#0{i}0{i}0{i}': name for i, name in enumerate(_NAMES, 1)}
INK, MUTED, GRID, GOOD, BAD, ACCENT, OTHER, PAPER = _VARIABLES
_COLOURS = (ACCENT, OTHER, GOOD)  # of the lines of one plot
_LAYERS = 12  # of the hardest
_TINY = 1e-9  # stands for zero on a logarithmic axis
_STYLE = {
    'svg.fonttype': 'none',
    'svg.hashsalt': 'report',  # the same picture, the same text
    'font.family': ['sans-serif'],
    'font.sans-serif': ['DejaVu Sans'],
    'font.size': 9,
    'text.parse_math': False,
    'text.color': INK,
    'axes.edgecolor': GRID,
    'axes.labelcolor': MUTED,
    'axes.grid': True,
    'axes.axisbelow': True,
    'axes.spines.top': False,
    'axes.spines.right': False,
    'grid.color': GRID,
    'grid.linewidth': 0.6,
    'xtick.color': MUTED,
    'ytick.color': MUTED,
    'xtick.major.size': 0,
    'ytick.major.size': 0,
    'xtick.minor.size': 0,
    'ytick.minor.size': 0,
    'xtick.major.pad': 7,
    'axes.formatter.useoffset': False,
}
_DROPPED = re.compile(r'<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>', re.S)
#: What matplotlib writes for the font below; the page has one of its own.
_FAMILY = re.compile("'DejaVu Sans'[^;\"]*")


@dataclass(frozen=True)
class Width:
    """A width of the page that a picture is drawn for.

    Attributes:
        name: class of the element that shows it.
        inches: of the canvas; the picture grows with the page.
    """

    name: str
    inches: float

    @property
    def is_narrow(self) -> bool:
        """Whether it is a phone's."""
        return self.inches < 5


#: A phone gets a picture of its own: a shrunk one could not be read.
WIDTHS = (Width('wide', 8.6), Width('narrow', 3.35))

#: Draws on an empty figure; knows the width to place labels.
Draw = Callable[[Any, Width], None]


def picture(draw: Draw, height: float, alt: str) -> str:
    """SVG elements for all widths, to be put into the page as they are.

    Args:
        draw: draws on a figure.
        height: inches.
        alt: the picture in words.
    """
    return ''.join(_svg(draw, width, height, alt) for width in WIDTHS)


def figure(width: Width, height: float) -> Any:
    """An empty figure; colours must be set inside :func:`style`."""
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    made = Figure(figsize=(width.inches, height), layout='constrained')
    made.patch.set_alpha(0)
    FigureCanvasSVG(made)
    return made


def style() -> Any:
    """A context in which matplotlib draws in the page's colours."""
    from matplotlib import rc_context

    return rc_context(dict(_STYLE))  # type: ignore[arg-type]


def _svg(draw: Draw, width: Width, height: float, alt: str) -> str:
    stream = io.StringIO()
    with style(), warnings.catch_warnings():
        # Text stays text: the reader's browser has the letters.
        warnings.filterwarnings('ignore', r'Glyph .* missing from font')
        canvas = figure(width, height)
        draw(canvas, width)
        canvas.savefig(stream, format='svg', metadata={'Date': None}, transparent=True)
    return themed(stream.getvalue(), width.name, alt)


def themed(svg: str, name: str, alt: str) -> str:
    """A drawn SVG as an element of the page: no fixed colour, size or id."""
    svg = _DROPPED.sub('', svg)
    for colour, variable in _VARIABLES.items():
        svg = svg.replace(colour, f'var(--{variable})')
    svg = _FAMILY.sub('system-ui, sans-serif', svg)
    # Two pictures in one page must not share the ids they refer to.
    prefix = f'{name}-{zlib.crc32(svg.encode()):x}-'
    svg = re.sub(r'\bid="', f'id="{prefix}', svg)
    svg = re.sub(r'((?:xlink:href="|url\()#)', rf'\1{prefix}', svg)
    head = f'<svg class="plot {name}" role="img" aria-label="{escape(shown(alt), quote=True)}"'
    # Its size in points gives way to the page's; the view box stays.
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r'\1', svg, count=1)
    return svg.replace('<svg', head, 1).strip()


def drift_plot(drifts: Sequence[Drift]) -> Optional[str]:
    """Relative error and largest |value| along the program, or None."""
    drifts = [d for d in drifts if d.rows]
    if not drifts:
        return None
    alt = 'Relative error of fp16 against fp32 along the program: ' + '; '.join(
        f'{d.form}: {_worst_words(d)}' for d in drifts
    )

    def draw(figure: Any, width: Width) -> None:
        error, peak = figure.subplots(2, 1, sharex=True)
        for drift, colour in zip(drifts, _COLOURS):
            _draw_error(error, drift, colour)
            peak.plot([max(r.peak, _TINY) for r in drift.rows], color=colour, linewidth=1.2)
        _name_worst(error, drifts[0])
        error.set_yscale('log')
        peak.set_yscale('log')
        _limit(peak, drifts)
        _plain_ticks(error)
        _plain_ticks(peak)
        error.set_title('relative error of the value', loc='left', fontsize=9, color=MUTED)
        peak.set_title(
            'largest |value|; above the line fp16 overflows', loc='left', fontsize=9, color=MUTED
        )
        peak.set_xlabel('operation, in execution order')
        if len(drifts) > 1:
            error.legend(loc='lower right', fontsize=8, frameon=False, labelcolor=INK)

    return picture(draw, 4.6, alt)


def _draw_error(axis: Any, drift: Drift, colour: str) -> None:
    drawn = [(i, r.relative) for i, r in enumerate(drift.rows) if r.relative]
    axis.plot(
        [i for i, _ in drawn],
        [v for _, v in drawn],
        color=colour,
        linewidth=1.2,
        marker='o',
        markersize=2.5,
        label=shown(drift.form),
    )
    lost = [i for i, r in enumerate(drift.rows) if r.relative is None]
    top = max([v for _, v in drawn if v] or [1.0])
    axis.plot(lost, [top] * len(lost), linestyle='', marker='x', color=BAD, markersize=6)


def _plain_ticks(axis: Any) -> None:
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    low, high = axis.get_ylim()
    subs = (1, 2, 5) if high < 100 * low else (1,)
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
    name = shown(drift.rows[at].place or drift.rows[at].type)
    axis.annotate(
        f'{name}, {small(value)}',
        (at, value),
        (-6 if left else 6, 5),
        textcoords='offset points',
        ha='right' if left else 'left',
        fontsize=8,
        color=INK,
        annotation_clip=False,
    )
    axis.margins(y=0.18)


def _limit(axis: Any, drifts: Sequence[Drift]) -> None:
    peaks = [r.peak for d in drifts for r in d.rows if r.peak > 0]
    axis.axhline(FP16_MAX, color=BAD, linewidth=0.9, linestyle=(0, (4, 3)))
    axis.annotate(
        str(FP16_MAX),
        (0, FP16_MAX),
        (2, -3),
        fontsize=8,
        color=BAD,
        textcoords='offset points',
        va='top',
    )
    low, high = min([*peaks, 1.0]), max([*peaks, FP16_MAX])
    axis.set_ylim(low / 3, high * 4)


def _worst_words(drift: Drift) -> str:
    lost = [r.called for r in drift.rows if r.relative is None]
    if lost:
        return f'{len(lost)} operations are not finite, first {lost[0]}'
    worst = max(drift.rows, key=lambda r: r.relative or 0)
    return f'largest {small(worst.relative)} in {worst.called} ({worst.type})'


def ranges_plot(rows: Sequence[WeightRange]) -> Optional[str]:
    """What int8 keeps of the layers that it fits worst, or None."""
    hardest = list(rows)[:_LAYERS]
    if not hardest:
        return None
    alt = (
        'Signal to noise of int8 weights, one scale for all channels and one for each: '
        + '; '.join(
            f'{r.called} {decibel(r.sqnr_tensor_db)} and {decibel(r.sqnr_channel_db)} dB'
            for r in hardest
        )
    )

    def draw(figure: Any, width: Width) -> None:
        axis = figure.subplots()
        low = min(r.sqnr_tensor_db for r in hardest) - 3
        high = max(max(r.sqnr_channel_db, r.sqnr_tensor_db) for r in hardest) + 3
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
    axis.plot(ends, [at, at], color=MUTED, linewidth=1)
    axis.plot(row.sqnr_channel_db, at, 'o', color=ACCENT, markersize=5.5)
    axis.plot(row.sqnr_tensor_db, at, 'o', markersize=5.5, color=BAD if row.why else OTHER)
    axis.annotate(
        f'{shown(row.called)}  {magnitude(row.ratio)} {TIMES}',
        (ends[0] if left else ends[1], at - 0.4),
        (-3 if left else 3, 0),
        textcoords='offset points',
        fontsize=8,
        color=INK if row.why else MUTED,
        va='center',
        ha='left' if left else 'right',
    )
