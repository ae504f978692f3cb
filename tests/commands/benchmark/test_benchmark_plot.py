"""Pictures: real files, all values on them, no labels over each other."""

from itertools import combinations

import pytest
from benchmark_kit import made_cost

from mmpretrain_mobileone_ext.commands.benchmark.training import table as plot
from mmpretrain_mobileone_ext.commands.benchmark.training.options import FORMS, QUANTIZED_FORMS
from mmpretrain_mobileone_ext.commands.benchmark.training.results import Case, Cost

PNG = b'\x89PNG\r\n'


def full_case(arch, scale=1000.0):
    costs = [
        made_cost(form, scale / (i + 1), saved=10**9 // (i + 1)) for i, form in enumerate(FORMS)
    ]
    return Case(arch, 32, 224, tuple(costs))


@pytest.fixture
def figures(monkeypatch):
    """Figures as they are drawn."""
    kept, make = [], plot.new_figure

    def keep(*given):
        kept.append(make(*given))
        return kept[-1]

    monkeypatch.setattr(plot, 'new_figure', keep)
    return kept


def text_boxes(figure):
    """(text, extent) of everything that is written in the axes."""
    texts = [
        t for axis in figure.axes for t in (*axis.texts, axis._left_title, *ticks_in_view(axis))
    ]
    return [(t.get_text(), t.get_window_extent()) for t in texts if t.get_text()]


def ticks_in_view(axis):
    low, high = axis.get_xlim()
    return [t for t in axis.get_xticklabels() if low <= t.get_position()[0] <= high]


@pytest.mark.parametrize('archs', [['s0'], ['s0', 's1'], ['s0', 's1', 's2', 's3', 's4']])
def test_no_text_lies_over_another(tmp_path, figures, archs):
    path = tmp_path / 'chart.png'
    plot.write_cost_plot(path, [full_case(a) for a in archs], 'a caption')
    assert path.read_bytes().startswith(PNG)
    boxes = text_boxes(figures[0])
    assert len(boxes) >= 2 * len(archs) * (len(FORMS) + 1)
    for (one, a), (other, b) in combinations(boxes, 2):
        assert not a.overlaps(b), f'{one!r} and {other!r}'


def test_every_value_is_written(tmp_path, figures):
    case = Case(
        's0',
        8,
        64,
        (made_cost('branches', 123.0, saved=456_000_000), Cost('auto', failure='out of memory')),
    )
    plot.write_cost_plot(tmp_path / 'chart.png', [case], 'a caption')
    written = [text for text, _ in text_boxes(figures[0])]
    assert {'123', '456', 's0, 8x3x64x64'} <= set(written)
    assert written.count('out of memory') == 2


def test_nothing_ran(tmp_path):
    case = Case('s0', 8, 64, (Cost('auto', failure='out of memory'),))
    plot.write_cost_plot(tmp_path / 'chart.png', [case], 'a caption')
    assert (tmp_path / 'chart.png').read_bytes().startswith(PNG)


def test_forms_differ_in_colour():
    assert plot.COLOURS.keys() == FORMS.keys() | QUANTIZED_FORMS.keys()
    assert len(set(plot.COLOURS.values())) == len(plot.COLOURS)


def test_a_sweep_is_a_grid_of_ratios(tmp_path, figures):
    cases = [
        Case('s0', 1, 64, (made_cost('branches', 10.0), made_cost('auto', 4.0))),
        Case('s1', 1, 64, (made_cost('branches', 10.0), made_cost('auto', 12.0))),
        Case('s1', 8, 64, skipped='too large'),
    ]
    path = tmp_path / 'grid.svg'
    plot.write_sweep_plot(path, cases, 'auto', 'branches', 'a caption')
    assert '<svg' in path.read_text()
    written = {text for text, _ in text_boxes(figures[0])}
    assert {'0.40', '1.20', 'skipped', '1 x 64²', '8 x 64²'} <= written


def test_slower_is_orange_faster_blue():
    blue, orange = plot.COLOURS['auto'], plot.COLOURS['branches']
    assert plot._shade(0.5, 0.5) == (blue, 0.7)
    assert plot._shade(1.0, 0.5) == (blue, 0.0)
    assert plot._shade(1.1, 0.5) == (orange, pytest.approx(0.5))
    assert plot._shade(9.0, 0.5) == (orange, 1)
