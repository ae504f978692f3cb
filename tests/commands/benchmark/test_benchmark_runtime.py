"""The runtime benchmark: what it refuses, computes and shows."""

import json
import runpy
import sys
from io import StringIO
from pathlib import Path

import pytest
import torch
from rich.console import Console

from mmpretrain_mobileone_ext.commands.benchmark.fake_data import (
    CLASSES,
    build_classifier,
    classifier_config,
    random_images,
)
from mmpretrain_mobileone_ext.commands.benchmark.runtime import (
    ExportTime,
    RuntimeCase,
    RuntimeOptions,
    RuntimeReport,
    cases_table,
    lines,
    measure_case,
    run_runtime_benchmark,
    time_export,
)
from mmpretrain_mobileone_ext.errors import ExportError, MobileOneExtError, ParityError, SpecError

pytestmark = pytest.mark.slow

TOOL = Path(__file__).resolve().parents[3] / 'tools/benchmark_runtime.py'
CASE = RuntimeCase(4, dict(torch=(8.0, 20.0, 10.0), fp32=(4.0, 40.0, 8.0), fp16=(16.0, 40.0, 40.0)))


def test_ratios_are_of_times_in_one_round():
    assert CASE.median_ms('torch') == 10
    assert CASE.throughput('torch') == 400
    # 8/4, 20/40, 10/8
    assert CASE.ratio('fp32') == 1.25
    assert CASE.ratio('fp16') == 0.5
    assert CASE.ratio('torch') == 1
    found = CASE.document()
    assert found['throughput_ratio'] == dict(torch=1, fp32=1.25, fp16=0.5)
    assert found['times_ms']['fp32'] == (4.0, 40.0, 8.0)


@pytest.mark.parametrize(
    ('wrong', 'text'),
    [
        (dict(arch='s9'), "arch 's9' is not one of"),
        (dict(batch=()), r'batch=\[\]; at least one'),
        (dict(batch=(8, 0)), r'batch=\[8, 0\]; at least one'),
        (dict(size=16), 'size=16; at least 32'),
        (dict(threads=0), 'threads=0; at least 1'),
        (dict(rounds=0), 'rounds=0; at least 1'),
        (dict(warmup=-1), 'warmup=-1; at least 0'),
        (dict(images=-1), 'images=-1; at least 0'),
    ],
)
def test_requests_that_cannot_be_run(wrong, text):
    with pytest.raises(SpecError, match=text):
        RuntimeOptions(**wrong)


def test_forms_take_turns():
    calls = []

    def form(name):
        def run(pixels):
            calls.append(name)
            return torch.eye(len(pixels))

        return run

    forms = {name: form(name) for name in ('torch', 'fp32', 'fp16')}
    counts = []
    options = RuntimeOptions(size=32, rounds=3, warmup=1)
    case = measure_case(forms, options, 2, counts.append)
    assert case.batch == 2
    assert {k: len(v) for k, v in case.times_ms.items()} == dict(torch=3, fp32=3, fp16=3)
    assert counts == [1] * 4
    rounds = [calls[i : i + 3] for i in range(4, len(calls), 3)]
    assert [r[0] for r in rounds] == ['torch', 'fp32', 'fp16', 'torch']
    assert all(set(r) == set(forms) for r in rounds)


def test_times_of_another_function_are_not_reported():
    forms = {'torch': lambda x: torch.eye(len(x)), 'fp32': lambda x: 1.001 * torch.eye(len(x))}
    with pytest.raises(ParityError, match='fp32 differs from torch'):
        measure_case(forms, RuntimeOptions(size=32), 2)


def test_images_are_pixels_and_differ():
    images = random_images(7, 40)
    assert images.shape == (7, 3, 40, 40)
    assert images.dtype == torch.float32
    assert torch.equal(images, images.round().clamp(0, 255))
    assert len({image.mean().item() for image in images}) == 7
    assert torch.equal(images, random_images(7, 40))
    assert not torch.equal(images, random_images(7, 40, seed=1))


