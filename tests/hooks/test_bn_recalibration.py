"""Recalibrated statistics against sums in float64 over the branches."""

import copy

import pytest
import torch
from helpers import assert_close, assert_same_state, classifier_cfg, randomize_norms
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmpretrain.engine import PreciseBNHook
from mmpretrain.registry import MODELS
from torch.nn.modules.batchnorm import _BatchNorm
from toy_runner import loader as loader_cfg
from toy_runner import toy_runner

from mmpretrain_mobileone_ext import switch_to_deploy
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import SpecError
from mmpretrain_mobileone_ext.hooks.bn_recalibration import (
    BNRecalibrationHook,
    recalibrate,
    training_loader,
)

FORMS = [False, 'auto', 'memory', True]


def norms_of(model):
    return {name: m for name, m in model.named_modules() if isinstance(m, _BatchNorm)}


def stats_of(model):
    return {
        name: torch.stack([n.running_mean, n.running_var]).double()
        for name, n in norms_of(model).items()
    }


def assert_same_stats(expected, found, tolerance):
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        assert_close(value, found[name], tolerance)


@torch.no_grad()
def oracle(model, batches, averaged=False):
    """Mean and unbiased variance of each norm's input, in float64.

    Of all images together, or ``averaged`` over batches. Norms see nothing but their batch; running
    statistics are not looked at.
    """
    model = copy.deepcopy(model).double().eval()
    found = {name: [] for name in norms_of(model)}
    for module in model.modules():
        if hasattr(module, 'online_reparam'):
            module.online_reparam = False
    for name, norm in norms_of(model).items():
        norm.training = True

        def keep(module, inputs, name=name):
            found[name].append(inputs[0].transpose(0, 1).flatten(1))

        norm.register_forward_pre_hook(keep)
    for batch in batches:
        model(model.data_preprocessor(batch, False)['inputs'].double())
    if averaged:
        return {name: sum(map(moments, v)) / len(v) for name, v in found.items()}
    return {name: moments(torch.cat(v, 1)) for name, v in found.items()}


def moments(values):
    mean = values.sum(1) / values.shape[1]
    square = (values - mean[:, None]).square().sum(1)
    return torch.stack([mean, square / (values.shape[1] - 1)])


def net(form=False):
    torch.manual_seed(1)
    return randomize_norms(MODELS.build(classifier_cfg(online_reparam=form)))


def data(size, batch):
    cfg = loader_cfg(size, 3)
    cfg['batch_size'] = batch
    return training_loader(dict(train_dataloader=cfg), size)


@pytest.mark.parametrize('form', FORMS)
@pytest.mark.parametrize('batch', [24, 6, 5])
def test_equals_the_statistics_of_the_images(form, batch):
    model, batches = net(form), data(24, batch)
    assert recalibrate(model, batches, 24) == 24
    expected, found = oracle(model, list(batches)), stats_of(model)
    assert_same_stats(expected, found, 1e-5)


def test_oracle_notices_other_images():
    """The comparison above can fail."""
    model = net()
    recalibrate(model, data(24, 24), 24)
    other = list(data(12, 12))
    expected, found = oracle(model, other), stats_of(model)
    with pytest.raises(AssertionError):
        assert_same_stats(expected, found, 1e-5)


def test_batch_averages_are_another_thing():
    """What mmpretrain's machinery would give, on batches of two."""
    model, batches = net(), data(12, 2)
    recalibrate(model, batches, 12)
    averaged = oracle(model, list(batches), averaged=True)
    with pytest.raises(AssertionError):
        assert_same_stats(averaged, stats_of(model), 1e-2)


def test_weights_modes_and_momenta_stay():
    model = net().train()
    model.backbone.stage1.eval()
    modes = [m.training for m in model.modules()]
    momenta = [n.momentum for n in norms_of(model).values()]
    weights = {k: v.clone() for k, v in model.named_parameters()}
    recalibrate(model, data(12, 6), 12)
    assert [m.training for m in model.modules()] == modes
    assert [n.momentum for n in norms_of(model).values()] == momenta
    assert all(torch.equal(v, weights[k]) for k, v in model.named_parameters())


