"""Pictures for files, and names beside their points so that none meets another."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..utils.text import plot_label

#: Okabe and Ito's colours, told apart by colour-blind people too.
BLUE, ORANGE, VERMILION = '#0072B2', '#E69F00', '#D55E00'
SKY, GREEN, PINK = '#56B4E9', '#009E73', '#CC79A7'
_DPI = 160
#: Name, x and y in data, radius of the point's mark in points.
Spot = tuple[str, float, float, float]
#: Directions around a mark, best first.
_WAYS = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_GAPS = (3, 10, 20, 32, 48)  # points between mark and name
_BESIDE = 10  # points; a name farther off gets a line


def new_figure(width: float, height: float, caption: str = '') -> Any:
    """An empty white figure with a line below; sizes in inches."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout='constrained', facecolor='white')
    FigureCanvasAgg(figure)
    if caption:
        figure.supxlabel(plot_label(caption), fontsize=7, color='#555555')
    return figure


def save_figure(figure: Any, path: Path) -> None:
    """Write a picture; the suffix says the format."""
    figure.savefig(path, dpi=_DPI)


def place_labels(
    figure: Any, axis: Any, spots: Sequence[Spot], line: str = '#888888', **style: Any
) -> list[Any]:
    """Name every point; returns the labels.

    A name goes to the first free place around its mark, where none is free to the one that covers
    least. After that the axes must not move.

    Args:
        figure, axis: drawn to the end, but for the names.
        spots: what is named.
        line: colour of the line from a mark to a name that stands far off.
        style: of the text, as of ``Axes.annotate``.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine('none')
    scale = figure.dpi / 72
    taken = [_around(axis, spot, scale) for spot in spots]
    labels = []
    for own, spot in enumerate(spots):
        label = _label(axis, spot, line, style)
        text = _extent(figure, label)
        # A name may stand over its own mark rather than another's.
        places = [(way, gap) for gap in _GAPS for way in _WAYS]
        boxes = [_box(axis, text, spot, *place, scale) for place in places]
        others = taken[:own] + taken[own + 1 :]
        costs = [_cost(box, others, axis) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        _move(label, spot, *places[best])
        labels.append(label)
    return labels


def _label(axis: Any, spot: Spot, line: str, style: dict[str, Any]) -> Any:
    arrow = dict(arrowstyle='-', color=line, linewidth=0.6, shrinkA=0, shrinkB=0)
    return axis.annotate(
        spot[0],
        spot[1:3],
        (0, 0),
        textcoords='offset points',
        arrowprops=arrow,
        zorder=5,
        **{'fontsize': 8, **style},
    )


def _extent(figure: Any, label: Any) -> Any:
    from matplotlib.text import Text

    return Text.get_window_extent(label, figure._get_renderer())


def _offset(spot: Spot, way: tuple[int, int], gap: float) -> list[float]:
    """From the centre of the mark, in points."""
    slant = 0.7071 if all(way) else 1.0
    return [side * (spot[3] * slant + gap) for side in way]


def _box(axis: Any, text: Any, spot: Spot, way: tuple[int, int], gap: float, scale: float) -> Any:
    """Where a name with the extent ``text`` would stand, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = axis.transData.transform(spot[1:3])
    dx, dy = _offset(spot, way, gap)
    # A name stands right of its mark, left of it or centred.
    left = (-0.5, 0.0, -1.0)[way[0]] * text.width
    low = (-0.5, 0.0, -1.0)[way[1]] * text.height
    return Bbox.from_bounds(
        x + dx * scale + left, y + dy * scale + low, text.width, text.height
    ).padded(1.5 * scale)


def _move(label: Any, spot: Spot, way: tuple[int, int], gap: float) -> None:
    label.set_position(_offset(spot, way, gap))
    label.set_horizontalalignment(('center', 'left', 'right')[way[0]])
    label.set_verticalalignment(('center', 'bottom', 'top')[way[1]])
    label.arrow_patch.set_visible(gap > _BESIDE)


def _around(axis: Any, spot: Spot, scale: float) -> Any:
    from matplotlib.transforms import Bbox

    x, y = axis.transData.transform(spot[1:3])
    reach = max(spot[3], 3) * scale
    return Bbox.from_extents(x - reach, y - reach, x + reach, y + reach)


def _cost(box: Any, taken: Sequence[Any], axis: Any) -> float:
    """Area that would be covered, or cut off by the frame."""
    from matplotlib.transforms import Bbox

    inside = Bbox.intersection(box, axis.bbox)
    cut = box.width * box.height - (inside.width * inside.height if inside else 0)
    covered = [Bbox.intersection(box, other) for other in taken]
    return 3 * cut + sum(c.width * c.height for c in covered if c)
