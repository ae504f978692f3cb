"""Units compared: right ones pass, wrong ones are named, inputs are as hard as they say."""

import json
import math

import pytest
import torch
from helpers import generator

from mmpretrain_mobileone_ext.commands.benchmark.gpu import units
from mmpretrain_mobileone_ext.commands.benchmark.gpu.units import (
    INPUTS,
    ODD,
    PRECISIONS,
    QUANTITIES,
    UNITS,
    Finding,
    UnitCase,
    findings_table,
    relative_error,
    summary,
    unit_cases,
)
from mmpretrain_mobileone_ext.models.online import planned_method

SHAPE = (8, 24, 16, 16)
EASY = ('normal', 'rectified')


def made(given):
    return INPUTS[given](SHAPE, generator()).double()


def spread(x):
    return x.std((0, 2, 3)), x.mean((0, 2, 3))


def test_means_are_large():
    std, mean = spread(made('large means'))
    assert (mean.abs() / std).max() > 100
    assert (mean > 0).any()
    assert (mean < 0).any()


def test_variances_are_small():
    std, _ = spread(made('small variances'))
    assert std.min() < 0.01
    assert std.max() > 0.1


def test_channels_are_correlated():
    found = torch.corrcoef(made('correlated').transpose(0, 1).flatten(1))
    # 1 / (1 + 0.05^2) but for the sample.
    assert found.min() > 0.99


def test_neighbours_are_alike():
    x = made('smooth')
    assert (x[..., 1:] - x[..., :-1]).square().mean() < 0.1 * x.var()


def test_some_channels_are_constant_and_some_zero():
    std, mean = spread(made('constant'))
    assert (std == 0).sum() == 16
    assert (mean == 0).sum() == 8


def test_some_channels_are_nearly_never_active():
    x = made('rectified')
    assert (x >= 0).all()
    active = (x > 0).double().mean((0, 2, 3))
    assert active.min() < 0.02
    assert active.max() > 0.4


def test_methods_are_those_that_they_say():
    """Else branches would be compared with branches."""
    case = UnitCase('depthwise, 4 convs', 'normal', 'fp32', ODD, 'cpu')
    for method, taken in (('moments', {'moments'}), ('memory', {'moments', 'recompute'})):
        preference = units.METHODS[method]
        block = case.block(preference)
        assert planned_method(block.unit(), case.images(), preference, True).method in taken


@pytest.mark.parametrize('precision', ['fp32', 'bf16', 'fp16'])
@pytest.mark.parametrize('unit', UNITS)
def test_units_are_right_here(unit, precision):
    for given in INPUTS if precision == 'fp32' else EASY:
        found = list(UnitCase(unit, given, precision, ODD, 'cpu').findings())
        assert [f.quantity for f in found] == 3 * list(QUANTITIES)
        assert [f.line for f in found if not f.passed] == []


@pytest.mark.parametrize(
    'unit', ['depthwise, stride 2, 4 convs', 'pointwise, 1 conv, skip', 'stem']
)
def test_a_wrong_weight_is_found(unit):

    def wrong(block):
        with torch.no_grad():
            block.branch_conv_list[0].conv.weight[1, 0, 0, 0] += 1e-3
        return block

    found = list(UnitCase(unit, 'normal', 'fp32', ODD, 'cpu').findings({'moments': True}, wrong))
    failed = {f.quantity for f in found if not f.passed}
    assert {'output', 'parameter gradients'} <= failed


def test_wrong_statistics_are_found():

    def wrong(block):
        block.branch_conv_list[0].norm.momentum = 0.11
        return block

    case = UnitCase('pointwise, 4 convs', 'normal', 'fp32', ODD, 'cpu')
    found = list(case.findings({'moments': True}, wrong))
    assert [f.quantity for f in found if not f.passed] == ['statistics']


def test_what_a_method_raises_is_one_finding():

    def broken(block):
        raise RuntimeError('no kernel\nfor this')

    case = UnitCase('stem', 'normal', 'fp32', ODD, 'cpu')
    (found,) = case.findings({'moments': True}, broken)
    assert not found.passed
    assert found.line.endswith('fp32, moments: RuntimeError: no kernel for this')
    assert json.loads(json.dumps(found.document()))['error'] is None


def finding(error, branches=1e-6, bound=3e-6, quantity='output'):
    return Finding('stem', 'normal', (1, 3, 8, 8), 'fp32', 'auto', quantity, error, branches, bound)


@pytest.mark.parametrize(
    ('error', 'branches', 'passed'),
    [
        (3e-6, 1e-6, True),
        (3.1e-6, 1e-6, False),
        (math.nan, 1e-6, False),
        (math.inf, 1e-6, False),
        (math.nan, math.nan, True),  # branches overflow too
    ],
)
def test_what_passes(error, branches, passed):
    assert finding(error, branches).passed == passed


def test_a_summary_counts_and_compares():
    group = [finding(1e-6), finding(2e-6), finding(9e-6), finding(1e-6, branches=0.0)]
    assert summary(group) == ['4', '1', '2.00', '9.00']
    assert summary([finding(math.nan)]) == ['1', '1', '-', '-']
    assert findings_table([*group, finding(1e-6, quantity='statistics')]).row_count == 2


def test_errors_are_relative_where_they_can_be():
    a = torch.tensor([3.0, 4.0], dtype=torch.float64)
    assert relative_error(a.float() * 1.5, a) == 0.5
    assert relative_error(a.float(), 0 * a) == 5


def test_cases_of_a_device():
    here, there = unit_cases('cpu'), unit_cases('cuda')
    assert len(here) == len(INPUTS) * len(UNITS) * (len(PRECISIONS) - 1)
    assert {c.precision for c in here} == {'fp32', 'bf16', 'fp16'}
    assert {c.precision for c in there} == set(PRECISIONS)
    assert len({c.size for c in there}) == 2
    assert len(set(there)) == len(there)
