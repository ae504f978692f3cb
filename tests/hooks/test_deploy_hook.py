"""The deploy hook in real runs: what is scored, saved and left alone."""

import copy
from types import SimpleNamespace

import pytest
import torch
from helpers import ToyImages, assert_same_state, classifier_cfg
from mmengine.hooks import Hook
from mmengine.registry import HOOKS
from mmpretrain.models.backbones import mobileone as peer
from mmpretrain.registry import MODELS
from torch import nn
from toy_runner import toy_cfg, toy_runner

from mmpretrain_mobileone_ext import switch_to_deploy
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import ParityError, SpecError
from mmpretrain_mobileone_ext.hooks import DeploySwitchHook
from mmpretrain_mobileone_ext.hooks import deploy as deploy_hook
from mmpretrain_mobileone_ext.models import MobileOneBlock

DEPLOY = dict(type='DeploySwitchHook')


def ema(priority='ABOVE_NORMAL'):
    return dict(type='EMAHook', momentum=0.3, priority=priority)


@HOOKS.register_module(force=True)
class Spy(Hook):
    """Notes the model of each step and the figures of each epoch."""

    priority = 'LOWEST'

    def __init__(self, stop=None):
        self.stop = stop
        self.models, self.scores = {}, {}

    def note(self, where, runner):
        self.models.setdefault(where, []).append(runner.model)

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self.note('train', runner)
        if runner.epoch == self.stop:
            raise KeyboardInterrupt

    def before_val_iter(self, runner, batch_idx, data_batch=None):
        self.note('val', runner)

    def before_test_iter(self, runner, batch_idx, data_batch=None):
        self.note('test', runner)

    def before_save_checkpoint(self, runner, checkpoint):
        self.note('save', runner)

    def after_val_epoch(self, runner, metrics=None):
        self.note('after', runner)
        self.scores.setdefault('val', []).append(metrics['score'])

    def after_test_epoch(self, runner, metrics=None):
        self.note('after', runner)
        self.scores.setdefault('test', []).append(metrics['score'])


def spy_of(runner):
    return next(h for h in runner.hooks if isinstance(h, Spy))


def is_folded(model):
    return {m.deploy for m in model.modules() if isinstance(m, MobileOneBlock)} == {True}


def state_in(path):
    return load_checkpoint_file(path)['state_dict']


def model_of(path):
    model = MODELS.build(classifier_cfg()).eval()
    model.load_state_dict(state_in(path))
    return model


def score(model, cfg):
    """The mean of the top scores, without Runner and evaluator."""
    data = ToyImages(**{k: v for k, v in cfg.items() if k != 'type'})
    batch = dict(
        inputs=torch.stack([d['inputs'] for d in data]),
        data_samples=[d['data_samples'] for d in data],
    )
    scores = [s.pred_score.max() for s in model.eval().val_step(batch)]
    return torch.stack(scores).double().mean().item()


@pytest.fixture(scope='module', params=[None, 'ABOVE_NORMAL', 'NORMAL'])
def run(request, tmp_path_factory):
    """A finished run, without EMA or with, and its folder.

    The last checkpoint is tested as ``tools/test.py`` would: by a new runner.
    """
    folder = tmp_path_factory.mktemp('run')
    hooks = [DEPLOY, dict(type='Spy')]
    if request.param:
        hooks.insert(0, ema(request.param))
    torch.manual_seed(0)
    runner = toy_runner(folder, *hooks)
    model = runner.model
    runner.train()
    assert runner.model is model
    return runner, folder


@pytest.fixture(scope='module')
def tested(run):
    runner, folder = run
    hooks = copy.deepcopy(list(runner.cfg.custom_hooks))
    tester = toy_runner(folder / 'test', *hooks, load_from=str(folder / 'epoch_2.pth'))
    tester.test()
    return tester


def assert_scored_on_copies(runner, stage):
    seen = spy_of(runner).models[stage]
    assert len(seen) >= 3
    assert all(is_folded(m) and m is not runner.model for m in seen)
    assert not is_folded(runner.model)


def test_epochs_are_scored_on_a_folded_copy(run, tested):
    assert_scored_on_copies(run[0], 'val')
    assert_scored_on_copies(tested, 'test')


