"""Quantization-aware training in real runs: when, what is scored, saved and resumed."""

import copy

import pytest
import torch
from helpers import assert_close, assert_same_state, classifier_cfg
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.registry import MODELS
from toy_runner import loader, toy_runner

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import CheckpointError, SpecError
from mmpretrain_mobileone_ext.hooks import QuantizationHook
from mmpretrain_mobileone_ext.hooks.bn_recalibration import recalibrate
from mmpretrain_mobileone_ext.hooks.training import quantization as hook_module
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.quantization import Quantizer, quantizers

OFF, ON, FROZEN = range(3)
SEED = dict(type='EpochSeedHook')
DEPLOY = dict(type='DeploySwitchHook')


def quantized(**options):
    # All layers of so small a network are sensitive.
    return dict(type='QuantizationHook', **{'sensitive': 4, 'block_size': 8, **options})


@HOOKS.register_module(force=True)
class PhaseSpy(Hook):
    """Notes the phase of each step, every loss, and may stop the run."""

    priority = 'LOWEST'

    def __init__(self, stop=None):
        self.stop, self.phases, self.losses = stop, [], []

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.phases.append({own.phase for own in quantizers(runner.model)})
        if runner.epoch == self.stop:
            raise KeyboardInterrupt

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        self.losses.append(float(outputs['loss']))


SPY = dict(type='PhaseSpy')


def spy_of(runner):
    return next(h for h in runner.hooks if isinstance(h, PhaseSpy))


def state_in(path):
    return load_checkpoint_file(path)['state_dict']


@pytest.mark.parametrize(
    ('options', 'wanted'),
    [
        (dict(), [ON] * 4),
        (dict(start=1, freeze_stats=3), [OFF, ON, ON, FROZEN]),
        (dict(start=0.5, freeze_stats=0.75), [OFF, OFF, ON, FROZEN]),
    ],
)
def test_phases_begin_with_their_epochs(tmp_path, options, wanted):
    runner = toy_runner(tmp_path, quantized(**options), SPY, epochs=4)
    runner.train()
    assert spy_of(runner).phases == [{phase} for phase in wanted for _ in range(3)]


def test_phases_begin_with_their_iterations(tmp_path):
    runner = toy_runner(
        tmp_path,
        quantized(start=2, freeze_stats=0.75),
        SPY,
        train_cfg=dict(by_epoch=False, max_iters=8, val_interval=4),
        train_dataloader=dict(loader(12, 0), sampler=dict(type='InfiniteSampler', shuffle=True)),
    )
    runner.train()
    assert spy_of(runner).phases == [{OFF}] * 2 + [{ON}] * 4 + [{FROZEN}] * 2


@pytest.mark.parametrize('update_buffers', [False, True])
def test_every_hook_of_a_recipe_works_with_it(tmp_path, update_buffers):
    runner = toy_runner(
        tmp_path,
        quantized(weights=4, activations=8, start=1),
        dict(type='EMAHook', momentum=0.3, update_buffers=update_buffers),
        DEPLOY,
        SEED,
        epochs=3,
    )
    runner.train()
    path = tmp_path / 'epoch_3.pth'
    plain = MODELS.build(classifier_cfg())
    keys = {k for k in state_in(path) if '.quantizer.' not in k}
    assert keys == set(plain.state_dict())
    # What was saved for deployment is what the checkpoint, loaded anywhere, predicts.
    plain.load_state_dict(state_in(path))
    assert {own.phase for own in quantizers(plain)} == {Quantizer.ON}
    assert all(own.batches == 6 for own in quantizers(plain))
    folded = MODELS.build(classifier_cfg(deploy=True))
    folded.load_state_dict(state_in(tmp_path / 'epoch_3_deploy.pth'))
    x = torch.randn(4, 3, 16, 16)
    with torch.no_grad():
        assert_close([plain.eval()(x)], [folded.eval()(x)], 1e-5)
        for own in quantizers(plain):
            own.phase = Quantizer.OFF
        off = (plain(x) - folded(x)).norm() / folded(x).norm()
    assert off > 1e-3  # rounding to 4 bits can be seen


