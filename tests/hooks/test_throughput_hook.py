"""ThroughputHook on a clock that only data and model move."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import ToyImages, classifier_cfg
from mmengine.evaluator import BaseMetric
from mmpretrain.registry import DATASETS, METRICS, MODELS
from toy_runner import loader, toy_runner

from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.hooks import throughput as laps
from mmpretrain_mobileone_ext.hooks import throughput as throughput_hook
from mmpretrain_mobileone_ext.hooks.training.throughput import Lap, RankLaps
from mmpretrain_mobileone_ext.models import DeployableClassifier

HOOK = dict(type='ThroughputHook', warmup=1)
KEYS = {
    'throughput',
    'latency_median',
    'latency_p90',
    'latency_p99',
    'data_time_share',
    'peak_memory',
}
LOAD_S, METRIC_S = 0.25, 50.0
#: Seconds that each batch takes; the last one has fewer images.
STEPS = [9.0, 1.0, 2.0, 4.0, 8.0, 0.5]


class Clock:
    now = 0.0

    def perf_counter(self):
        return Clock.now


@DATASETS.register_module(force=True)
class SlowImages(ToyImages):
    def __getitem__(self, index):
        Clock.now += LOAD_S
        return super().__getitem__(index)


@MODELS.register_module(force=True)
class SlowClassifier(DeployableClassifier):
    steps: list = []

    def test_step(self, data):
        Clock.now += SlowClassifier.steps.pop(0)
        return super().test_step(data)

    val_step = test_step


@METRICS.register_module(force=True)
class SlowMetric(BaseMetric):
    """Costs time that is neither the model's nor the data's."""

    default_prefix = None

    def process(self, data_batch, data_samples):
        Clock.now += METRIC_S
        self.results.append(len(data_samples))

    def compute_metrics(self, results):
        return dict(seen=sum(results), score=0.0)


@pytest.fixture
def clock(monkeypatch):
    monkeypatch.setattr(throughput_hook, 'time', Clock())
    monkeypatch.setattr(Clock, 'now', 0.0)
    SlowClassifier.steps = list(STEPS)


def slow_runner(path, *hooks, **options):
    data = loader(22, 1)
    data['dataset']['type'] = 'SlowImages'
    return toy_runner(
        path,
        *hooks,
        **{
            **dict(
                model=classifier_cfg('SlowClassifier'),
                test_dataloader=data,
                val_dataloader=data,
                test_evaluator=dict(type='SlowMetric'),
                val_evaluator=dict(type='SlowMetric'),
                # mmengine's cannot keep the best one without training
                default_hooks=dict(checkpoint=None),
            ),
            **options,
        },
    )


def test_figures_are_those_of_the_clock(tmp_path, clock):
    metrics = slow_runner(tmp_path, HOOK).test()
    counted, full = STEPS[1:], STEPS[1:-1]
    assert metrics['seen'] == 22
    assert metrics['throughput'] == pytest.approx(18 / sum(counted))
    assert metrics['latency_median'] == pytest.approx(3000)
    for share in (90, 99):
        assert metrics[f'latency_p{share}'] == pytest.approx(1e3 * np.percentile(full, share))
    waited = 18 * LOAD_S
    assert metrics['data_time_share'] == pytest.approx(waited / (waited + sum(counted)))
    assert metrics['peak_memory'] > 1


def test_warm_up_moves_the_figures(tmp_path, clock):
    """The case that must differ: nothing is left out."""
    metrics = slow_runner(tmp_path, dict(HOOK, warmup=0)).test()
    assert metrics['throughput'] == pytest.approx(22 / sum(STEPS))


def test_validation_has_them_as_well(tmp_path, clock):
    assert slow_runner(tmp_path, HOOK).val().keys() >= KEYS


def test_only_where_it_was_asked_for(tmp_path, clock):
    metrics = slow_runner(tmp_path, dict(HOOK, when=['test'])).val()
    assert not metrics.keys() & KEYS


@pytest.mark.parametrize(
    ('deploy', 'hooks', 'form'),
    [
        (False, [HOOK], 'branches'),
        (True, [HOOK], 'folded'),
        (False, [HOOK, dict(type='DeploySwitchHook')], 'folded'),
        (False, [dict(type='DeploySwitchHook'), HOOK], 'folded'),
    ],
)
def test_form_is_recorded_and_branches_warn(tmp_path, deploy, hooks, form, monkeypatch):
    runner = toy_runner(tmp_path, *hooks, model=classifier_cfg(deploy=deploy))
    warned = []
    monkeypatch.setattr(runner.logger, 'warning', warned.append)
    metrics = runner.test()
    (path,) = Path(runner.log_dir).glob('throughput_test.json')
    record = json.loads(path.read_text())
    assert record['form'] == form
    assert any('not folded' in text for text in warned) == (form == 'branches')
    assert record['throughput'] == metrics['throughput']
    assert record['batch_size'] == 4
    assert record['batches'] == 2
    assert (record['device'], record['threads']) == ('cpu', torch.get_num_threads())


def test_other_hooks_and_loggers_see_the_figures(tmp_path):
    runner = toy_runner(tmp_path, HOOK)
    runner.test()
    seen = runner.message_hub.log_scalars
    assert 'test/throughput' in seen


def test_model_is_given_back(tmp_path):
    runner = toy_runner(tmp_path, HOOK)
    runner.test()
    assert 'test_step' not in vars(runner.model)


def test_a_step_that_fails_leaves_the_model_as_it_was(tmp_path, monkeypatch):
    runner = toy_runner(tmp_path, HOOK)

    def broken(*args, **kwargs):
        raise RuntimeError('broken')

    monkeypatch.setattr(runner.model, 'forward', broken)
    with pytest.raises(RuntimeError, match='broken'):
        runner.test()
    assert 'test_step' not in vars(runner.model)


def test_training_goes_on_with_figures(tmp_path):
    runner = toy_runner(tmp_path, HOOK, dict(type='DeploySwitchHook'), epochs=1)
    runner.train()
    assert 'val/throughput' in runner.message_hub.log_scalars


def test_warm_up_that_leaves_nothing_is_refused_at_once(tmp_path):
    with pytest.raises(SpecError, match='none of the 3 batches of test'):
        toy_runner(tmp_path, dict(HOOK, warmup=3)).test()


@pytest.mark.parametrize(
    'wrong',
    [
        dict(warmup=-1),
        dict(warmup=1.5),
        dict(warmup=True),
        dict(when='test'),
        dict(when=[]),
        dict(when=['train']),
    ],
)
def test_wrong_arguments(wrong):
    with pytest.raises(SpecError, match=next(iter(wrong))):
        throughput_hook.ThroughputHook(**wrong)


def test_a_metric_of_the_same_name_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(SlowMetric, 'compute_metrics', lambda self, r: dict(throughput=1))
    SlowClassifier.steps = list(STEPS)
    with pytest.raises(SpecError, match='throughput'):
        slow_runner(tmp_path, HOOK).test()


def test_ranks_add_up():
    """Two ranks at once: twice the images a second, latencies pooled."""
    one = RankLaps((Lap(4, 2.0, 1.0), Lap(4, 2.0, 1.0)), 10**6)
    two = RankLaps((Lap(4, 1.0, 0.0),), 3 * 10**6)
    found = laps.summarize([one, two])
    assert found['throughput'] == pytest.approx(2 + 4)
    assert found['latency_median'] == pytest.approx(2000)
    assert found['data_time_share'] == pytest.approx(2 / 7)
    assert found['peak_memory'] == pytest.approx(3)


def test_gpu_is_waited_for(monkeypatch):
    """Before the clock starts and before it is read."""
    seen = []
    monkeypatch.setattr(throughput_hook, '_device', lambda model: SimpleNamespace(type='cuda'))
    monkeypatch.setattr(torch.cuda, 'synchronize', lambda device: seen.append('wait'))

    class Model:
        def test_step(self):
            seen.append('run')

    model = Model()
    timer = throughput_hook._StepTimer(model, 'test_step')
    model.test_step()
    timer.stop()
    assert seen == ['wait', 'run', 'wait']