@pytest.mark.parametrize('when', ['train', 'save', 'after'])
def test_nothing_else_sees_the_copy(run, when):
    runner, _ = run
    assert spy_of(runner).models[when]
    assert all(m is runner.model for m in spy_of(runner).models[when])
    assert not is_folded(runner.model)


def test_the_score_is_that_of_the_saved_weights(run, tested):
    runner, folder = run
    data = runner.cfg.val_dataloader.dataset
    for epoch, found in enumerate(spy_of(runner).scores['val'], start=1):
        model = model_of(folder / f'epoch_{epoch}.pth').switch_to_deploy()
        assert found == pytest.approx(score(model, data), abs=1e-6)
    assert spy_of(tested).scores['test'] == [pytest.approx(found, abs=1e-6)]


def test_averaged_weights_differ_from_the_trained_ones(run):
    # Otherwise the test above could not tell them apart.
    runner, folder = run
    averaged = any(h.__class__.__name__ == 'EMAHook' for h in runner.hooks)
    data = runner.cfg.val_dataloader.dataset
    saved = score(model_of(folder / 'epoch_2.pth'), data)
    trained = score(copy.deepcopy(runner.model), data)
    assert (abs(saved - trained) > 1e-4) == averaged


def test_deploy_files_stand_beside_the_best_and_the_last(run):
    _, folder = run
    names = {p.name for p in folder.glob('*_deploy.pth')}
    (best,) = folder.glob('best_*[0-9].pth')
    assert names == {'epoch_2_deploy.pth', f'{best.stem}_deploy.pth'}


def test_a_deploy_file_is_the_fold_of_its_checkpoint(run):
    _, folder = run
    for path in folder.glob('*_deploy.pth'):
        source = path.with_name(path.name.replace('_deploy', ''))
        wanted = switch_to_deploy(model_of(source)).state_dict()
        assert_same_state(wanted, state_in(path))


def test_a_deploy_file_says_where_it_came_from(run):
    runner, folder = run
    found = load_checkpoint_file(folder / 'epoch_2_deploy.pth')
    assert found.keys() == {'meta', 'state_dict'}
    assert tuple(found['meta']['dataset_meta']['classes']) == ('dark', 'grey', 'light')
    record = found['meta']['deploy']
    assert record['source_file'] == 'epoch_2.pth'
    assert len(record['source_sha256']) == 64
    assert record['config_text'] == runner.cfg.pretty_text
    assert 0 < record['parity']['relative'] < 1e-4
    assert (
        record['versions']['torch'] == torch.__version__.split('+')[0]
        or record['versions']['torch'] == torch.__version__
    )


def trained(folder, *hooks, **options):
    torch.manual_seed(0)
    runner = toy_runner(folder, *hooks, **options)
    runner.train()
    return runner


@pytest.mark.parametrize('hooks', [[], [ema()]])
def test_training_is_bit_identical_with_and_without(hooks, tmp_path):
    without = trained(tmp_path / 'a', *hooks)
    having = trained(tmp_path / 'b', *hooks, DEPLOY)
    assert_same_state(without.model.state_dict(), having.model.state_dict())
    wanted, got = (r.optim_wrapper.state_dict() for r in (without, having))
    assert_same_state(
        {k: v['momentum_buffer'] for k, v in wanted['state'].items()},
        {k: v['momentum_buffer'] for k, v in got['state'].items()},
    )
    for epoch in (1, 2):
        name = f'epoch_{epoch}.pth'
        assert_same_state(state_in(tmp_path / 'a' / name), state_in(tmp_path / 'b' / name))


def test_the_optimizer_still_holds_the_models_parameters(run):
    runner, _ = run
    held = {id(p) for g in runner.optim_wrapper.param_groups for p in g['params']}
    assert held == {id(p) for p in runner.model.parameters()}
    assert all(p.requires_grad for p in runner.model.parameters())


@pytest.mark.parametrize('hooks', [[], [ema()]])
def test_a_resumed_run_writes_the_same_deploy_file(hooks, tmp_path):
    whole = trained(tmp_path / 'a', *hooks, DEPLOY, epochs=3)
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path / 'b', *hooks, DEPLOY, dict(type='Spy', stop=1), epochs=3)
    assert not list((tmp_path / 'b').glob('*_deploy.pth'))
    resumed = trained(tmp_path / 'b', *hooks, DEPLOY, epochs=3, resume=True)
    assert resumed.epoch == whole.epoch == 3
    names = {p.name for p in (tmp_path / 'a').glob('*_deploy.pth')}
    assert len(names) == 2
    assert names == {p.name for p in (tmp_path / 'b').glob('*_deploy.pth')}
    for name in names:
        assert_same_state(state_in(tmp_path / 'a' / name), state_in(tmp_path / 'b' / name))


