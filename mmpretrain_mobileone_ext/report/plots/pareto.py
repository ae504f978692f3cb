"""Size against accuracy of every form, the frontier drawn through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Optional

from ...utils.text import percent, shown, size
from ..data import Candidate, ReportData
from ..figures import place_labels
from .page_plots import ACCENT, BAD, INK, MUTED, OTHER, PAPER, Width, picture

#: How many times the bound the picture goes below the best form.
_DEPTH = 4
#: Of a mark that has a name, in points.
_RADIUS = 4


@dataclass(frozen=True)
class Point:
    """One form in the picture.

    Attributes:
        label: its name.
        size_bytes: of its file.
        value: top-1, or agreement without labels, in percent.
        kind: as of ``FormRow``, or 'tried' for a step of a search, which stays without a name.
        frontier: no other is both smaller and as good.
    """

    label: str
    size_bytes: int
    value: float
    kind: str
    frontier: bool


#: Name, bytes, percent and kind of a point.
_Row = tuple[str, Optional[int], Optional[float], str]


def pareto_points(data: ReportData) -> list[Point]:
    """Forms and candidates with a size and a score, smallest first.

    Computing a file in fp32 changes no size: such rows are left out. So are candidates that were
    scored on other images, see :func:`search_plot`.
    """
    labelled = data.labelled
    rows: list[_Row] = [
        (f.short, f.size_bytes, f.top1 if labelled else f.agreement, f.kind) for f in data.shown
    ]
    if not data.searched_apart:
        rows += [row for c, row in _candidate_rows(data) if not c.chosen and c.is_compressed]
    return _points(rows)


def search_points(data: ReportData) -> list[Point]:
    """What a search tried on images of its own, smallest first."""
    return _points([row for _, row in _candidate_rows(data)])


def _candidate_rows(data: ReportData) -> list[tuple[Candidate, _Row]]:
    """Without single layers, which are steps on the way to the others."""
    return [
        (
            c,
            (
                'not compressed'
                if not c.is_compressed
                else 'chosen'
                if c.chosen and not c.is_fixed
                else c.scheme,
                c.size_bytes,
                c.top1 if data.labelled else c.agreement,
                'coreml' if c.is_fixed or c.chosen else 'tried',
            ),
        )
        for c in data.candidates
        if c.kind != 'layer'
    ]


def _points(rows: Sequence[_Row]) -> list[Point]:
    found = sorted(
        (
            (name, weight, value, kind)
            for name, weight, value, kind in rows
            if weight and value is not None
        ),
        key=lambda r: (r[1], -r[2]),
    )
    points, best = [], -1.0
    for name, weight, value, kind in found:
        points.append(Point(shown(name), weight, value, kind, value > best))
        best = max(best, value)
    return points


def pareto_plot(data: ReportData) -> Optional[str]:
    """The picture of all forms, or None with fewer than two points."""
    base = data.baseline_form
    top = None if base is None else base.top1 if data.labelled else base.agreement
    return _plot(data, pareto_points(data), top)


def search_plot(data: ReportData) -> Optional[str]:
    """What a search tried, where forms were scored on other images."""
    if not data.searched_apart:
        return None
    tops = [
        c.top1 if data.labelled else c.agreement for c in data.candidates if not c.is_compressed
    ]
    return _plot(data, search_points(data), tops[0] if tops else None)


def _plot(data: ReportData, points: Sequence[Point], top: Optional[float]) -> Optional[str]:
    if len(points) < 2:
        return None
    what = 'top-1 %' if data.labelled else 'same label %'
    bound = None if top is None else top - data.max_drop
    alt = f'Size against {what}: ' + '; '.join(
        f'{p.label} {size(p.size_bytes)}, {percent(p.value)} %' for p in points
    )

    def draw(figure: Any, width: Width) -> None:
        axis = figure.subplots()
        _axes(axis, points, what, bound, width)
        _marks(axis, points, bound)
        _names(figure, axis, points)

    return picture(draw, 4.2, alt)


def _axes(
    axis: Any, points: Sequence[Point], what: str, bound: Optional[float], width: Width
) -> None:
    sizes = [p.size_bytes for p in points]
    room = max((max(sizes) / min(sizes)) ** 0.2, 1.35)
    low, high = min(sizes) / room, max(sizes) * room
    axis.set_xscale('log')
    axis.set_xlim(low, high)
    axis.set_xticks(_ticks(low, high, 4 if width.is_narrow else 7))
    axis.xaxis.set_major_formatter(lambda v, _: size(round(v)))
    axis.xaxis.set_minor_locator(_nothing())
    axis.set_xlabel('size on disk')
    axis.set_ylim(*_span([p.value for p in points], bound))
    axis.set_yticks(_shares(*axis.get_ylim()))
    axis.set_title(what, loc='left', fontsize=9, color=MUTED)


def _span(values: Sequence[float], bound: Optional[float]) -> tuple[float, float]:
    """Limits around what is worth a look.

    A form that lost most of its accuracy would press all others into a line: the picture ends a few
    times the bound below the best, and such forms stand on its lower edge.
    """
    best = max(values)
    loss = 0.0 if bound is None else max(best - bound, 0)
    floor = best - max(_DEPTH * loss, 2.0)
    low = min(v for v in [*values, best if bound is None else bound] if v >= floor)
    room = max((best - low) * 0.3, 0.2)
    return low - room, best + room


def _shares(low: float, high: float) -> list[float]:
    """A handful of percents in equal steps; none beyond 0 and 100."""
    from matplotlib.ticker import MaxNLocator

    found = MaxNLocator(nbins=6, steps=(1, 2, 5, 10)).tick_values(low, high)
    return [float(v) for v in found if max(low, 0) <= v <= min(high, 100)]


def _nothing() -> Any:
    from matplotlib.ticker import NullLocator

    return NullLocator()


def _ticks(low: float, high: float, most: int) -> list[float]:
    """Powers of two of bytes, a few of them."""
    found = [2.0**k for k in range(60) if low <= 2.0**k <= high]
    step = -(-len(found) // most) if found else 1
    return found[::step] or [low, high]


def _marks(axis: Any, points: Sequence[Point], bound: Optional[float]) -> None:
    low, high = axis.get_ylim()
    if bound is not None and low < bound < high:
        axis.axhspan(low, bound, color=BAD, alpha=0.07, linewidth=0)
        axis.axhline(bound, color=BAD, linewidth=0.8, linestyle=(0, (4, 3)))
    front = [p for p in points if p.frontier]
    axis.step(
        [p.size_bytes for p in front],
        [p.value for p in front],
        where='post',
        color=ACCENT,
        linewidth=1.2,
        alpha=0.6,
    )
    for p in points:
        colour = OTHER if p.kind == 'torch' else ACCENT
        shape = 's' if p.kind == 'torch' else 'o'
        below = p.value < low
        axis.plot(
            *_place(axis, p),
            linestyle='',
            color=colour,
            marker='v' if below else shape,
            markersize=4 if p.kind == 'tried' else 7,
            markeredgecolor=colour,
            clip_on=False,
            zorder=3,
            markerfacecolor=colour if p.frontier else PAPER,
        )


def _place(axis: Any, point: Point) -> tuple[float, float]:
    """Where its mark stands: on the lower edge if it is below."""
    return point.size_bytes, max(point.value, axis.get_ylim()[0])


def _names(figure: Any, axis: Any, points: Sequence[Point]) -> list[Any]:
    """Name every point; a crowd of small marks has no names, and may be covered."""
    spots = [(_words(axis, p), *_place(axis, p), _RADIUS) for p in points if p.kind != 'tried']
    box = dict(facecolor=PAPER, alpha=0.8, linewidth=0, pad=0.6)
    return place_labels(figure, axis, spots, line=MUTED, color=INK, bbox=box)


def _words(axis: Any, point: Point) -> str:
    """Its name; with the value where the axis does not show it."""
    if point.value >= axis.get_ylim()[0]:
        return point.label
    return f'{point.label}: {percent(point.value)}'
