"""The page: self-contained, escaped, accessible, equal to its JSON."""

import functools
import json
import re
import socket
from dataclasses import replace

import pytest
from report_kit import HOSTILE, PNG, Page, bare, sample

from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.report import FormRow, write_report
from mmpretrain_mobileone_ext.report.page import render, to_json
from mmpretrain_mobileone_ext.utils.accuracy import Confusion

NO_LABELS = sample(
    forms=tuple(replace(f, top1=None, top5=None) for f in sample().forms),
    disagreements=(
        replace(
            sample().disagreements[0],
            truth=None,
            guesses=(replace(sample().disagreements[0].guesses[0], right=None),),
        ),
    ),
)
VARIANTS = dict(
    full=sample(),
    one_form=bare(),
    no_labels=NO_LABELS,
    all_agree=sample(disagreements=(), num_disagreements=0),
    not_scored=bare(warnings=('not scored',)),
    no_candidates=sample(candidates=(), drift=(), kept_fp32=(), parity=(), engine=()),
)
#: Attributes through which HTML and SVG load something.
LOADS = (
    'src',
    'href',
    'xlink:href',
    'srcset',
    'poster',
    'data',
    'action',
    'background',
    'cite',
    'formaction',
)


@functools.cache
def rendered(variant):
    return render(VARIANTS[variant])


@pytest.fixture(params=VARIANTS)
def page(request):
    return Page(rendered(request.param))


def urls(page):
    """Everything a page would load."""
    found = [e['attrs'][a] for e in page.elements for a in LOADS if e['attrs'].get(a)]
    texts = [e['text'] for e in page.all('style')]
    texts += [v or '' for e in page.elements for v in e['attrs'].values()]
    for text in texts:
        found += re.findall(r'url\(\s*["\']?([^)"\']*)', text)
        found += re.findall(r'@import\s+(\S+)', text)
    return found


def test_loads_nothing_from_outside(page):
    assert all(re.match(r'data:image/png;base64,|#', u) for u in urls(page))
    assert not page.all('link')


def test_the_check_for_outside_resources_can_fail():
    for text in (
        '<img src="https://x/y.png">',
        '<style>@import "x";</style>',
        '<p style="background:url(http://x)">',
        '<svg><use xlink:href="http://x"/></svg>',
    ):
        found = urls(Page(text))
        assert not all(u.startswith(('data:', '#')) for u in found), text


def test_runs_no_script(page):
    assert not page.all('script')
    assert not [a for e in page.elements for a in e['attrs'] if a.startswith('on')]


def test_elements_are_balanced_and_ids_unique(page):
    assert page.unbalanced == []
    ids = [e['attrs']['id'] for e in page.elements if 'id' in e['attrs']]
    assert len(ids) == len(set(ids))
    for element in page.elements:
        for value in element['attrs'].values():
            for target in re.findall(r'url\(#([^)]*)\)', value or ''):
                assert target in ids
        if element['attrs'].get('xlink:href', '').startswith('#'):
            assert element['attrs']['xlink:href'][1:] in ids
        if 'aria-labelledby' in element['attrs']:
            assert element['attrs']['aria-labelledby'] in ids


def test_is_described_for_readers_of_all_kinds(page):
    assert page.declaration == 'doctype html'
    assert page.all('html', lang='en')
    assert page.all('meta', name='viewport', content='width=device-width, initial-scale=1')
    assert len(page.all('h1')) == 1
    assert all(e['attrs'].get('alt') for e in page.all('img'))
    assert all(
        e['attrs'].get('role') == 'img' and e['attrs']['aria-label'] for e in page.all('svg')
    )
    assert all(e['attrs'].get('scope') for e in page.all('th'))
    scrolls = [e for e in page.elements if e['attrs'].get('class') == 'scroll']
    assert all(e['attrs']['tabindex'] == '0' and e['attrs']['aria-label'] for e in scrolls)


