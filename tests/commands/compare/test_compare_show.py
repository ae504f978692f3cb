"""Tables and the picture, on figures that are made up."""

import csv
import io
import json
import random

import pytest
from engine_kit import Made
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from mmpretrain_mobileone_ext.commands.compare.entries import Published
from mmpretrain_mobileone_ext.commands.compare.table import (
    Comparison,
    EstimatedLatency,
    Latency,
    Row,
    write_comparison,
)
from mmpretrain_mobileone_ext.coreml.neural_engine.forecast import estimate_of
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.estimate import fitted_model
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS
from mmpretrain_mobileone_ext.report.figures import place_labels

MACHINE = dict(cpu='x', cores=2, load=None, versions=dict(torch='2'))


def row(name, ms, top1, **more):
    return Row(
        name,
        name,
        'hub',
        name.startswith('mobileone'),
        (Published('hub', f'source of {name}', top1),),
        params=2_000_000,
        flops=3_000_000,
        torch=Latency(ms, ms / 2, 3),
        **more,
    )


def test_a_latency_is_median_and_quickest():
    assert Latency.of((4.0, 2.0, 3.0)) == Latency(3.0, 2.0, 3)


def test_files_hold_what_was_found(tmp_path):
    found = Comparison(
        (
            row('mobileone-s0', 12.34, 71.4),
            row('a', 8.0, 70.0),
            Row('broken', 'broken', 'file', False, failure='a | b'),
        ),
        224,
        1,
        MACHINE,
        ('a note',),
    )
    paths = write_comparison(found, tmp_path / 'new')
    assert [p.suffix for p in paths] == ['.json', '.csv', '.md', '.png']
    lines = (tmp_path / 'new/compare.md').read_text().splitlines()
    assert lines[0] == ('| model | params M | FLOPs M | torch ms | top-1 hub | failed |')
    assert lines[2] == '| mobileone-s0 | 2.00 | 3 | 12.3 | 71.40 |  |'
    assert lines[4].endswith(r'| a \| b |')
    assert any('source of a' in x for x in lines)
    text = (tmp_path / 'new/compare.csv').read_text()
    rows = list(csv.DictReader(io.StringIO(text)))
    assert float(rows[0]['torch ms']) == 12.34
    assert rows[2]['failure'] == 'a | b'
    assert paths[-1].read_bytes().startswith(b'\x89PNG')


def overlaps(boxes):
    return [
        (a, b)
        for i, a in enumerate(boxes)
        for b in boxes[i + 1 :]
        if min(a.x1, b.x1) > max(a.x0, b.x0) + 1 and min(a.y1, b.y1) > max(a.y0, b.y0) + 1
    ]


def drawn(spots, place=True):
    figure = Figure(figsize=(8, 5), layout='constrained')
    canvas = FigureCanvasAgg(figure)
    axis = figure.subplots()
    axis.set_xlim(0, 10)
    axis.set_ylim(0, 10)
    labels = place_labels(figure, axis, spots)
    if not place:
        for label in labels:
            label.set_position((0, 0))
    canvas.draw()
    from matplotlib.text import Text

    return [Text.get_window_extent(label) for label in labels]


@pytest.mark.parametrize('seed', range(3))
def test_labels_do_not_meet(seed):
    rng = random.Random(seed)
    spots = [
        (f'network-{i}', rng.uniform(2, 8), rng.uniform(2, 8), rng.uniform(3, 9)) for i in range(14)
    ]
    assert not overlaps(drawn(spots))


def test_labels_that_are_not_placed_meet():
    """The check above notices."""
    spots = [(f'network-{i}', 5, 5 + i / 50, 4) for i in range(4)]
    assert overlaps(drawn(spots, place=False))
    assert not overlaps(drawn(spots))


@pytest.mark.parametrize(('off', 'begins'), [('relu', '0.'), ('lstm', '~0.')])
def test_an_estimate_of_a_file_that_is_partly_off_the_engine_is_an_order(off, begins):
    made = Made()
    made.op(off, of=made.conv())
    found = EstimatedLatency.of(estimate_of(made.program, fitted_model(), CHIPS['A14']))
    assert found.words.startswith(begins)
    assert (found.low is None) == (off == 'lstm')


def test_an_estimate_has_its_bounds_or_says_that_it_has_none(tmp_path):
    rows = (
        row('a', 8.0, 70.0, estimate=EstimatedLatency(0.761, 0.681, 0.851, 'predicted')),
        row('vit', 9.0, 71.0, estimate=EstimatedLatency(2.71, None, None, 'order only')),
        row('old', 9.0, 71.0),
    )
    write_comparison(Comparison(rows, 224, 1, MACHINE), tmp_path)
    text = (tmp_path / 'compare.md').read_text()
    assert '| 0.76 (0.68 to 0.85) |' in text
    assert 'made to hold 8 of 10 further networks' in text
    read = list(csv.DictReader(io.StringIO((tmp_path / 'compare.csv').read_text())))
    head = 'iPhone12 ms, predicted'
    assert [r[head] for r in read] == ['0.761', '2.71', '']
    assert [r[f'{head}: low'] for r in read] == ['0.681', '', '']
    document = json.loads((tmp_path / 'compare.json').read_text())
    assert document['rows'][0]['estimate']['high'] == 0.851
    assert document['rows'][2]['estimate'] is None
    without = Comparison(rows[2:], 224, 1, MACHINE)
    write_comparison(without, tmp_path / 'old')
    assert 'predicted' not in (tmp_path / 'old/compare.md').read_text()
