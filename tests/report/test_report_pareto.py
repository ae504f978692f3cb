"""Size against accuracy: the right frontier, and labels that can be read."""

import itertools
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.text import Text
from report_kit import bare, sample

from mmpretrain_mobileone_ext.report import Candidate, FormRow, ReportData, figures
from mmpretrain_mobileone_ext.report.plots import pareto
from mmpretrain_mobileone_ext.report.plots.page_plots import WIDTHS, figure, style

LENGTHS = ('int8', 'palettize4', 'fp16', 'branches', 'folded', 'fp32', 'pruned', 'joint')


def data(*values):
    """Forms of (size, top1)."""
    forms = tuple(
        FormRow(LENGTHS[i % len(LENGTHS)] + str(i), 'coreml', 'f', size, top1)
        for i, (size, top1) in enumerate(values)
    )
    return ReportData('t', forms, 'images', 10, reference=forms[0].form)


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 40)), min_size=1, max_size=9))
def test_the_frontier_is_what_no_other_form_beats(values):
    points = pareto.pareto_points(data(*values))
    assert len(points) == len(values)
    for p in points:
        beaten = any(
            (q.size_bytes <= p.size_bytes and q.value > p.value)
            or (q.size_bytes < p.size_bytes and q.value >= p.value)
            for q in points
        )
        twin = any(
            q is not p and q.frontier and (q.size_bytes, q.value) == (p.size_bytes, p.value)
            for q in points
        )
        assert p.frontier == (not beaten and not twin)


def test_checks_and_unscored_forms_are_left_out_and_candidates_are_in():
    found = pareto.pareto_points(sample())
    names = [p.label for p in found]
    assert len(found) == 4 + 2
    assert 'palettize2' in names
    assert not any('computed in fp32' in name for name in names)
    assert pareto.pareto_plot(bare()) is None


def test_without_labels_the_picture_shows_agreement():
    rows = (
        FormRow('a', 'torch', '', 10, None, None, 100.0),
        FormRow('b', 'coreml', '', 5, None, None, 98.0),
    )
    found = ReportData('t', rows, 'noise', 16, candidates=(Candidate('c', 3, None, 91.0, False),))
    assert [p.value for p in pareto.pareto_points(found)] == [91, 98, 100]


@pytest.mark.parametrize('width', WIDTHS, ids=lambda w: w.name)
@pytest.mark.parametrize('seed', range(3))
def test_no_label_covers_another_or_a_mark_or_is_cut_off(seed, width):
    rng = np.random.default_rng(seed)
    values = [
        (int(10 ** rng.uniform(4.3, 6)), rng.choice([40.0, 91.5, 92.25, 92.5, 92.75]))
        for _ in range(10)
    ]
    boxes, marks, frame = drawn(data(*values), width)
    for one, other in itertools.combinations(boxes, 2):
        assert area(one, other) == 0
    for box in boxes:
        assert area(box, frame) == pytest.approx(size_of(box))
        assert sum(area(box, mark) for mark in marks) == 0


def test_labels_where_they_come_first_would_cover_each_other(monkeypatch):
    monkeypatch.setattr(figures, '_WAYS', figures._WAYS[:1])
    monkeypatch.setattr(figures, '_GAPS', figures._GAPS[:1])
    boxes, _, _ = drawn(data((450, 93.9), (445, 93.9), (900, 92)), WIDTHS[0])
    assert any(area(*pair) for pair in itertools.combinations(boxes, 2))


def test_labels_of_a_usual_report_are_all_free():
    values = [
        (450, 93.9),
        (417, 93.9),
        (445, 93.9),
        (239, 93.9),
        (145, 93.8),
        (116, 93.4),
        (89, 72.7),
        (61, 9.7),
    ]
    found = data(*((size * 1024, top1) for size, top1 in values))
    for width in WIDTHS:
        boxes, _, _ = drawn(found, width)
        for one, other in itertools.combinations(boxes, 2):
            assert area(one, other) == 0
        assert len(boxes) == len(values)


def drawn(found, width):
    """Boxes of labels and of marks, and the figure's box."""
    with style():
        return _drawn(found, width)


def _drawn(found, width):
    points = pareto.pareto_points(found)
    canvas = figure(width, 4.2)
    axis = canvas.subplots()
    pareto._axes(axis, points, 'top-1 %', None, width)
    pareto._marks(axis, points, None)
    labels = pareto._names(canvas, axis, points)
    renderer = canvas._get_renderer()
    for label in labels:
        label.update_positions(renderer)
    boxes = [Text.get_window_extent(label, renderer) for label in labels]
    spots = [('', *pareto._place(axis, p), pareto._RADIUS) for p in points]
    marks = [figures._around(axis, spot, canvas.dpi / 72) for spot in spots]
    return boxes, marks, canvas.bbox


def area(one, other):
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return max(width, 0) * max(height, 0)


def size_of(box):
    return box.width * box.height


def test_steps_of_a_search_are_marks_without_names():
    tried = tuple(
        Candidate(f'{i} x int8, 1 x palettize4', 900 + 10 * i, 90.0, None, True) for i in range(30)
    )
    same = Candidate('none', 2000, 90.5, None, True)
    found = replace(data((2000, 90.5), (1000, 90.2)), candidates=(*tried, same))
    points = pareto.pareto_points(found)
    assert sum(p.kind == 'tried' for p in points) == 30
    assert len(points) == 32
    boxes, _, _ = drawn(found, WIDTHS[1])
    assert len(boxes) == 2


def test_a_form_that_lost_its_accuracy_does_not_flatten_the_rest():
    low, high = pareto._span([93.0, 92.8, 9.7], 92.5)
    assert 90 < low < 92.5 < 93 < high < 94
    low, high = pareto._span([93.0], None)
    assert low < 93 < high


def test_the_picture_tells_all_its_figures_in_words():
    picture = pareto.pareto_plot(sample())
    assert picture.count('<svg') == len(WIDTHS)
    assert 'palettize2 20.5\u00a0KiB, 40.25 %' in picture


@pytest.mark.parametrize('top1', [100.0, 93.33])
def test_forms_that_are_equally_good_have_an_axis_to_read(top1):
    """Equal steps, several of them, around the value, and no share above 100 %."""
    forms = [FormRow(n, 'coreml', f'{n}.mlpackage', s, top1) for n, s in (('a', 900), ('b', 500))]
    drawn = pareto.pareto_plot(ReportData('t', tuple(forms), 'all', 15))
    ticks = sorted({float(t) for t in re.findall(r'>([\d.]+)</text>', drawn)})
    assert len(ticks) >= 3
    assert ticks[-1] <= 100
    steps = [b - a for a, b in zip(ticks, ticks[1:])]
    assert max(steps) - min(steps) < 1e-6
