"""SVG pictures that take their colours and fonts from the page."""
from __future__ import annotations

import io
import re
import warnings
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from typing import Any

from ..outside_text import shown

#: Colours on the canvas that stand for the page's variables, so that one
#: picture serves light and dark.
INK, MUTED, GRID, GOOD, BAD, ACCENT, OTHER, PAPER = (
    '#010101', '#020202', '#030303', '#040404', '#050505', '#060606',
    '#070707', '#080808')
_VARIABLES = {
    INK: 'ink',
    MUTED: 'muted',
    GRID: 'line',
    GOOD: 'good',
    BAD: 'bad',
    ACCENT: 'accent',
    OTHER: 'other',
    PAPER: 'paper',
}
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
_DROPPED = re.compile(
    r'<\?xml.*?\?>|<!DOCTYPE.*?>|<!--.*?-->|<metadata>.*?</metadata>', re.S)
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
        canvas.savefig(stream, format='svg', metadata={'Date': None},
                       transparent=True)
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
    head = (f'<svg class="plot {name}" role="img" '
            f'aria-label="{escape(shown(alt), quote=True)}"')
    # Its size in points gives way to the page's; the view box stays.
    svg = re.sub(r'(<svg [^>]*?) width="[^"]*" height="[^"]*"', r'\1', svg,
                 count=1)
    return svg.replace('<svg', head, 1).strip()

