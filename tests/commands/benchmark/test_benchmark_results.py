"""Results: medians, pairwise ratios, JSON."""

import json

import pytest
from benchmark_kit import made_case, made_cost

from mmpretrain_mobileone_ext.commands.benchmark import paired_ratio
from mmpretrain_mobileone_ext.commands.benchmark.training.results import (
    ArchExactness,
    Case,
    Cost,
    Exactness,
    Report,
)


def test_a_step_is_forward_and_backward():
    cost = Cost('auto', 9.0, (1.0, 2.0, 3.0), (4.0, 4.0, 40.0))
    assert cost.step_ms == (5.0, 6.0, 43.0)
    assert cost.median_ms == 6.0


def test_the_ratio_is_pairwise():
    # A disturbance that slows a whole round leaves the ratio alone; the ratio of the medians would
    # be 0.25.
    quick = made_cost('auto', 5.0, 10.0, 100.0)
    slow = made_cost('branches', 10.0, 40.0, 200.0)
    assert paired_ratio(quick.step_ms, slow.step_ms) == 0.5


def test_no_ratio_without_steps():
    case = made_case(auto=())
    assert case.ratio('auto', 'branches') is None
    assert case.ratio('moments', 'branches') is None
    assert case.cost('moments') is None


def test_everything_goes_through_json():
    failed = Case('s4', 32, 224, (Cost('auto', failure='out of memory'),))
    report = Report(
        dict(cpu='toy'),
        ['tool'],
        dict(steps=2),
        ['a note'],
        [made_case(), failed, Case('s4', 1, 64, skipped='too large')],
        [ArchExactness('s0', 4, 64, (Exactness('auto', (1e-12,)),))],
    )
    document = json.loads(json.dumps(report.document()))
    first, second, third = document['cases']
    assert first['costs'][0]['step_ms'] == [10.0, 12.0]
    assert first['costs'][0]['median_ms'] == pytest.approx(11.0)
    assert first['costs'][0]['min_ms'] == 10.0
    assert second['costs'][0]['failure'] == 'out of memory'
    assert second['costs'][0]['median_ms'] is None
    assert third['skipped'] == 'too large'
    assert document['exactness'][0]['forms'][0]['output'] == [1e-12]