def test_a_failure_changes_nothing(monkeypatch):
    model = net()
    before = copy.deepcopy(model.state_dict())
    monkeypatch.setattr(model.head, 'forward', lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        recalibrate(model, data(12, 6), 12)
    assert_same_state(before, model.state_dict())
    assert not any(n._forward_pre_hooks for n in norms_of(model).values())
    assert all(norm.training == model.training for norm in norms_of(model).values())


@pytest.mark.parametrize('form', FORMS)
def test_mmpretrains_hook_works_with_every_form(tmp_path, form):
    """It reads statistics that the online forms write themselves."""
    hook = dict(type='PreciseBNHook', num_samples=12, interval=1, priority='ABOVE_NORMAL')
    runner = toy_runner(tmp_path, hook, epochs=1, model=classifier_cfg(online_reparam=form))
    seen = []
    original = PreciseBNHook.after_train_epoch

    def watched(self, runner):
        runner.model.train()
        state = torch.random.get_rng_state()
        batches = list(runner.train_loop.dataloader)
        torch.random.set_rng_state(state)
        original(self, runner)
        seen.append((oracle(runner.model, batches, averaged=True), stats_of(runner.model)))

    try:
        PreciseBNHook.after_train_epoch = watched
        runner.train()
    finally:
        PreciseBNHook.after_train_epoch = original
    ((expected, found),) = seen
    assert_same_stats(expected, found, 1e-4)


def test_folded_model_is_refused():
    model = switch_to_deploy(net())
    with pytest.raises(SpecError, match='folded already'):
        recalibrate(model, data(12, 6), 12)


def test_no_images():
    with pytest.raises(SpecError, match='no images'):
        recalibrate(net(), [], 5)


def test_stops_at_the_number_asked_for():
    assert recalibrate(net(), data(24, 6), 7) == 12


@pytest.mark.parametrize('images', [0, -1, 2.5, True])
def test_wrong_numbers(images):
    with pytest.raises(SpecError, match='images is'):
        training_loader(dict(train_dataloader=loader_cfg(9, 0)), images)
    with pytest.raises(SpecError, match='images is'):
        BNRecalibrationHook(images=images)


def test_data_sets_are_found_from_any_scope():
    """A tool has built no Runner yet, which would set the scope."""
    with DefaultScope.overwrite_default_scope('mmengine'):
        assert len(data(12, 6)) == 2


def test_no_training_data():
    with pytest.raises(SpecError, match='train_dataloader'):
        training_loader({}, 9)


def test_pipeline_of_the_test_unless_augmented(tmp_path):
    pipeline = [dict(type='PackInputs')]
    inner = dict(
        type='CustomDataset',
        data_root=str(tmp_path),
        pipeline=[dict(type='RandomFlip', prob=1.0), *pipeline],
    )
    (tmp_path / 'a').mkdir()
    (tmp_path / 'a/1.png').touch()
    cfg = dict(
        train_dataloader=dict(
            batch_size=2,
            num_workers=0,
            sampler=dict(type='DefaultSampler', shuffle=True),
            dataset=dict(type='RepeatDataset', times=4, dataset=inner),
        ),
        test_dataloader=dict(dataset=dict(pipeline=pipeline)),
    )
    for augment, count in ((False, 1), (True, 2)):
        made = training_loader(cfg, 8, augment).dataset.dataset
        assert len(made.pipeline.transforms) == count
    assert len(inner['pipeline']) == 2


def test_hook_measures_what_is_validated(tmp_path):
    """EMA's weights, on statistics of the training images."""
    runner = toy_runner(
        tmp_path,
        dict(type='EMAHook', momentum=0.3, update_buffers=True),
        dict(type='BNRecalibrationHook', images=12),
        dict(type='DeploySwitchHook', when=['val']),
        epochs=1,
    )
    seen = []

    def watch(hook, original):
        def before_val_epoch(runner):
            original(runner)
            seen.append((copy.deepcopy(runner.model), hook._loader))

        return before_val_epoch

    (hook,) = [h for h in runner.hooks if isinstance(h, BNRecalibrationHook)]
    hook.before_val_epoch = watch(hook, hook.before_val_epoch)
    runner.train()
    ((model, batches),) = seen
    expected, found = oracle(model, list(batches)), stats_of(model)
    assert_same_stats(expected, found, 1e-5)
    saved = load_checkpoint_file(tmp_path / 'epoch_1.pth')['state_dict']
    for name, value in stats_of(model).items():
        assert_close(value[0], saved[f'{name}.running_mean'], 1e-6)
    (ema,) = [h for h in runner.hooks if isinstance(h, EMAHook)]
    assert runner.hooks.index(ema) < runner.hooks.index(hook)


def test_hook_leaves_training_alone(tmp_path):
    weights = []
    for index, hooks in enumerate(([], [dict(type='BNRecalibrationHook', images=12)])):
        runner = toy_runner(
            tmp_path / str(index), dict(type='EMAHook', momentum=0.3, update_buffers=True), *hooks
        )
        runner.train()
        weights.append([p.detach() for p in runner.model.parameters()])
    assert_close(weights[0], weights[1], 1e-9)


@pytest.mark.parametrize('priority', ['VERY_HIGH', 'LOWEST'])
def test_hook_on_the_wrong_side(tmp_path, priority):
    runner = toy_runner(
        tmp_path, dict(type='EMAHook'), dict(type='BNRecalibrationHook', priority=priority)
    )
    with pytest.raises(SpecError, match='BNRecalibrationHook: priority'):
        runner.train()
