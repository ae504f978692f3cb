"""One export: console, file, JSON and page state the same figures."""

import json
import re

import pytest
from export_kit import CLASSES, build, photos, save, write_config
from report_kit import Page

from mmpretrain_mobileone_ext.commands.export import print_summary
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.utils.accuracy import Loss
from mmpretrain_mobileone_ext.utils.text import NBSP, share, size

IMAGES = 12


class Stated:
    """What each place says about one export."""

    def __init__(self, folder, capsys, **options):
        data = photos(folder / 'data', IMAGES // len(CLASSES))
        model = build()
        result = run_export(
            write_config(folder / 'c.py', data),
            save(model, folder / 'c.pth'),
            ExportOptions(
                out=folder / 'm.mlpackage', report=folder / 'page', verify_data='test', **options
            ),
        )
        self.result = result
        print_summary(result)
        console = capsys.readouterr().out
        # Cells are folded at any place: only their letters count.
        self.console = ''.join(re.sub(r'^│[^│]*│|│', '', line) for line in console.splitlines())
        self.rows = dict(result.rows())
        self.json = json.loads((folder / 'page/report.json').read_text())
        self.page = Page((folder / 'page/report.html').read_text())
        self.metadata = read_program(result.path).metadata

    def form(self, name):
        return next(f for f in self.json['forms'] if f['form'] == name)

    def on_console(self, text):
        squeezed = re.sub(r'\s', '', self.console)
        return re.sub(r'\s', '', text) in squeezed

    @property
    def text(self):
        whole = ' '.join(e['text'] for e in self.page.all('body'))
        return ' '.join(whole.replace(NBSP, ' ').split())


@pytest.mark.slow
@pytest.mark.parametrize(('bound', 'apart'), [(20.0, True), (2.0, False)])
def test_all_places_agree(tmp_path, capsys, bound, apart):
    said = Stated(tmp_path, capsys, compress='auto', max_drop=bound)
    record = json.loads(said.metadata['accuracy'])
    assert said.json['accuracy'] == record
    assert record['judged_apart'] is apart
    assert record['images'] == (IMAGES // 2 if apart else IMAGES)
    # The bound.
    assert said.json['max_drop'] == record['bound_points'] == bound
    assert f'bound {bound:g} points (max-drop {bound:g})' in said.rows['top-1 lost']
    assert f'Bound: {bound:g} points' in said.text
    # The interval: of the counts, in every place.
    loss = Loss(record['lost'], record['gained'], record['images'])
    assert (record['lost_points'], record['low'], record['high']) == (
        loss.points,
        loss.low,
        loss.high,
    )
    assert loss.words in said.rows['top-1 lost']
    assert f'{loss.low:.2f} to {loss.high:.2f}, bound {bound:g}'.replace('-', '\u2212') in said.text
    check_candidates(said)
    check_sizes(said)
    check_accuracy(said)
    # The console shows these rows, nothing else.
    assert all(said.on_console(value) for value in said.rows.values())


def check_candidates(said):
    found = said.result.compression
    count = said.json['files_tried']
    assert count == len(found.candidates) - 1 == found.tried
    assert f', {count} files tried on {found.chosen_on}' in said.rows['compression']
    assert f'All {count} files tried' in said.text
    tried = [c for c in said.json['candidates'] if c['scheme'] != 'none']
    assert len(tried) == count
    for one in tried:  # what the table says and where the plot draws the line
        base = said.json['candidates'][0]
        lost = base['top1'] - one['top1']
        assert one['lost_points'] == pytest.approx(lost)
        if one['fits']:
            assert one['top1'] >= base['top1'] - said.json['max_drop'] - 1e-9
    (chosen,) = (c for c in said.json['candidates'] if c['chosen'])
    assert chosen['size_bytes'] == said.result.size_bytes


def check_sizes(said):
    own = said.form(said.json['chosen'])
    plain = said.form(said.json['baseline'])
    first = said.json['candidates'][0]
    assert own['size_bytes'] == said.result.size_bytes
    assert plain['size_bytes'] == first['size_bytes'] == said.result.plain_bytes
    assert said.rows['size'] == size(own['size_bytes']).replace(NBSP, ' ')
    assert said.rows['size'] in said.text
    ratio = own['size_bytes'] / plain['size_bytes']
    assert f': {ratio:.2f} of ' in said.rows['compression']


def check_accuracy(said):
    own = said.form(said.json['chosen'])
    top1 = json.loads(said.metadata['top1'])
    assert own['top1'] == pytest.approx(100 * top1['coreml'])
    assert own['top1_low'] <= own['top1'] <= own['top1_high']
    assert f'Core ML {share(own["top1"], IMAGES, " %")}' in said.rows['top-1']
    assert share(own['top1'], IMAGES) in said.text
    assert share(own['agreement'], IMAGES, ' %') == said.rows['same top-1']
    assert (
        said.page.all('header')[0]['attrs']['class']
        == said.json['verdict']['level']
        == said.json['accuracy']['level']
    )


def test_without_compression_the_network_is_what_is_lost_against(tmp_path, capsys):
    said = Stated(tmp_path, capsys)
    record = json.loads(said.metadata['accuracy'])
    assert said.json['accuracy'] == record
    assert (record['bound_points'], record['lost'], record['images']) == (0.5, 0, IMAGES)
    assert record['level'] == 'warn'  # nobody can tell from twelve images
    assert '1 image = 8.33 points' in said.rows['compared on']
    assert 'against the network' in said.rows['top-1 lost']
    assert said.json['files_tried'] == 0
    check_accuracy(said)