def test_what_is_scored_is_rounded(tmp_path):
    hook = quantized(weights=4, start=0)
    runner = toy_runner(tmp_path, hook, DEPLOY)
    metrics = runner.train() and runner.val()
    again = toy_runner(tmp_path / 'again', hook, load_from=str(tmp_path / 'epoch_2.pth'))
    assert again.test()['score'] == pytest.approx(metrics['score'], rel=1e-6)
    without = toy_runner(tmp_path / 'without', load_from=str(tmp_path / 'epoch_2.pth'))
    assert without.test()['score'] == pytest.approx(metrics['score'], rel=1e-6)


@pytest.mark.parametrize('activations', [None, 8])
def test_resumed_equals_uninterrupted(tmp_path, activations):
    hooks = [
        quantized(weights=4, activations=activations, start=1, freeze_stats=3),
        dict(type='EMAHook', momentum=0.3, update_buffers=True),
        SEED,
    ]
    toy_runner(tmp_path / 'whole', *hooks, epochs=4).train()
    cut = toy_runner(tmp_path / 'cut', *hooks, dict(type='PhaseSpy', stop=2), epochs=4)
    with pytest.raises(KeyboardInterrupt):
        cut.train()
    toy_runner(tmp_path / 'cut', *hooks, epochs=4, resume=True).train()
    whole, cut = (load_checkpoint_file(tmp_path / n / 'epoch_4.pth') for n in ('whole', 'cut'))
    for part in ('state_dict', 'ema_state_dict'):
        assert_same_state(whole[part], cut[part])


@pytest.mark.parametrize(
    ('activations', 'lr'),
    # A range is that of the batches before: it must not grow, or numbers are clipped.
    [(None, 0.05), (16, 1e-4)],
)
def test_sixteen_bits_train_as_none(tmp_path, monkeypatch, activations, lr):
    monkeypatch.setattr(hook_module, '_WEIGHTS', (16,))
    monkeypatch.setattr(hook_module, '_ACTIVATIONS', (16, None))
    losses = []
    hook = quantized(weights=16, activations=activations, sensitive=16)
    for name, hooks in (('float', []), ('rounded', [hook])):
        runner = toy_runner(
            tmp_path / name,
            *hooks,
            SPY,
            epochs=12,
            model=classifier_cfg(online_reparam=True),
            train_dataloader=dict(loader(12, 0), batch_size=12),
            optim_wrapper=dict(optimizer=dict(type='SGD', lr=lr, momentum=0.9)),
        )
        runner.train()
        losses.append(torch.tensor(spy_of(runner).losses))
    assert_close([losses[0]], [losses[1]], 1e-3)
    assert not torch.equal(*losses)


def test_rounding_to_four_bits_does_not(tmp_path):
    """Shows that the test above can fail."""
    losses = []
    for name, hooks in (('float', []), ('rounded', [quantized(weights=4)])):
        runner = toy_runner(tmp_path / name, *hooks, SPY, epochs=4)
        runner.train()
        losses.append(torch.tensor(spy_of(runner).losses))
    assert (losses[0] - losses[1]).norm() / losses[0].norm() > 1e-3


def test_a_float_checkpoint_starts_a_quantized_run(tmp_path):
    toy_runner(tmp_path / 'float').train()
    path = str(tmp_path / 'float/epoch_2.pth')
    toy_runner(tmp_path / 'quantized', quantized(), load_from=path).train()


def test_a_run_with_other_bits_is_not_resumed(tmp_path):
    toy_runner(tmp_path, quantized(weights=8)).train()
    with pytest.raises(CheckpointError, match=r"'weights': 8.*asked for.*'weights': 4"):
        toy_runner(tmp_path, quantized(weights=4), epochs=3, resume=True).train()


