"""Tables and lines, as text."""

import pytest
from benchmark_kit import made_case, made_cost
from rich.console import Console

from mmpretrain_mobileone_ext.commands.benchmark.training import table as present
from mmpretrain_mobileone_ext.commands.benchmark.training.options import BenchmarkOptions
from mmpretrain_mobileone_ext.commands.benchmark.training.results import (
    ArchExactness,
    Case,
    Cost,
    Exactness,
)


def rows(table):
    """Cells of each line of a rendered table, by the first cell."""
    console = Console(width=120, markup=False)
    with console.capture() as capture:
        console.print(table)
    lines = [line.replace('┃', '│').split('│') for line in capture.get().splitlines()]
    cells = [[c.strip() for c in line[1:-1]] for line in lines]
    return {c[0]: c[1:] for c in cells if c}


def test_a_row_a_form():
    found = rows(present.costs_table(made_case()))
    assert found['form'][0] == 'step ms'
    assert found['branches'] == ['11.0', '10.0', '2.75', '8.25', '100', '1.00x', '1.0', '2.0']
    assert found['auto'][5] == '2.00x'


def test_absent_values_are_dashes_and_failures_say_why():
    case = Case(
        's0',
        1,
        64,
        (Cost('branches', failure='out of memory'), made_cost('auto', 10.0, saved=None)),
    )
    found = rows(present.costs_table(case))
    assert found['branches'] == ['out of memory', *['-'] * 7]
    assert found['auto'][6] == '-'


def test_the_title_names_what_speed_is_against():
    failed = Cost('branches', failure='out of memory')
    title = present.costs_table(made_case()).title
    assert title == ('s0, 8x3x64x64: one training step, speed against branches')
    case = Case('s0', 1, 64, (failed, made_cost('auto', 10.0)))
    assert present.costs_table(case).title.endswith('speed against auto')
    case = Case('s0', 1, 64, (failed,))
    assert present.costs_table(case).title.endswith('one training step')


def test_costs_fit_a_terminal():
    case = made_case(branches=(35100.0,), auto=(21000.0,))
    console = Console(width=80)
    with console.capture() as capture:
        console.print(present.costs_table(case))
    assert '…' not in capture.get()


def test_exactness_shows_worst_agreements_and_median_errors():
    form = Exactness('auto', (1e-12, 3e-12), (1e-11,), (1e-10,), (1e-9,), (0.01, 0.02, 0.5))
    arch = ArchExactness('s0', 4, 64, (form, Exactness('memory', failure='out of memory')))
    found = rows(present.exactness_table(arch, None))
    assert found['auto'] == ['3.0e-12', '1.0e-11', '1.0e-10', '1.0e-09', '2.0e-02']
    assert found['memory'] == ['out of memory', *['-'] * 4]
    wide = rows(present.exactness_table(arch, 'bfloat16'))
    assert wide['form'][-1] == 'bfloat16 grad error'
    assert wide['auto'][-1] == '-'


def test_a_nan_is_shown():
    nan = float('nan')
    form = Exactness('auto', (1.0, nan, 1.0), (nan, 1.0), (1.0, nan), (1.0,))
    arch = ArchExactness('s0', 4, 64, (form,))
    assert rows(present.exactness_table(arch, None))['auto'][:3] == ['nan'] * 3


def test_a_sweep_names_the_worst_and_what_was_skipped():
    cases = [
        made_case('s0'),
        made_case('s1', auto=(11.0, 13.2)),
        Case('s4', 32, 224, skipped='needs about 9.0 GB'),
    ]
    found = rows(present.sweep_table(cases, 'auto', 'branches'))
    assert found['s0'] == ['8', '64', '11.0', '5.50', '0.50', '1.0', '1.0']
    assert found['s4'] == ['32', '224', 'skipped', *['-'] * 4]
    assert present.sweep_lines(cases, 'auto', 'branches') == [
        'skipped s4, 32x3x224x224: needs about 9.0 GB',
        'worst ratio: 1.10 at s1, 8x3x64x64',
        'best ratio: 0.50 at s0, 8x3x64x64',
        'auto is slower than branches in 1 of 2 cases',
    ]


def test_a_sweep_with_failures():
    case = Case('s0', 8, 64, (made_cost('branches', 10.0), Cost('auto', failure='out of memory')))
    found = rows(present.sweep_table([case], 'auto', 'branches'))
    assert found['s0'][2:] == ['10.0', 'out of memory', '-', '1.0', '-']
    assert present.sweep_lines([case], 'auto', 'branches') == ['no case ran in both forms']


@pytest.mark.parametrize(
    ('value', 'text'), [(None, '-'), (1.234, '1.23'), (12.34, '12.3'), (3512.4, '3512')]
)
def test_milliseconds(value, text):
    assert present.milliseconds(value) == text


def test_the_setting_is_one_line():
    machine = dict(cpu='A CPU', cores=2, gpu=None, versions=dict(torch='2.9'))
    text = present.setting(BenchmarkOptions(amp='bfloat16'), machine)
    assert text == (
        'A CPU, 2 cores, 2 threads, torch 2.9, cpu, autocast bfloat16, median of 5 steps in turns'
    )
    text = present.setting(BenchmarkOptions(sweep=True), machine)
    assert text.endswith('median of 5 steps in turns, more for small inputs')


@pytest.mark.parametrize(
    ('tf32', 'text'),
    [
        (dict(products=False, convolutions=True), 'float32, TF32 in convolutions, channels_last'),
        (dict(products=True, convolutions=True), 'float32, TF32 in products and convolutions'),
        (dict(products=False, convolutions=False), 'float32, no TF32, channels_last'),
    ],
)
def test_the_setting_says_what_a_gpu_rounds(tf32, text):
    machine = dict(cpu='A CPU', cores=2, gpu='A GPU', versions=dict(torch='2.9'), tf32=tf32)
    options = BenchmarkOptions(device='cuda', channels_last=True)
    assert f'torch 2.9, cuda, {text}' in present.setting(options, machine)
    assert present.setting(options, machine).startswith('A GPU, ')


def test_a_long_failure_is_short_in_a_cell():
    failed = Cost('auto compiled', failure='does not compile: Unsupported: a long story')
    case = Case('s0', 1, 64, (made_cost('auto', 10.0), failed))
    assert rows(present.costs_table(case))['auto compiled'][0] == 'does not compile'
    assert case.notes == [f's0, 1x3x64x64: auto compiled {failed.failure}']
