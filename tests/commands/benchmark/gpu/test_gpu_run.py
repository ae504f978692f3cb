"""The whole check: its plan, what is left when parts end early, and its page."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from benchmark_kit import made_cost

from mmpretrain_mobileone_ext.commands.benchmark.gpu import run as gpu_run
from mmpretrain_mobileone_ext.commands.benchmark.gpu.page import page
from mmpretrain_mobileone_ext.commands.benchmark.gpu.run import GpuOptions, launch, plan, run_check
from mmpretrain_mobileone_ext.commands.benchmark.training.results import Case
from mmpretrain_mobileone_ext.commands.console.benchmarks import training_parser
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.models.spec import PRESETS
from mmpretrain_mobileone_ext.utils.text import DASH

TOOL = Path(__file__).resolve().parents[4] / 'tools/check_gpu.py'
FINDING = dict(precision='fp32', quantity='output', error=2e-6, branches=1e-6, passed=True)
WRONG = dict(FINDING, error=9e-6, passed=False)


def speed(amp=None, cases=()):
    options = dict(device='cpu', amp=amp, channels_last=False, size=[32], steps=2)
    tf32 = dict(products=False, convolutions=True)
    return dict(options=options, machine=dict(tf32=tf32), cases=[c.document() for c in cases])


def eager():
    costs = [
        made_cost('mmpretrain', 40.0, 44.0),
        made_cost('branches', 20.0, 22.0),
        made_cost('auto', 10.0, 11.0),
        made_cost('folded', 5.0, 5.5),
    ]
    return Case('s0', 8, 32, tuple(costs))


def compiled():
    costs = [made_cost('auto', 10.0, 11.0), made_cost('auto compiled', 8.0, 8.8)]
    return Case('s0', 8, 32, tuple(costs))


def checked(*findings, done=1, total=1):
    return dict(done=done, total=total, findings=list(findings), operators=[])


@pytest.fixture
def options(tmp_path):
    return GpuOptions(
        device='cpu',
        arch=('s0',),
        batch=2,
        size=32,
        json=tmp_path / 'found.json',
        markdown=tmp_path / 'found.md',
    )


def children(found, codes=None):
    """Launches parts that leave what ``found`` says, by a word of their command line."""
    seen = []

    def start(command, seconds):
        words = ' '.join(command[3:])
        seen.append((words, seconds))
        for key, document in found.items():
            if key in words:
                Path(command[-1]).write_text(json.dumps(document))
        return next((code for key, code in (codes or {}).items() if key in words), 0)

    return start, seen


def test_what_is_right_comes_first_and_small_networks_before_large_ones():
    parts = plan(GpuOptions())
    assert [p.name for p in parts[:2]] == ['units', 'operators']
    eager_parts = [p for p in parts[2:] if '--compile' not in p.words]
    assert [p.words[p.words.index('--arch') + 1] for p in eager_parts] == ['s0', 's0', 's2', 's2']
    measured = {
        (arch, form, '--amp' in p.words, '--compile' in p.words)
        for p in parts[2:]
        for arch in PRESETS
        for form in p.words[p.words.index('--forms') + 1 :]
        if arch in p.words
    }
    forms = ('mmpretrain', 'branches', 'auto', 'folded')
    eager_ones = {(a, f, amp, False) for a in PRESETS for f in forms for amp in (True, False)}
    assert eager_ones <= measured
    assert {(a, f, True, True) for a in PRESETS for f in forms} <= measured


def test_parts_are_command_lines_that_the_benchmark_takes():
    for part in plan(GpuOptions()):
        if part.module == 'training.run':
            given = training_parser().parse_args(part.words)
            assert (given.batch, given.size, given.check) == ([256], [224], False)


def test_files_hold_what_was_found(options, capsys):
    start, seen = children(
        {
            '--part units': checked(FINDING),
            '--part operators': checked(),
            '--forms mmpretrain branches auto': speed(cases=[eager()]),
            '--compile --arch s0 --forms auto': speed(cases=[compiled()]),
        }
    )
    report = run_check(options, start)
    assert report.failures == 0
    assert len(seen) == len(plan(options))
    document = json.loads(options.json.read_text())
    assert {p['state'] for p in document['parts']} == {'done'}
    assert document['checks']['units']['findings'] == [FINDING]
    assert document['speed'][0]['cases'][0]['arch'] == 's0'
    out = capsys.readouterr().out
    assert out.endswith('nothing failed\n')
    text = options.markdown.read_text()
    assert 'Units: 1 of 1 checks, 1 comparisons, 0 failed.' in text
    assert '| fp32 | output | 2.00 | 2.00 |' in text
    assert f'| S0 | 8 | 42.0 | 21.0 | 10.5 | 4.00 | 8.00 | {DASH} | 8.4 | 1.25 | 2 | 2 |' in text


@pytest.mark.parametrize(
    ('found', 'codes', 'failures', 'state'),
    [
        (checked(WRONG, FINDING), {}, 1, 'done'),
        (checked(FINDING), {'units': 1}, 1, 'failed with exit code 1'),
        (checked(FINDING), {'units': -11}, 1, 'failed with exit code -11'),
        (checked(FINDING), {'units': None}, 1, 'ended after 0 s'),  # a kernel that never ends
        (checked(FINDING, total=4), {}, 0, '1 of 4 checks fitted'),
    ],
)
def test_what_failed_is_counted(options, found, codes, failures, state):
    start, _ = children({'--part units': found}, codes)
    report = run_check(options, start)
    assert report.failures == failures
    assert report.parts[0]['state'] == state
    assert report.checks['units'] == found


def test_a_benchmark_that_takes_too_long_leaves_what_it_had(options):
    start, _ = children({'--amp bf16': speed('bfloat16', [eager()])}, {'--amp bf16': None})
    report = run_check(options, start)
    assert report.failures == 0
    assert report.speed[0]['cases'][0]['arch'] == 's0'
    assert 'ended after' in options.markdown.read_text()


def test_a_benchmark_that_breaks_is_a_failure(options):
    start, _ = children({}, {'--amp bf16': -6})
    assert run_check(options, start).failures > 0


def test_nothing_begins_when_time_is_up(options, monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(gpu_run.time, 'monotonic', lambda: now[0])
    seconds = []

    def start(command, limit):
        seconds.append(limit)
        now[0] += 30
        return 0

    report = run_check(replace(options, minutes=1), start)
    assert seconds == [1.5 * 15 + 15, 1.5 * 9 + 15]
    assert {p['state'] for p in report.parts[2:]} == {'left out: 0 s were left'}
    assert 'left out: 0 s were left' in capsys.readouterr().out


def test_batches_that_were_halved_are_not_compared_across():
    smaller = replace(compiled(), batch=4)
    text = page(
        dict(gpu='A GPU', cpu='', versions=dict(torch='2.9')),
        [dict(name='x|y', state='left out')],
        {},
        [speed(cases=[eager()]), speed(cases=[smaller])],
    )
    assert text.startswith('A GPU, torch 2.9.\n')
    assert f'| 10.5 | 4.00 | 8.00 | {DASH} | {DASH} | 1.25 | 2 | 2 |' in text
    assert r'- x\|y: left out' in text


def test_a_child_is_ended_with_its_time():
    code = 'import sys, time; time.sleep(int(sys.argv[1])); sys.exit(3)'
    assert launch([sys.executable, '-c', code, '0'], 60) == 3
    assert launch([sys.executable, '-c', code, '60'], 0.5) is None


@pytest.fixture
def tool(monkeypatch, capsys):
    """Runs the tool in this process; returns (exit code, out, err)."""

    def call(*args):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, args)])
        with pytest.raises(SystemExit) as caught:
            runpy.run_path(str(TOOL), run_name='__main__')
        return caught.value.code, *capsys.readouterr()

    return call


def test_no_gpu_is_one_line(tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert tool() == (2, '', "error: device 'cuda': torch finds no usable GPU here\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['--arch', 's9'], "arch 's9' is not one of"),
        (['--minutes', '0'], 'minutes=0; at least 1'),
        (['--batch', '1', '--size', '32'], 'one value a channel'),
        (['--device', 'tpu'], "device 'tpu' is not one of"),
        (['--json', 'absent/found.json'], 'absent/found.json cannot be written'),
        (['--json', 'one', '--markdown', 'one'], 'one'),
    ],
)
def test_mistakes_are_one_line(tool, monkeypatch, tmp_path, words, text):
    monkeypatch.chdir(tmp_path)
    code, out, err = tool('--device', 'cpu', *words)
    assert (code, out) == (2, '')
    assert text in err
    assert err.count('\n') == 1
    assert list(tmp_path.iterdir()) == []


def test_a_failed_comparison_is_exit_code_1(tool, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    start, _ = children({'--part units': checked(WRONG)})
    monkeypatch.setattr(gpu_run.run_check, '__defaults__', (start,))
    code, out, _ = tool('--device', 'cpu', '--arch', 's0', '--batch', '2', '--size', '32')
    assert code == 1
    assert out.endswith('1 failed\n')
    assert sorted(p.name for p in tmp_path.iterdir()) == ['check_gpu.json', 'check_gpu.md']


def test_an_empty_list_of_networks():
    with pytest.raises(SpecError, match='arch is empty'):
        GpuOptions(arch=())


@pytest.mark.slow
def test_the_check_on_a_cpu(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    # Time enough on a busy machine; networks are compiled in tests/models/online/test_compile.py.
    options = GpuOptions(
        device='cpu', arch=('s0',), batch=2, size=32, steps=1, warmup=0, minutes=30
    )
    parts = [p for p in gpu_run.plan(options) if '--compile' not in p.words]
    monkeypatch.setattr(gpu_run, 'plan', lambda options: parts)
    report = run_check(options)
    assert [p['state'] for p in report.parts] == ['done'] * len(parts)
    assert report.speed[0]['cases'][0]['costs']