def test_a_run_with_other_blocks_is_not_resumed(tmp_path):
    toy_runner(tmp_path, quantized(weights=4)).train()
    other = quantized(weights=4, block_size=4)
    with pytest.raises(CheckpointError, match=r"'block_size': 8.*asked for.*'block_size': 4"):
        toy_runner(tmp_path, other, epochs=3, resume=True).train()


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(start=2), 'the run has 2'),
        (dict(start=1, freeze_stats=1), 'before statistics are frozen'),
        (dict(start=-1), 'QuantizationHook: start is -1'),
        (dict(start=1.5), 'a share of the run'),
        (dict(start=True), 'start is True'),
        (dict(freeze_stats='end'), "freeze_stats is 'end'"),
        (dict(weights=2), 'weights=2'),
        (dict(weights=16), 'weights=16.*8 or 4'),
        (dict(activations=4), 'activations=4'),
        (dict(observer='mean'), "observer='mean'"),
        (dict(block_size=0), 'block_size is 0'),
        (dict(sensitive=6), 'sensitive is 6'),
    ],
)
def test_wrong_plans_are_refused(tmp_path, options, words):
    with pytest.raises((SpecError), match=words):
        toy_runner(tmp_path, quantized(**options)).train()
    assert not list(tmp_path.glob('*.pth'))


def test_it_stands_before_the_averages(tmp_path):
    hook = dict(quantized(), priority='LOW')
    with pytest.raises(SpecError, match='before EMAHook'):
        toy_runner(tmp_path, hook, dict(type='EMAHook')).train()


def test_recalibration_of_what_is_rounded_is_refused(tmp_path):
    hooks = quantized(), dict(type='BNRecalibrationHook', images=4)
    with pytest.raises(SpecError, match='leave one of them out'):
        toy_runner(tmp_path, *hooks).train()
    runner = toy_runner(tmp_path, quantized())
    runner.train()
    with pytest.raises(SpecError, match='recalibrate before rounding'):
        recalibrate(runner.model, [], 4)


def test_a_folded_network_trains_rounded(tmp_path):
    runner = toy_runner(tmp_path, quantized(weights=4), model=classifier_cfg(deploy=True))
    runner.train()
    model, x = runner.model.eval(), torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        scored = model(x)
        for block in (m for m in model.modules() if isinstance(m, MobileOneBlock)):
            conv = block.branch_reparam
            conv.weight.copy_(block.quantizer.weight_grid.round(conv.weight))
        assert_close([scored], [model(x)], 1e-6)
        for own in quantizers(model):
            own.phase = Quantizer.OFF
        assert not torch.allclose(scored, model(x), rtol=1e-3)


def test_a_model_with_nothing_to_round_is_refused(tmp_path):
    runner = toy_runner(tmp_path, quantized())
    runner.model = torch.nn.Conv2d(3, 3, 1)
    hook = next(h for h in runner.hooks if isinstance(h, QuantizationHook))
    with pytest.raises(SpecError, match='no unit and no linear layer'):
        hook.before_run(runner)


def test_frozen_stages_are_rounded_by_what_they_see(tmp_path):
    frozen = classifier_cfg(frozen_stages=1)
    runner = toy_runner(tmp_path, quantized(activations=8), DEPLOY, model=frozen)
    runner.train()
    stem = runner.model.backbone.stage0.quantizer
    assert not runner.model.backbone.stage0.training
    assert stem.input_max > 0
    assert stem.patch_mean.abs().sum() > 0


def test_activation_checkpointing_counts_a_batch_once(tmp_path):
    runs = []
    for with_cp in (False, True):
        runner = toy_runner(
            tmp_path / str(with_cp),
            quantized(activations=8),
            model=classifier_cfg(with_cp=with_cp, online_reparam=True),
        )
        runner.train()
        runs.append(copy.deepcopy(runner.model.state_dict()))
    assert int(runs[0]['backbone.stage0.quantizer.batches']) == 6
    assert_same_state(*runs)
