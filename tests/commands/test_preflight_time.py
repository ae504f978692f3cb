"""Benchmarks of a generated Swift package as files, and the models that they are of."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
from bench_json import GOOD
from crafted_kit import Crafted, int8_linear

from mmpretrain_mobileone_ext.commands.preflight import run
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.calibrate import read_samples
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS
from mmpretrain_mobileone_ext.coreml.swift.facts import digest
from mmpretrain_mobileone_ext.errors import ExportError, MobileOneExtError, SpecError

SHAPE = (1, 4, 6, 5)
A17 = CHIPS['A17 Pro']


def crafted(folder, *kinds, shape=SHAPE):
    """An fp16 chain between casts; an operation of each kind."""
    made = Crafted(shape)
    last = made.op('cast', 'half', shape, 'FLOAT16', x='x', dtype=np.array('fp16'))
    for index, kind in enumerate(kinds):
        last = made.op(kind, f'{kind}_{index}', shape, 'FLOAT16', x=last)
    made.op('cast', 'result', shape, x=last, dtype=np.array('fp32'))
    return made.save(folder)


@pytest.fixture(scope='module')
def package(tmp_path_factory):
    return crafted(tmp_path_factory.mktemp('package'), 'relu')


def bench(folder, package, name='bench.json', **changes):
    """A benchmark of a package; keys as ``device__model``."""
    content = copy.deepcopy(GOOD)
    content['model'].update(name=package.stem, sha256=digest(package))
    for key, value in changes.items():
        *outer, last = key.split('__')
        inner = content
        for part in outer:
            inner = inner[part]
        inner[last] = value
    path = folder / name
    path.write_text(json.dumps(content))
    return path


def test_a_benchmark_finds_its_model_by_content(package, tmp_path):
    (sample,), device = read_samples([bench(tmp_path, package)], [package], A17)
    assert (device, sample.ms) == ('iPhone15,2', GOOD['latency']['median_ms'])
    assert len(sample.counted.macs) == 3
    # And beside it.
    bench(package.parent, package)
    assert read_samples([package.parent / 'bench.json'], [], A17)[1] == device


def test_a_network_measured_twice_is_one(package, tmp_path):
    paths = [bench(tmp_path, package, f'{ms}.json', latency__median_ms=ms) for ms in (0.5, 0.7)]
    (sample,), _ = read_samples(paths, [package], A17)
    assert sample.ms == pytest.approx(0.6)


def test_weights_are_read_as_the_chip_reads_them(tmp_path):
    """Linear 8-bit weights stream since the A14; before, fp16 crosses the memory."""
    path = int8_linear().save(tmp_path)
    moved = {
        name: read_samples([bench(tmp_path, path)], [path], CHIPS[name])[0][0].counted.weights.sum()
        for name in ('A13', 'A14')
    }
    assert moved['A13'] == 2 * 512 > 1.9 * moved['A14']


@pytest.mark.parametrize(
    ('changes', 'said'),
    [
        (dict(device__simulator=True), 'was made in a simulator'),
        (dict(build='debug'), 'is of a debug build'),
        (dict(compute_units='cpuOnly'), 'without the engine'),
        (dict(model__sha256='1' * 64), 'none of the files'),
        (dict(model__name='a/b'), "'a/b', which is no file name"),
        (dict(model__name='a' * 300), 'which is no file name'),
        (dict(latency__min_ms=0, latency__median_ms=1e-320), 'a median of 9.9'),
    ],
)
def test_a_benchmark_that_says_nothing_is_refused(package, tmp_path, changes, said):
    path = bench(tmp_path, package, **changes)
    with pytest.raises(SpecError, match=said) as caught:
        read_samples([path], [package], A17)
    assert '\n' not in str(caught.value)
    assert 'bench.json' in str(caught.value)


def test_devices_are_not_mixed(package, tmp_path):
    paths = [
        bench(tmp_path, package),
        bench(tmp_path, package, 'other.json', device__model='iPhone14,5'),
    ]
    with pytest.raises(SpecError, match='another device than iPhone15,2'):
        read_samples(paths, [package], A17)


def test_a_broken_file_is_one_line(package, tmp_path):
    path = tmp_path / 'bench.json'
    path.write_text('{')
    with pytest.raises(ExportError, match='cannot read the benchmark'):
        read_samples([path], [package], A17)


def test_preflight_takes_benchmarks(package, tmp_path, capsys):
    path = bench(tmp_path, package)
    assert run([str(package), '--chip', 'A17', '--calibrate', str(path)]) == 0
    text = capsys.readouterr().out
    assert 'iPhone15,2: 0.60 ms' in text  # the benchmark's median
    assert 'calibrated to iPhone15,2 by 1 network: one scale of' in text


def test_what_is_said_of_a_calibrated_estimate_is_of_the_device(package, tmp_path, capsys):
    path, out = bench(tmp_path, package), tmp_path / 'preflight.json'
    run([str(package), '--chip', 'A17', '--calibrate', str(path), '--json', str(out)])
    text = capsys.readouterr().out
    assert 'through Core ML on the device iPhone15,2, the median of a bench' in text
    assert 'published' not in text
    model = json.loads(out.read_text())['latency_model']
    assert (model['device'], model['is_calibrated']) == ('iPhone15,2', True)
    assert model['calibration'] in text
    run([str(package), '--chip', 'A14'])
    assert 'as published for an iPhone 12' in capsys.readouterr().out


@pytest.mark.parametrize('chips', [[], ['--chip', 'A14', 'A15']])
def test_a_calibration_needs_its_one_chip(package, tmp_path, chips):
    with pytest.raises(SpecError, match='--calibrate needs --chip with the one chip') as caught:
        run([str(package), *chips, '--calibrate', str(bench(tmp_path, package))])
    assert '\n' not in str(caught.value)


def test_parts_and_suggestions_are_of_the_first_chip_with_bounds(tmp_path, capsys):
    path = str(crafted(tmp_path, 'silu', shape=(1, 64, 112, 112)))
    run([path, '--suggest'])
    text = capsys.readouterr().out
    assert 'of it on A14: floor' in text
    assert 'on A14, what would shorten it' in text
    run([path, '--suggest', '--chip', 'A13'])
    assert 'on A13, what would shorten it' in capsys.readouterr().out


def test_preflight_tells_the_time_and_what_shortens_it(package, tmp_path, capsys):
    out = tmp_path / 'preflight.json'
    words = [str(package), '--chip', 'A14', 'A13', '--suggest', '--all', '--json', str(out)]
    assert run(words) == 0
    text = ' '.join(capsys.readouterr().out.split())
    assert 'one prediction:' in text
    assert 'A13: about' in text
    assert 'time by layer' in text
    a14, a13 = json.loads(out.read_text())['files'][0]['latency']
    assert a14['estimate']['low'] < a14['estimate']['ms'] < a14['estimate']['high']
    assert a13['estimate']['low'] is None
    total = a14['estimate']['floor_ms'] + sum(layer['ms'] for layer in a14['layers'])
    assert total == pytest.approx(a14['estimate']['ms'])
    assert a14['suggestions'] == []


def test_what_would_shorten_it_is_told_when_asked(tmp_path, capsys):
    path = str(crafted(tmp_path, 'silu', shape=(1, 64, 112, 112)))
    run([path, '--chip', 'A14', '--suggest'])
    said = capsys.readouterr().out
    assert 'what would shorten it, each by itself:' in said
    assert '%), predicted: ReLU instead of silu, in 1 place: x * f(x) runs over its map' in said
    run([path, '--chip', 'A14'])
    assert 'shorten' not in capsys.readouterr().out


def test_what_is_not_counted_is_said(tmp_path, capsys):
    mixed, off = tmp_path / 'mixed', tmp_path / 'off'
    mixed.mkdir()
    off.mkdir()
    assert run([str(crafted(mixed, 'relu', 'tan', 'relu')), '--chip', 'A14']) == 0
    said = capsys.readouterr().out
    assert '1 operation off the engine and 2 changes of unit cost more' in said
    assert run([str(crafted(off, 'tan')), '--chip', 'A12']) == 0
    assert 'A12: no estimate of time: nothing of it runs on the engine' in capsys.readouterr().out


def test_a_benchmark_is_not_written_over(package, tmp_path):
    path = bench(tmp_path, package)
    with pytest.raises(MobileOneExtError, match='--calibrate'):
        run([str(package), '--calibrate', str(path), '--json', str(path)])
