"""A sweep: forecasts, skipped cases, and the worst ratio."""

import pytest
from benchmark_kit import made_case

from mmpretrain_mobileone_ext.commands.benchmark.training import step as sweep
from mmpretrain_mobileone_ext.commands.benchmark.training.options import BenchmarkOptions
from mmpretrain_mobileone_ext.commands.benchmark.training.results import Case
from mmpretrain_mobileone_ext.commands.benchmark.training.step import (
    MAX_STEP_S,
    ROOM,
    Forecast,
    rated,
    sweep_cases,
)

OPTIONS = BenchmarkOptions(sweep=True, arch=('s0', 's1'), batch=(1, 8), size=(64,))


@pytest.fixture
def forecast():
    """Learned 1 MB and 11 ms at 8 x 64 x 64 pixels."""
    learner = Forecast()
    learner.learn(made_case())
    return learner


def test_nothing_is_refused_before_something_is_known():
    assert Forecast().refusal(10**12, free=1) is None


def test_memory_is_forecast_by_pixels(forecast):
    pixels = 8 * 64**2
    fits = int(10e6 * ROOM) + 1
    assert forecast.refusal(10 * pixels, fits) is None
    assert forecast.refusal(10 * pixels, None) is None
    assert forecast.refusal(11 * pixels, fits) == ('needs about 0.0 GB, 0.0 GB are free')


def test_time_is_forecast_by_pixels(forecast):
    pixels = 8 * 64**2
    longest = MAX_STEP_S * 1000 / 11
    assert forecast.refusal(int(0.9 * longest * pixels), None) is None
    text = forecast.refusal(int(2 * longest * pixels), None)
    assert text == 'a step would take about 120 s, more than 60 s'


def test_a_failed_case_teaches_nothing(forecast):
    before = vars(forecast).copy()
    forecast.learn(made_case(branches=(), auto=(), saved=None))
    assert vars(forecast) == before


def test_every_case_comes_back_measured_or_with_a_reason(monkeypatch):
    monkeypatch.setattr(sweep, 'free_bytes', lambda device: 2e6)
    asked = []

    def measure(arch, batch, size):
        asked.append((arch, batch))
        return made_case(arch, batch, size, saved=10**6)

    cases = list(sweep_cases(OPTIONS, measure))
    assert asked == [('s0', 1), ('s1', 1)]  # 8 would need 12 MB
    assert [(c.arch, c.batch) for c in cases] == [('s0', 1), ('s0', 8), ('s1', 1), ('s1', 8)]
    assert cases[1].skipped.startswith('needs about')
    assert cases[0].skipped is None


def test_the_worst_ratio_comes_first():
    cases = [
        made_case('s0', auto=(5.0, 6.0)),
        made_case('s1', auto=(15.0, 18.0)),
        made_case('s2', auto=()),
        Case('s3', 8, 64, skipped='too large'),
    ]
    found = rated(cases, 'auto', 'branches')
    assert [(c.arch, ratio) for ratio, c in found] == [
        ('s1', pytest.approx(1.5)),
        ('s0', pytest.approx(0.5)),
    ]
