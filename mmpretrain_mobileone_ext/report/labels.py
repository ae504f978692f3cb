"""Names beside bubbles, so that none meets another or a bubble."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

#: Directions around a bubble, best first.
_WAYS = ((1, 0), (0, 1), (0, -1), (-1, 0), (1, 1), (1, -1), (-1, 1), (-1, -1))
_GAPS = (3, 10, 20, 32)  # points between bubble and name
_BESIDE = 10  # points; a name farther off gets a line
#: Name, x and y in data, radius of the bubble in points.
Spot = tuple[str, float, float, float]


def place_labels(figure: Any, axis: Any, spots: Sequence[Spot]) -> list[Any]:
    """Name every bubble; returns the labels.

    A name goes to the first free place around its bubble, where none is free
    to the one that covers least.
    """
    figure.draw_without_rendering()
    figure.set_layout_engine('none')
    scale = figure.dpi / 72
    taken = [_around(axis, spot, scale) for spot in spots]
    labels = []
    for own, spot in enumerate(spots):
        label = axis.annotate(
            spot[0],
            spot[1:3],
            (0, 0),
            fontsize=8,
            textcoords='offset points',
            color='#222222',
            zorder=5,
            arrowprops=_line(),
            path_effects=_halo(),
        )
        text = _extent(figure, label)
        # A name may stand over its own bubble rather than another's.
        places = [(way, gap) for gap in _GAPS for way in _WAYS]
        boxes = [_box(axis, text, spot, *place, scale) for place in places]
        others = taken[:own] + taken[own + 1 :]
        costs = [_cost(box, others, axis) for box in boxes]
        best = costs.index(min(costs))
        taken.append(boxes[best])
        _move(label, spot, *places[best])
        labels.append(label)
    return labels


def _halo() -> list[Any]:
    """Lines that a name crosses stop short of its letters."""
    from matplotlib.patheffects import withStroke

    return [withStroke(linewidth=2.5, foreground='white')]


def _line() -> dict[str, Any]:
    return dict(arrowstyle='-', color='#888888', linewidth=0.6, shrinkA=0, shrinkB=0)


def _extent(figure: Any, label: Any) -> Any:
    from matplotlib.text import Text

    return Text.get_window_extent(label, figure._get_renderer())


def _offset(spot: Spot, way: tuple[int, int], gap: float) -> list[float]:
    """From the centre of the bubble, in points."""
    slant = 0.7071 if all(way) else 1.0
    return [side * (spot[3] * slant + gap) for side in way]


def _box(axis: Any, text: Any, spot: Spot, way: tuple[int, int], gap: float, scale: float) -> Any:
    """Where the name would stand, in pixels."""
    from matplotlib.transforms import Bbox

    x, y = axis.transData.transform(spot[1:3])
    dx, dy = _offset(spot, way, gap)
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
