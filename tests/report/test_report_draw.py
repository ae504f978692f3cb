"""Pictures that follow the page's colours, fonts and width."""

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.report import Drift
from mmpretrain_mobileone_ext.report.layers import OperationDrift, WeightRange
from mmpretrain_mobileone_ext.report.plots import page_plots as draw
from mmpretrain_mobileone_ext.report.plots.page_plots import drift_plot, ranges_plot

ROWS = (
    OperationDrift('a', 'conv', 'fp16', 1e-4, 12.0, 0),
    OperationDrift('b', 'mul', 'fp16', None, 1e6, 3),
    OperationDrift('c', 'relu', 'fp16', 0.0, 0.0, 0),
)


def picture(text='text'):

    def paint(figure, width):
        axis = figure.subplots()
        axis.plot([1, 2], [3, 4], color=draw.ACCENT)
        axis.set_title(text, color=draw.INK)
        axis.fill_between([1, 2], [3, 4], color=draw.BAD)

    return draw.picture(paint, 2, 'in words')


def test_all_colours_are_the_pages():
    found = picture()
    assert re.findall(r'#[0-9a-fA-F]{6}\b', found) == []
    assert {'var(--accent)', 'var(--ink)', 'var(--bad)', 'var(--line)'} <= set(
        re.findall(r'var\(--\w+\)', found)
    )


def test_a_picture_for_every_width_grows_with_the_page():
    heads = re.findall(r'<svg [^>]*>', picture())
    assert len(heads) == len(draw.WIDTHS) == 2
    for head, width in zip(heads, draw.WIDTHS):
        assert f'class="plot {width.name}"' in head
        assert 'viewBox' in head
        assert ' width=' not in head
        assert ' height=' not in head


def test_text_stays_text_in_the_pages_font():
    found = picture('a title')
    assert re.search(r'<text[^>]*>a title</text>', found)
    assert 'DejaVu' not in found


def test_the_same_picture_is_the_same_text():
    assert picture() == picture()


@settings(max_examples=6)
@given(st.text(st.characters(codec='utf-8', exclude_categories=('C',)), max_size=12))
def test_any_name_can_be_drawn(name):
    found = picture(f'$_{name}<&')
    assert '<&' not in found


def test_drift_needs_operations():
    assert drift_plot([]) is None
    assert drift_plot([Drift('x', 1, ())]) is None


def test_drift_names_what_is_not_finite():
    assert '1 operations are not finite, first b' in drift_plot([Drift('x', 1, ROWS)])
    assert 'largest 1.0e-04 in a (conv)' in drift_plot([Drift('x', 1, ROWS[:1])])


def test_all_zero_drift_can_be_drawn():
    assert '<svg' in drift_plot([Drift('x', 1, ROWS[2:])])


def layer(name, one, each, why=''):
    return WeightRange(name, 'conv', (8, 3, 3, 3), False, (), 4.25, 0, one, each, why)


def test_layers_are_drawn_with_their_figures():
    found = ranges_plot([layer('hard', 18.5, 41.25, 'because'), layer('easy', 40.0, 41.0)])
    assert 'hard 18.5 and 41.2 dB; easy 40.0 and 41.0 dB' in found
    assert re.search(r'<text[^>]*>hard  4.25', found)
    assert ranges_plot([]) is None


def test_of_many_layers_the_hardest_are_drawn():
    found = ranges_plot([layer(f'layer{i}', i, 60) for i in range(40)])
    assert 'layer11' in found
    assert 'layer12' not in found