def test_a_finished_run_that_is_resumed_writes_its_files_again(tmp_path):
    trained(tmp_path, DEPLOY)
    written = {p: state_in(p) for p in tmp_path.glob('*_deploy.pth')}
    for path in written:
        path.unlink()
    trained(tmp_path, DEPLOY, resume=True)
    for path, state in written.items():
        assert_same_state(state, state_in(path))


@pytest.mark.parametrize('stage', ['val', 'test'])
def test_a_wrong_fold_stops_the_run(stage, tmp_path, monkeypatch):
    def corrupt(model, inplace=True):
        folded = switch_to_deploy(model, inplace)
        folded.head.fc.bias.data[0] += 1
        return folded

    runner = toy_runner(tmp_path, DEPLOY)
    model, before = runner.model, copy.deepcopy(runner.model.state_dict())
    monkeypatch.setattr(deploy_hook, 'switch_to_deploy', corrupt)
    with pytest.raises(ParityError, match='DeploySwitchHook'):
        getattr(runner, stage)()
    assert runner.model is model
    assert_same_state(before, runner.model.state_dict())


def test_the_tolerance_is_the_users(tmp_path):
    with pytest.raises(ParityError, match="'0, as given'"):
        toy_runner(tmp_path, dict(DEPLOY, tolerance=0.0)).val()


def test_a_folded_model_is_left_alone(tmp_path):
    trained(tmp_path / 'train', DEPLOY)
    for name in ('epoch_2', 'epoch_2_deploy'):
        runner = toy_runner(
            tmp_path / name,
            DEPLOY,
            dict(type='Spy'),
            model=classifier_cfg(deploy=True),
            load_from=str(tmp_path / 'train' / f'{name}.pth'),
        )
        model = runner.model
        runner.test()
        assert all(m is model for m in spy_of(runner).models['test'])
        data = runner.cfg.test_dataloader.dataset
        assert spy_of(runner).scores['test'] == [pytest.approx(score(model, data), abs=1e-6)]


def test_a_block_of_another_family_is_folded_beside_folded_ones(tmp_path):
    runner = toy_runner(tmp_path, DEPLOY, dict(type='Spy'), model=classifier_cfg(deploy=True))
    stage = runner.model.backbone.stage1
    width = stage[-1].spec.out_channels
    stage.append(peer.MobileOneBlock(width, width, 1, 1, padding=0))
    runner.test()
    seen = spy_of(runner).models['test']
    assert seen
    assert all(m.backbone.stage1[-1].deploy for m in seen)
    assert not stage[-1].deploy


@pytest.mark.parametrize('when', [('val',), ['test'], ('after_train',)])
def test_the_hook_acts_only_when_it_is_asked_to(when, tmp_path):
    runner = trained(tmp_path, dict(DEPLOY, when=when), dict(type='Spy'))
    runner.test()
    seen = spy_of(runner).models
    for stage in ('val', 'test'):
        assert {is_folded(m) for m in seen[stage]} == {stage in when}
    assert any(tmp_path.glob('*_deploy.pth')) == ('after_train' in when)


@pytest.mark.parametrize('when', ['val', (), ('train',), ('val', 'tests')])
def test_an_unknown_time_is_refused(when):
    with pytest.raises(SpecError) as error:
        HOOKS.build(dict(DEPLOY, when=when))
    assert repr(when) in str(error.value)
    assert '\n' not in str(error.value)


def test_a_model_without_our_blocks_is_refused(tmp_path):
    cfg = classifier_cfg()
    cfg['backbone'] = dict(type='MobileOne', arch='s0', out_indices=(0,))
    cfg['head']['in_channels'] = 48
    runner = toy_runner(tmp_path, DEPLOY, model=cfg)
    with pytest.raises(SpecError, match='no re-parameterizable block'):
        runner.val()


