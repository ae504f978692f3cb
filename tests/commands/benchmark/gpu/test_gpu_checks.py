"""A comparing part: what fits into its seconds, its file, its lines."""

import json

import pytest

from mmpretrain_mobileone_ext.commands.benchmark.gpu import checks
from mmpretrain_mobileone_ext.commands.benchmark.gpu.checks import CheckOptions, run, run_checks
from mmpretrain_mobileone_ext.commands.benchmark.gpu.operators import OperatorFinding
from mmpretrain_mobileone_ext.commands.benchmark.gpu.units import Finding
from mmpretrain_mobileone_ext.errors import SpecError


def finding(error):
    return Finding('stem', 'normal', (1, 3, 8, 8), 'fp32', 'auto', 'output', error, 1e-6, 3e-6)


@pytest.fixture
def part(monkeypatch):
    """Replaces the checks of a part by some that find these."""

    def replace(*found):
        monkeypatch.setitem(checks.PARTS, 'units', lambda device: [lambda f=f: [f] for f in found])

    return replace


def test_everything_is_written_and_counted(part, tmp_path, capsys):
    file = tmp_path / 'found.json'
    part(finding(1e-6), finding(1.0), OperatorFinding('op', 'stem', 'moments', 'fp32', 'it lies'))
    found = run(['--device', 'cpu', '--json', str(file)])
    document = json.loads(file.read_text())
    assert (document['total'], document['done']) == (3, 3)
    assert [f['passed'] for f in document['findings']] == [True, False]
    assert document['operators'][0]['failure'] == 'it lies'
    out = capsys.readouterr().out
    assert all(line in out for line in found.failures)
    assert 'units: 3 of 3 checks, 3 comparisons, 2 failed' in out


def test_few_of_many_failures_are_printed(part, capsys):
    part(*[finding(1.0)] * 25)
    run_checks(CheckOptions(device='cpu'), progress=False)
    out = capsys.readouterr().out
    assert out.count('output is off by 1.0e+00') == 20
    assert 'and 5 more' in out


def test_no_check_begins_after_its_seconds(part, monkeypatch):
    now = iter(range(0, 1000, 3))
    monkeypatch.setattr(checks.time, 'monotonic', lambda: next(now))
    part(*[finding(1e-6)] * 9)
    monkeypatch.setattr(checks, 'Steps', _NoSteps)
    found = run_checks(CheckOptions(device='cpu', seconds=10))
    assert (found.total, found.done) == (9, 3)


class _NoSteps:
    def __init__(self, show):
        pass

    def step(self, title, total):
        return self

    def __enter__(self):
        return lambda count: None

    def __exit__(self, *_):
        pass


def test_parts_have_checks():
    assert all(len(part('cpu')) > 1 for part in checks.PARTS.values())


@pytest.mark.parametrize(
    ('given', 'text'),
    [
        (dict(part='all'), "part 'all' is not one of ['units', 'operators']"),
        (dict(device='tpu'), "device 'tpu' is not one of"),
        (dict(seconds=0), 'seconds=0; at least 1'),
    ],
)
def test_refusals(given, text):
    with pytest.raises(SpecError) as caught:
        CheckOptions(**given)
    assert text in str(caught.value)