def test_hostile_names_are_text():
    text = rendered('full')
    page = Page(text)
    assert '<script' not in text
    # Everywhere: title, headline, table, plot, image, details, provenance.
    for tag in ('title', 'th', 'li', 'code', 'pre', 'svg'):
        assert any('<script>alert("x")</script>' in e['text'] for e in page.all(tag)), tag
    assert any(HOSTILE in e['attrs']['alt'] for e in page.all('img'))
    assert any('<script>' in e['attrs']['aria-label'] for e in page.all('svg'))


def test_json_equals_the_figures_shown(tmp_path):
    path = write_report(sample(), tmp_path / 'new')
    page = Page(path.read_text(encoding='utf-8'))
    document = json.loads((tmp_path / 'new/report.json').read_text(encoding='utf-8'))
    _, *rows = page.rows('Scored')
    shown = [f for f in document['forms'] if f['kind'] != 'check']
    assert len(rows) == len(shown) == 4
    for row, form in zip(rows, shown):
        assert row[0].startswith(' '.join(form['form'].split()))
        assert [float(c.split()[0]) for c in row[1:4]] == [
            form['top1'],
            form['top5'],
            form['agreement'],
        ]
        assert row[4] == (
            'reference'
            if form['psnr_db'] is None
            else 'equal'
            if form['psnr_db'] == 'inf'
            else str(round(form['psnr_db'], 1))
        )
        number, unit = row[5].split()
        scale = {'KiB': 1024, 'MiB': 2**20}[unit]
        assert abs(float(number) * scale - form['size_bytes']) <= scale / 2
        assert int(row[6]) == form['ops']
    _, *rows = page.rows('Every setting')
    assert [r[0].split()[0] for r in rows] == [c['scheme'] for c in document['candidates']]
    assert [float(r[2].split()[0]) for r in rows] == [c['top1'] for c in document['candidates']]
    assert page.all('h1')[0]['text'] == document['verdict']['sentence']
    assert PNG not in json.dumps(document).encode()


def test_json_names_the_fields_of_every_record():
    engine, _ = json.loads(to_json(sample()))['engine']
    for group in (*engine['off'], *engine['remarks']):
        assert set(group) == {'type', 'text', 'instead', 'number', 'chips'}
        assert group['chips'] == {'measured': ['M1']}
    assert [set(c) for c in engine['chips']] == [{'chip', 'level', 'sentence', 'doubt'}] * 2
    assert [set(t) for t in engine['times']] == [{'chip', 'sentence', 'ms', 'low', 'high'}] * 2


def test_json_without_numbers_is_strict_json(tmp_path):
    write_report(NO_LABELS, tmp_path)
    document = json.loads((tmp_path / 'report.json').read_text(), parse_constant=pytest.fail)
    assert document['forms'][0]['top1'] is None


def test_of_a_long_search_the_settings_are_shown_and_the_rest_folded():
    row = sample().candidates[0]
    rows = (
        row,
        replace(row, scheme='1 x int8, 2 x palettize4'),
        replace(row, scheme='2 x int8, 1 x palettize4', chosen=True),
    )
    page = Page(render(sample(candidates=rows, drift=(), weight_ranges=())))
    assert [r[0].split(' chosen')[0] for r in page.rows('Every setting')[1:]] == [
        f'int8 {HOSTILE}',
        '2 x int8, 1 x palettize4',
    ]
    (summary,) = (e for e in page.all('summary') if 'tried' in e['text'])
    assert summary['text'] == 'All 3 files tried'


def test_the_drift_table_names_every_operation():
    page = Page(rendered('full'))
    rows = page.all('code')
    assert {'conv<0>', 'mul_0'} <= {e['text'] for e in rows}
    (placed,) = page.all('span', title='soft')
    assert placed['text'].strip() == 'head · softmax'
    assert 'not finite' in [e['text'] for e in page.all('td')]


def test_parts_without_data_are_left_out():
    page = Page(rendered('one_form'))
    assert [e['attrs']['id'] for e in page.all('h2')] == ['forms', 'origin']


