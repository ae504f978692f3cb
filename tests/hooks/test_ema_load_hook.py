"""Checkpoints of averaged runs, where mmpretrain's EMAHook goes wrong."""

import pytest
import torch
from helpers import classifier_cfg
from mmengine.registry import HOOKS
from toy_runner import toy_cfg, toy_runner

from mmpretrain_mobileone_ext import EMALoadHook
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.hooks.training.ema_load import fitting_momentum

EMA = dict(type='EMAHook', momentum=0.3, priority='ABOVE_NORMAL')
LOAD = dict(type='EMALoadHook')
DEPLOY = dict(type='DeploySwitchHook')


@pytest.fixture(scope='module')
def averaged(tmp_path_factory):
    """Last checkpoint of a run with averaged weights."""
    folder = tmp_path_factory.mktemp('averaged')
    toy_runner(folder, EMA).train()
    return folder / 'epoch_2.pth'


def weights(path):
    return load_checkpoint_file(path)['state_dict']


def tuned(folder, source, *hooks):
    """Fine-tune for five classes, at no speed, to see what was loaded."""
    runner = toy_runner(
        folder,
        *hooks,
        load_from=str(source),
        epochs=1,
        model=classifier_cfg(num_classes=5),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.0)),
    )
    runner.train()
    return weights(folder / 'epoch_1.pth')


def test_a_new_head_is_tuned_on_averaged_weights(averaged, tmp_path):
    found = tuned(tmp_path, averaged, EMA, LOAD)
    assert found['head.fc.weight'].shape[0] == 5
    for key, value in weights(averaged).items():
        if key.startswith('backbone') and key.endswith('conv.weight'):
            assert torch.equal(found[key], value), key


def test_without_the_hook_it_fails(averaged, tmp_path):
    """If this stops failing, the hook has done its work."""
    with pytest.raises(RuntimeError, match='size mismatch'):
        tuned(tmp_path, averaged, EMA)


def scored(folder, source, *hooks, **cfg):
    runner = toy_runner(folder, *hooks, load_from=str(source), **cfg)
    return runner.test()['score']


def test_test_time_augmentation_sees_the_averaged_weights(averaged, tmp_path):
    data = dict(toy_cfg(tmp_path).test_dataloader)
    data['dataset'] = dict(data['dataset'], mirrored=True)
    cfg = dict(test_dataloader=data, model=dict(type='AverageClsScoreTTA', module=classifier_cfg()))
    with_ema = scored(tmp_path / 'a', averaged, EMA, LOAD, **cfg)
    without = scored(tmp_path / 'b', averaged, **cfg)
    assert with_ema == pytest.approx(without, abs=1e-9)


def test_a_resumed_run_keeps_both_kinds_of_weights(averaged, tmp_path):
    ends = []
    for name, hooks in (('a', [EMA]), ('b', [EMA, LOAD])):
        runner = toy_runner(tmp_path / name, *hooks, epochs=3, resume=True, load_from=str(averaged))
        runner.train()
        ends.append(load_checkpoint_file(tmp_path / name / 'epoch_3.pth'))
    for part in ('state_dict', 'ema_state_dict'):
        for key, value in ends[0][part].items():
            assert torch.equal(value, ends[1][part][key]), key


def test_the_other_weights_are_scored_as_they_are(tmp_path):
    """``evaluate_on_origin`` runs the model once more after the epoch."""
    origins = []
    for name, hooks in (('a', []), ('b', [DEPLOY])):
        runner = toy_runner(tmp_path / name, dict(EMA, evaluate_on_origin=True), *hooks)
        runner.train()
        scalars = runner.message_hub.log_scalars
        origins.append(scalars['val/score_origin'].data[0].tolist())
        averaged = scalars['val/score'].data[0].tolist()
        assert origins[-1] != pytest.approx(averaged, abs=1e-6)
    assert origins[0] == pytest.approx(origins[1], abs=1e-9)


def test_the_hook_is_registered_under_its_name():
    assert HOOKS.get('EMALoadHook') is EMALoadHook


@pytest.mark.parametrize(
    ('ema', 'warned'),
    [
        (dict(momentum=0.01), True),  # 100 iterations, and the run has 6
        (dict(momentum=0.3), False),
        (dict(momentum=0.3, interval=3), True),
        (dict(momentum=0.01, ema_type='MomentumAnnealingEMA'), False),
    ],
)
def test_an_average_that_is_longer_than_the_run_is_warned_of(ema, warned, tmp_path):
    runner = toy_runner(tmp_path, {**EMA, **ema}, LOAD)
    said = []
    runner.logger.warning = lambda text, *args: said.append(text)
    runner.train()
    found = [text for text in said if 'averages over' in text]
    assert bool(found) is warned
    if warned:
        assert 'the run has 6: ' in found[0]


def test_a_momentum_follows_the_number_of_iterations():
    assert fitting_momentum(5e-4, 200) == pytest.approx(0.05)
    assert fitting_momentum(5e-4, 10**6) == 5e-4
    assert fitting_momentum(0.3, 200) == 0.3
    assert fitting_momentum(5e-4, 3) == 0.5
