"""Whole runs through the tool, on shapes of a fraction of a second."""

import io
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmpretrain_mobileone_ext.commands.benchmark.training import run
from mmpretrain_mobileone_ext.commands.benchmark.training.case import OUT_OF_MEMORY
from mmpretrain_mobileone_ext.commands.benchmark.training.options import BenchmarkOptions
from mmpretrain_mobileone_ext.commands.benchmark.training.results import Case

pytestmark = pytest.mark.usefixtures('tiny_s0')
TOOL = Path(__file__).resolve().parents[3] / 'tools/benchmark_training.py'
TINY = [
    '--threads',
    '1',
    '--batch',
    '2',
    '--size',
    '32',
    '--steps',
    '1',
    '--warmup',
    '0',
    '--seeds',
    '1',
    '--check-size',
    '32',
]


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs the tool in this process; returns (exit code, out, err)."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(TOOL), run_name='__main__')
        return caught.value.code, *capsys.readouterr()

    return call


def test_a_comparison(tool, tmp_path):
    found, chart = tmp_path / 'found.json', tmp_path / 'chart.png'
    code, out, err = tool(
        *TINY, '--forms', 'mmpretrain', 'branches', 'folded', '--json', found, '--plot', chart
    )
    assert code == 0, err
    assert 's0, 2x3x32x32: one training step' in out
    assert 'exactness, 1 seeds' in out
    assert 's0, 2x3x32x32:' in err
    document = json.loads(found.read_text())
    costs = document['cases'][0]['costs']
    assert [c['form'] for c in costs] == ['mmpretrain', 'branches', 'folded']
    assert costs[0]['saved_bytes'] == costs[1]['saved_bytes']
    assert costs[2]['saved_bytes'] < costs[0]['saved_bytes'] / 3
    assert [f['form'] for f in document['exactness'][0]['forms']] == ['mmpretrain', 'branches']
    assert document['command'][:2] == ['python', str(TOOL)]
    assert document['options']['json'] == str(found)
    assert chart.stat().st_size > 0


def test_a_sweep(tool, tmp_path):
    found, chart = tmp_path / 'found.json', tmp_path / 'chart.png'
    code, out, err = tool(
        *TINY,
        '--sweep',
        '--arch',
        's0',
        '--forms',
        'mmpretrain',
        'folded',
        '--json',
        found,
        '--plot',
        chart,
    )
    assert code == 0, err
    assert 'folded against mmpretrain' in out
    assert 'worst ratio: ' in out
    assert 'exactness' not in out
    assert len(json.loads(found.read_text())['cases']) == 1
    assert chart.stat().st_size > 0


@pytest.mark.parametrize(
    ('args', 'text'),
    [
        (['--arch', 's9'], "arch 's9' is not one of"),
        (['--forms', 'fast'], "form 'fast' is not one of"),
        (['--batch', '0'], 'batch=0; at least 1'),
        (['--batch', 'many'], "invalid int value: 'many'; see --help"),
        (['--threads', '0'], 'threads=0; at least 1'),
        (['--json', 'absent/found.json'], 'absent/found.json cannot be written'),
        (['--plot', 'absent/chart.png'], 'absent/chart.png cannot be written'),
        (['--unknown'], 'unrecognized arguments: --unknown; see --help'),
    ],
)
def test_mistakes_are_one_line(tool, monkeypatch, tmp_path, args, text):
    monkeypatch.chdir(tmp_path)
    code, out, err = tool(*args)
    assert (code, out) == (2, '')
    assert text in err
    assert err.startswith('error: ')
    assert err.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_no_gpu(tool, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    code, _, err = tool('--device', 'cuda')
    assert code == 2
    assert err == "error: device 'cuda': torch finds no usable GPU here\n"


def test_what_was_found_survives_an_interruption(monkeypatch, tmp_path):
    measure = run.measure_case

    def interrupted(options, forms, arch, batch, size, advance, together):
        if batch == 3:
            raise KeyboardInterrupt
        return measure(options, forms, arch, batch, size, advance, together)

    monkeypatch.setattr(run, 'measure_case', interrupted)
    options = BenchmarkOptions(
        batch=(2, 3),
        size=(32,),
        steps=1,
        warmup=0,
        forms=('folded',),
        threads=1,
        json=tmp_path / 'found.json',
    )
    with pytest.raises(KeyboardInterrupt):
        run.run_benchmark(options, Console(quiet=True), progress=False)
    cases = json.loads(options.json.read_text())['cases']
    assert [c['batch'] for c in cases] == [2]


def test_compiled_forms_have_rows_of_their_own(tool, monkeypatch, tmp_path):
    make = torch.compile
    monkeypatch.setattr(torch, 'compile', lambda net, **given: make(net, backend='eager', **given))
    found, chart = tmp_path / 'found.json', tmp_path / 'chart.png'
    code, out, err = tool(
        *TINY, '--forms', 'auto', 'folded', '--compile', '--channels-last', '--amp', 'bf16'
        ,'--json', found, '--plot', chart
    )  # fmt: skip
    assert code == 0, err
    assert 'autocast bfloat16, channels_last, median of 1 steps' in out
    assert 'auto compiled' in out
    document = json.loads(found.read_text())
    costs = document['cases'][0]['costs']
    assert [c['form'] for c in costs] == ['auto', 'auto compiled', 'folded', 'folded compiled']
    assert all(c['failure'] is None and c['saved_bytes'] for c in costs)
    assert all(c['first_ms'] > 0 for c in costs)
    assert set(document['machine']['tf32']) == {'products', 'convolutions'}
    # Compiled forms are not checked again.
    assert [f['form'] for f in document['exactness'][0]['forms']] == ['auto']
    assert chart.stat().st_size > 0


def test_a_gpu_without_memory_takes_smaller_batches(monkeypatch, tmp_path):
    asked = []

    def measure(options, forms, arch, batch, size, advance, together):
        asked.append((batch, together))
        return Case(arch, batch, size, skipped=OUT_OF_MEMORY if batch > 2 else None)

    monkeypatch.setattr(run, 'measure_case', measure)
    monkeypatch.setattr(run, 'check_device', lambda device: None)
    monkeypatch.setattr(run, 'machine', lambda device: dict(gpu='A GPU', cores=1, versions={}))
    options = BenchmarkOptions(
        batch=(8,), size=(32,), device='cuda', check=False, plot=tmp_path / 'chart.png'
    )
    console = Console(width=200, record=True, file=io.StringIO())
    report = run.run_benchmark(options, console, progress=False)
    assert asked == [(8, True), (4, True), (2, True)]
    assert report.document()['cases'][0]['asked'] == 8
    assert 's0, 2x3x32x32: 8 images need more memory than there is' in console.export_text()
    assert not options.plot.exists()  # there is nothing to draw
