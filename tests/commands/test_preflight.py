"""``mobileone-ext preflight``: what it prints, its JSON, its exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
from crafted_kit import Crafted, int8_linear

from mmpretrain_mobileone_ext.commands.cli import guarded
from mmpretrain_mobileone_ext.commands.preflight import run
from mmpretrain_mobileone_ext.coreml.neural_engine.verdict import preflight
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, DEFAULT_CHIPS, LABELS

SHAPE = (1, 4, 6, 5)


def crafted(folder, *kinds):
    """An fp16 chain between casts; an operation of each kind."""
    made = Crafted(SHAPE)
    last = made.op('cast', 'half', SHAPE, 'FLOAT16', x='x', dtype=np.array('fp16'))
    for index, kind in enumerate(kinds):
        last = made.op(kind, f'{kind}_{index}', SHAPE, 'FLOAT16', x=last)
    made.op('cast', 'result', SHAPE, x=last, dtype=np.array('fp32'))
    return made.save(folder)


@pytest.fixture(scope='module')
def good(tmp_path_factory):
    return crafted(tmp_path_factory.mktemp('good'), 'relu', 'relu', 'softmax')


@pytest.fixture(scope='module')
def mixed(tmp_path_factory):
    return crafted(tmp_path_factory.mktemp('mixed'), 'relu', 'tan', 'relu', 'tan', 'newest', 'sin')


def said(capsys, *words):
    code = run([str(w) for w in words])
    return code, ' '.join(capsys.readouterr().out.split())


def test_a_whole_network_on_the_engine(good, capsys):
    code, text = said(capsys, good, '--chip', 'm1', 'A14', '--require', 'engine')
    assert code == 0
    assert 'M1: all 4 operations can run on the engine (measured)' in text
    assert 'A14: all 4 operations can run on the engine (decoded)' in text
    assert 'before and behind the network, not on the engine: cast' in text
    assert 'not on the Neural Engine' not in text
    assert 'arXiv 2606.22283' in text


def test_what_is_off_is_grouped_with_chips_reasons_and_what_to_write(mixed, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '220')
    code, text = said(capsys, mixed, '--chip', 'M1', 'M5', 'M3')
    assert code == 0
    assert '│ tan │ 2 │ M1, M5 (measured); M3 (predicted) │ on no engine │ sin' in text
    assert '│ newest │ 1 │ M1, M5, M3 (unknown) │' in text
    assert '│ sin │ 1 │ M1 (measured) │ only from the A15 on │' in text
    assert 'M1: 4 of 7 operations cannot run on the engine, 1 of them unknown: at least 4' in text
    assert 'M5: 3 of 7 operations cannot run on the engine, 1 of them unknown: at least 4' in text


def test_the_default_chips_are_of_every_generation(mixed, capsys):
    _, text = said(capsys, mixed)
    assert all(f'{name}: ' in text for name in DEFAULT_CHIPS)
    assert {CHIPS[n].tier for n in DEFAULT_CHIPS} == {'A13', 'A14', 'A15', 'A16'}


@pytest.mark.parametrize(('file', 'code'), [('good', 0), ('mixed', 1)])
def test_the_exit_code_tells_whether_all_of_it_runs(file, code, request, capsys):
    path = request.getfixturevalue(file)
    assert said(capsys, path, '--require', 'engine', '--chip', 'M5')[0] == code
    assert said(capsys, path, '--chip', 'M5')[0] == 0


def test_what_is_unknown_does_not_run(tmp_path, capsys):
    path = crafted(tmp_path, 'relu', 'newest')
    code, text = said(capsys, path, '--require', 'engine', '--chip', 'M5')
    assert code == 1
    assert '1 of 3 operations cannot run on the engine, 1 of them unknown' in text


def test_all_shows_each_operation(mixed, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '120')
    _, text = said(capsys, mixed, '--all', '--chip', 'M1', 'M5')
    assert '│ relu │ relu_0 │ engine │ engine │' in text
    assert '│ tan │ tan_1 │ - │ - │' in text
    assert '│ newest │ newest_4 │ ? │ ? │' in text
    assert '│ sin │ sin_5 │ - │ engine │' in text


def test_json_holds_what_is_shown(mixed, tmp_path, capsys):
    file = tmp_path / 'found.json'
    said(capsys, mixed, '--all', '--json', file, '--chip', 'M1', 'M5')
    document = json.loads(file.read_text(encoding='utf-8'))
    _, printed = said(capsys, mixed, '--all', '--json', '-', '--chip', 'M1', 'M5')
    assert json.loads(printed)['files'] == document['files']
    assert document['schema_version'] == 1
    (file,) = document['files']
    for found, verdict in zip(
        file['chips'], preflight(read_program(mixed), [CHIPS['M1'], CHIPS['M5']])
    ):
        assert found['verdict']['sentence'] == verdict.sentence
        assert found['on_engine'] + sum(len(g['names']) for g in found['off']) == 7
        assert found['operations'] + found['border'] == len(found['placements']) == 8
        assert len(found['segments']) == found['switches'] + 1
        assert {p['label'] for p in found['placements']} <= set(LABELS)


def test_several_files_at_once(good, mixed, capsys):
    words = (good, mixed, '--chip', 'M5', '--json', '-', '--require', 'engine')
    code, printed = said(capsys, *words)
    files = json.loads(printed)['files']
    assert code == 1
    assert [f['chips'][0]['verdict']['level'] for f in files] == ['good', 'warn']
    assert not any('placements' in f['chips'][0] for f in files)


def test_fp32_networks_run_nowhere(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '200')
    made = Crafted(SHAPE)
    made.op('relu', 'r', SHAPE, x='x')
    code, text = said(capsys, made.save(tmp_path), '--chip', 'M5', '--require', 'engine')
    assert code == 1
    assert 'none of 1 operation can run on the engine: it is fp32' in text
    assert 'precision fp16' in text


def test_weights_are_told_by_what_they_save(tmp_path, capsys):
    path = int8_linear().save(tmp_path)
    _, text = said(capsys, path, '--chip', 'M1', 'A14')
    assert '1 weight, int8 affine, 8 bits: expanded to fp16 first' in text
    assert 'only disk, on M1 (measured); read as stored on A14 (decoded)' in text
    (verdict,) = preflight(read_program(path), [CHIPS['M1']])
    (stored,) = verdict.stored
    # The numbers, a scale, a zero point and the axis.
    assert (stored.size, stored.stored_bytes) == (512, 512 + 2 + 1 + 4)


def test_hostile_names_are_shown_as_text(tmp_path, capsys):
    made = Crafted(SHAPE)
    made.op('t\x1b[31man', 'na\x1b[2Jme', SHAPE, x='x')
    path = made.save(tmp_path)
    run([str(path), '--all'])
    assert '\x1b' not in capsys.readouterr().out


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['none.mlpackage'], 'none.mlpackage'),
        (['model.aimodel'], 'is a Core AI file'),
        (['GOOD', '--chip', 'A19'], "chip is 'A19'; allowed: A12, A13"),
        (['GOOD', '--require', 'gpu'], 'invalid choice'),
        (['GOOD', '--json', 'no/such/folder/x.json'], 'cannot be written'),
        (['GOOD', '--json', 'GOOD/x.json'], 'is a model package'),
    ],
)
def test_mistakes_are_one_line(words, said, good, capsys):
    given = [w.replace('GOOD', str(good)) for w in words]
    assert guarded(lambda: run(given)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert said in line