def test_the_page_begins_with_the_mistakes():
    page = Page(rendered('full'))
    assert page.all('h2')[0]['attrs']['id'] == 'mistakes'
    section = ' '.join(page.all('section')[0]['text'].split())
    assert '30 of 400 images get a wrong label from Core ML fp16' in section
    assert 'Shown are the 1 that it is surest of' in section
    assert 'ant wrong 97.2\xa0%' in section or 'ant wrong 97.2 %' in section
    scores = page.rows('Core')[1:]
    assert [row[1:] for row in scores] == [['190', '94.44', '89.47'], ['210', '90.91', '95.24']]
    matrix = page.rows('Rows:')[1:]
    assert [row[1:] for row in matrix] == [['170', '20'], ['10', '200']]


def test_many_classes_are_folded_and_the_worst_pairs_listed():
    names = tuple(f'class {i}' for i in range(15))
    counts = [[0] * 15 for _ in names]
    for i in range(15):
        counts[i][i] = 9
    counts[3][4] = 7
    page = Page(render(sample(confusion=Confusion(names, tuple(map(tuple, counts))))))
    assert any('Scores of 15 classes' in e['text'] for e in page.all('summary'))
    assert any(e['text'].strip() == '7 of class 3 taken for class 4' for e in page.all('li'))
    assert not page.unbalanced


def test_no_mistake_is_said():
    page = Page(render(sample(mistakes=(), confusion=Confusion(('a', 'b'), ((9, 0), (0, 9))))))
    assert 'gives every one of the 400 images its label' in ' '.join(
        page.all('section')[0]['text'].split()
    )


def test_no_disagreement_is_said():
    text = Page(rendered('all_agree')).all('main')[0]['text']
    assert 'every form gives every one of the 400' in ' '.join(text.split())


def test_an_old_report_is_replaced(tmp_path):
    write_report(bare(title='old'), tmp_path)
    old = (tmp_path / 'report.html').read_text()
    write_report(bare(title='new'), tmp_path)
    assert (tmp_path / 'report.html').read_text() != old
    assert sorted(p.name for p in tmp_path.iterdir()) == ['report.html', 'report.json']


def test_what_cannot_be_written_is_one_line(tmp_path):
    (tmp_path / 'file').write_text('')
    with pytest.raises(MobileOneExtError, match='cannot make the folder'):
        write_report(bare(), tmp_path / 'file')
    with pytest.raises(MobileOneExtError, match='at least one form'):
        write_report(replace(bare(), forms=()), tmp_path)


def test_rendering_asks_no_network(monkeypatch):
    monkeypatch.setattr(socket, 'socket', pytest.fail)
    render(replace(sample(), drift=()))


@pytest.mark.parametrize('scheme', [0, 1], ids=['light', 'dark'])
def test_text_stands_out_from_what_is_behind_it(scheme):
    style = Page(rendered('one_form')).all('style')[0]['text']
    blocks = re.findall(r':root \{([^}]*)\}', style)
    colours = dict(re.findall(r'--(\w+): (#\w{6})', blocks[scheme]))
    assert len(blocks) == 2
    for behind in ('paper', 'page', 'tint'):
        for name in ('ink', 'muted', 'accent', 'good', 'bad', 'warn', 'other'):
            if behind == 'paper' or name in ('ink', 'muted'):
                ratio = contrast(colours[name], colours[behind])
                assert ratio >= 4.5, (name, behind, ratio)


def contrast(one, other):
    """Ratio of two colours by WCAG 2.1, 1 to 21."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def luminance(colour):
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    parts = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), parts))


def test_contrast_of_known_colours():
    assert contrast('#000000', '#ffffff') == pytest.approx(21)
    assert contrast('#777777', '#ffffff') < 4.5


def test_a_form_without_its_kind_in_the_name_keeps_it():
    assert FormRow('Core ML fp16, palettized · palettize4').short == 'palettize4'
    assert FormRow('Core ML fp16, int8').short == 'int8'
    assert FormRow('Core ML fp16').short == 'fp16'
    assert FormRow('Core ML fp16, 3 x int8, 1 x palettize4').short == 'several schemes'
    assert FormRow('branches (torch, fp32)').short == 'branches'
