"""Figures in README.md and docs/ are those of the JSON that tools wrote."""

import json
import re
import shutil
import sys

import pytest
from docs_kit import DOCS, module, pages

from mmpretrain_mobileone_ext.commands.benchmark.training.results import Case, Cost, Report

tables = module(DOCS / 'tables.py')
NAMED = re.findall(
    r'<!--(?:measured|written):([\w-]+)-->', '\n'.join(p.read_text('utf-8') for p in pages())
)


@pytest.fixture
def measured(tmp_path):
    """A copy of what was measured, to be changed."""
    return shutil.copytree(tables.MEASURED, tmp_path / 'measured')


def change(folder, name, edit):
    path = folder / f'{name}.json'
    data = json.loads(path.read_text('utf-8'))
    edit(data)
    path.write_text(json.dumps(data), 'utf-8')


def test_no_page_is_stale():
    stale = [str(page.relative_to(tables.ROOT)) for page in tables.stale()]
    assert not stale, f'python docs/tables.py writes {stale}'


def test_another_measurement_makes_pages_stale(measured):
    change(measured, 'palettize6', lambda data: data['forms'][-2].update(size_bytes=1))
    change(measured, 'branches', lambda data: data['rows'][0].__setitem__(1, '12.34'))
    found = tables.stale(folder=measured)
    assert {'README.md', 'guide.md', 'compression.md'} <= {page.name for page in found}
    assert '12.34' in found[DOCS / 'research/guide.md']


def test_another_program_makes_pages_stale(monkeypatch):
    from_program = sys.modules['from_program']
    monkeypatch.setattr(from_program, '_GIVEN', '?')
    monkeypatch.delitem(from_program.OPS, 'relu')
    found = {page.name: text for page, text in tables.stale().items()}
    assert set(found) == {'messages.md', 'runtime.md'}
    assert '`relu`' not in found['runtime.md']


def test_every_figure_is_shown_somewhere():
    assert set(NAMED) <= set(tables.FIGURES)
    assert set(tables.FIGURES) - {'digits-top1'} <= set(NAMED)


def test_an_unknown_figure_is_named():
    with pytest.raises(SystemExit, match=r"here: no figure 'cats'; known: branches, "):
        tables.filled('<!--measured:cats--><!--/measured-->', where='here')


def where_from(data):
    """Command, machine and versions of a file of any of the tools."""
    made = data.get('provenance', data)
    versions = made.get('versions') or made['machine']['versions']
    return made.get('command', 'tools/compare.py'), made['machine'], versions


@pytest.mark.parametrize('path', sorted(tables.MEASURED.glob('*.json')), ids=lambda p: p.stem)
def test_every_file_says_where_it_is_from(path):
    command, machine, versions = where_from(json.loads(path.read_text('utf-8')))
    words = command if isinstance(command, str) else ' '.join(command)
    assert 'tools/' in words or words.startswith(('make ', 'mobileone-ext '))
    assert 'AMD EPYC' in str(machine)
    assert versions['torch']
    assert versions['mmpretrain']


def benchmark(folder, name='training', **steps):
    """What ``benchmark_training.py --json`` writes, with made-up times of each form."""
    steps = steps or dict(
        mmpretrain=(30.0, 80.0), auto=(10.0, 20.0), memory=(15.0, 40.0), folded=(5.0, 10.0)
    )
    costs = tuple(
        Cost(
            form.replace('_', ' '),
            12_345.0,
            forward,
            (0.0, 0.0),
            4_000_000 if form == 'mmpretrain' else 1_000_000,
        )
        for form, forward in steps.items()
    )
    machine = dict(cpu='AMD EPYC', cores=2, gpu=None, versions={'torch': '9.9'})
    report = Report(
        machine, ['python', 'tools/x.py', '--a'], {}, [], [Case('s0', 32, 224, costs)], []
    )
    (folder / f'{name}.json').write_text(json.dumps(report.document()), 'utf-8')


def test_the_benchmark_of_training_is_read_as_the_tool_writes_it(measured):
    benchmark(measured)
    lines = tables.training(measured).splitlines()
    # Ratios in each turn are 3 and 4 for ours, 6 and 8 for the floor.
    assert lines[2] == '| S0 | 55 | 15 | 3.50 | 7.00 | 4 | 1 | 0.25 |'
    assert lines[-1] == '`python tools/x.py --a`: 2 cores of AMD EPYC, torch 9.9.'
    assert tables.training_speed(measured) == '3.50 to 3.50'
    assert tables.training_memory(measured) == '25 to 25'
    assert tables.training_frugal_speed(measured) == '2.00 to 2.00'


def test_a_sweep_is_summed_up_by_the_number_of_images(measured):
    benchmark(measured, 'sweep', branches=(10.0, 20.0), auto=(8.0, 12.0))
    lines = tables.sweep(measured).splitlines()
    # Ratios in each turn are 0.8 and 0.6.
    assert lines[2] == '| 32, of 224 to 224 pixels a side | 1 | 0.70 to 0.70 |'


def test_compiled_forms_stand_beside_the_others(measured):
    benchmark(
        measured,
        'compiled',
        mmpretrain=(30.0, 80.0),
        mmpretrain_compiled=(20.0, 40.0),
        auto=(10.0, 20.0),
        auto_compiled=(5.0, 20.0),
    )
    lines = tables.compiled(measured).splitlines()
    # Ratios in each turn are 4 and 2.
    assert lines[2] == '| S0 | 55 | 30 | 15 | 12 | 3.00 |'
    assert lines[-1] == '`python tools/x.py --a`: 2 cores of AMD EPYC, torch 9.9.'


def test_of_quantized_files_seeds_are_summed_up(tmp_path):
    assert tables.quantization(tmp_path).startswith('Not measured yet')
    results = [
        dict(method='late', scheme='w4', seed=s, top1=t, size_bytes=2048)
        for s, t in ((0, 88.0), (1, 89.0))
    ]
    machine = dict(cpu='Z80', cores=1, versions=dict(torch='2.14.1'))
    data = dict(command=['x'], machine=machine, config='c.py', epochs=9, results=results)
    (tmp_path / 'quantization.json').write_text(json.dumps(data))
    table = tables.quantization(tmp_path)
    assert '88.50 | 0.71 | 88.00 to 89.00 | 2 | 2.0 |' in table
    assert '9 epochs of' in table


def test_of_a_search_the_fixed_schemes_and_the_chosen_file_are_shown():
    data = tables.read(tables.MEASURED, 'compression')
    rows = tables.compression(tables.MEASURED).splitlines()[2:-2]
    assert rows[0].startswith('| fp16 |')
    assert sum('chosen: ' in row for row in rows) == 1
    refused = [c['scheme'] for c in data['candidates'] if c['kind'] == 'fixed' and not c['fits']]
    assert refused
    assert all(any(f'| {name} (refused) |' in row for row in rows) for name in refused)


def test_pages_are_written_and_checked(tmp_path, monkeypatch, capsys):
    page = tmp_path / 'README.md'
    (tmp_path / 'docs').mkdir()
    page.write_text('faster: <!--measured:training-speed-->?<!--/measured-->', 'utf-8')
    monkeypatch.setattr(tables, 'ROOT', tmp_path)
    monkeypatch.setattr(tables.stale, '__defaults__', (tmp_path, tables.MEASURED))
    assert tables.main(['--check']) == 1
    assert capsys.readouterr().out == 'README.md: stale\n'
    assert tables.main([]) == 0
    assert tables.training_speed(tables.MEASURED) in page.read_text('utf-8')
    assert tables.main(['--check']) == 0