@pytest.mark.parametrize(
    ('hooks', 'other'),
    [
        ([dict(DEPLOY), ema('LOW')], 'EMAHook'),
        ([dict(DEPLOY, priority='HIGH'), ema('NORMAL')], 'EMAHook'),
        ([dict(DEPLOY, priority='LOWEST')], 'CheckpointHook'),
    ],
)
def test_an_order_that_cannot_work_is_refused(hooks, other, tmp_path):
    with pytest.raises(SpecError, match=f'{other} (after|before) it'):
        trained(tmp_path, *hooks)


def test_checkpoints_in_another_folder_are_found(tmp_path):
    hooks = toy_cfg(tmp_path).default_hooks
    hooks.checkpoint.out_dir = str(tmp_path / 'elsewhere')
    trained(tmp_path / 'run', DEPLOY, default_hooks=hooks)
    assert not list((tmp_path / 'run').glob('*.pth'))
    assert len(list((tmp_path / 'elsewhere/run').glob('*_deploy.pth'))) == 2


def test_a_run_without_checkpoints_says_so(tmp_path, caplog):
    hooks = toy_cfg(tmp_path).default_hooks
    hooks.checkpoint.update(interval=-1, save_last=False, save_best=None)
    runner = toy_runner(tmp_path, DEPLOY, default_hooks=hooks)
    lines = []
    runner.logger.warning = lines.append
    runner.train()
    assert any('no checkpoint' in line for line in lines)
    assert not list(tmp_path.glob('*.pth'))


def test_iteration_based_runs_are_served_too(tmp_path):
    hooks = toy_cfg(tmp_path).default_hooks
    hooks.checkpoint.by_epoch = False
    hooks.checkpoint.interval = 2
    runner = trained(
        tmp_path,
        ema(),
        DEPLOY,
        dict(type='Spy'),
        default_hooks=hooks,
        train_cfg=dict(by_epoch=False, max_iters=4, val_interval=2),
    )
    assert {is_folded(m) for m in spy_of(runner).models['val']} == {True}
    assert {is_folded(m) for m in spy_of(runner).models['train']} == {False}
    wanted = switch_to_deploy(model_of(tmp_path / 'iter_4.pth')).state_dict()
    assert_same_state(wanted, state_in(tmp_path / 'iter_4_deploy.pth'))


def test_sync_norms_are_reverted_by_mmengine_and_folded(tmp_path):
    cfg = classifier_cfg(norm_cfg=dict(type='SyncBN', eps=1e-3))
    trained(tmp_path, DEPLOY, model=cfg)
    model = MODELS.build(cfg).eval()
    model.load_state_dict(state_in(tmp_path / 'epoch_2.pth'))
    assert_same_state(
        switch_to_deploy(model).state_dict(), state_in(tmp_path / 'epoch_2_deploy.pth')
    )


def augmented_runner(folder):
    runner_cfg = toy_cfg(folder)
    data = dict(runner_cfg.test_dataloader)
    data['dataset'] = dict(data['dataset'], mirrored=True)
    return toy_runner(
        folder,
        DEPLOY,
        dict(type='Spy'),
        test_dataloader=data,
        model=dict(type='AverageClsScoreTTA', module=classifier_cfg()),
    )


def test_test_time_augmentation_is_scored_on_the_copy(tmp_path):
    runner = augmented_runner(tmp_path)
    runner.test()
    assert {is_folded(m) for m in spy_of(runner).models['test']} == {True}
    assert not is_folded(runner.model)


def test_test_time_augmentation_is_verified(tmp_path, monkeypatch):
    def corrupt(model, inplace):
        folded = switch_to_deploy(model, inplace)
        folded.module.head.fc.bias.data[0] += 1
        return folded

    monkeypatch.setattr(deploy_hook, 'switch_to_deploy', corrupt)
    with pytest.raises(ParityError):
        augmented_runner(tmp_path).test()


def test_the_hook_is_registered_under_its_name():
    assert HOOKS.get('DeploySwitchHook') is DeploySwitchHook


def test_of_a_sampled_file_the_log_says_how_many_images(tmp_path):
    said = []
    model = nn.Module()
    runner = SimpleNamespace(model=model, logger=SimpleNamespace(info=said.append))
    hook = DeploySwitchHook()
    for sampled in ('', '27 of 540 images'):
        model.artifact = SimpleNamespace(sampled=sampled)
        hook.after_test_epoch(runner)
    assert said == ['these figures are of 27 of 540 images (model.sample)']