def test_activations_fit_fp16(tiny_s0):
    model = build_classifier(classifier_config('s0', 32), 32)
    assert not model.training
    data = model.data_preprocessor({'inputs': random_images(4, 32, 5)}, False)
    with torch.no_grad():
        features = model.backbone(data['inputs'])[-1]
        scores = model(data['inputs'], mode='tensor')
    assert scores.shape == (4, CLASSES)
    assert features.max() < 100
    assert features.std() > 0.1


def test_a_whole_run(tiny_s0, tmp_path, monkeypatch, capsys):
    found = tmp_path / 'found.json'
    args = [
        '--batch',
        '2',
        '3',
        '--size',
        '32',
        '--rounds',
        '2',
        '--warmup',
        '0',
        '--threads',
        '1',
        '--images',
        '0',
        '--json',
        str(found),
    ]
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *args])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(TOOL), run_name='__main__')
    out, err = capsys.readouterr()
    assert caught.value.code == 0, err
    assert 's0, 32 x 32, 1 threads' in out
    assert 'least fp32 / torch:' in out
    assert 'batch 3:' in err
    document = json.loads(found.read_text())
    assert [c['batch'] for c in document['cases']] == [2, 3]
    assert all(len(times) == 2 for c in document['cases'] for times in c['times_ms'].values())
    assert document['export'] is None
    assert document['options']['json'] == str(found)
    assert document['machine']['versions']['torch']


def test_what_is_shown():
    report = RuntimeReport({}, [], {}, [CASE], ExportTime(100, 12.34, dict(load=1.0, convert=5.5)))
    console = Console(width=120, record=True, file=StringIO())
    console.print(cases_table(RuntimeOptions(rounds=3), report.cases))
    table = console.export_text()
    assert 'median of 3 rounds' in table
    for cell in ('10.0', '8.0', '40.0', '1.25x', '0.50x'):
        assert cell in table
    shown = lines(report)
    assert 'least fp32 / torch: 1.25x at batch 4' in shown
    assert shown[-1] == (
        'whole export, verified on 100 images: 12.3 s, '
        "Python's start included (load 1.0, convert 5.5)"
    )


def test_a_file_that_cannot_be_written_is_refused_first(tmp_path):
    options = RuntimeOptions(json=tmp_path / 'absent/found.json')
    with pytest.raises(MobileOneExtError, match='cannot be written'):
        run_runtime_benchmark(options, progress=False)


@pytest.mark.parametrize(
    ('args', 'text'),
    [
        (['--batch', 'many'], "invalid int value: 'many'; see --help"),
        (['--unknown'], 'unrecognized arguments: --unknown; see --help'),
    ],
)
def test_mistakes_are_one_line(args, text, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *args])
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(TOOL), run_name='__main__')
    out, err = capsys.readouterr()
    assert (caught.value.code, out) == (2, '')
    assert err.count('\n') == 1
    assert text in err


@pytest.fixture
def small(tiny_s0):
    config = classifier_config('s0', 32)
    config['backbone']['arch'] = dict(num_blocks=(1, 1), width_factor=0.25)
    config['head']['in_channels'] = 32
    return build_classifier(config, 32), config


def test_a_timed_export(small, tmp_path):
    found = time_export(*small, 32, images=3, threads=1, folder=tmp_path)
    assert found.images == 3
    assert {'load', 'convert', 'verify'} <= set(found.steps)
    assert 0 < sum(found.steps.values()) < found.seconds
    assert (tmp_path / 'model.mlpackage/Manifest.json').is_file()
    assert len(list((tmp_path / 'data').glob('*.png'))) == 3


def test_a_timed_export_that_fails(small, tmp_path):
    model, config = small
    config['head']['num_classes'] = 7
    with pytest.raises(ExportError, match=r'timed export failed.*size mism'):
        time_export(model, config, 32, images=1, threads=1, folder=tmp_path)
