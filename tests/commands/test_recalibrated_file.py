"""A checkpoint whose running statistics are broken, and repaired."""

import copy

import pytest
from mmengine.runner import Runner
from toy_runner import loader as loader_cfg
from toy_runner import toy_cfg

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file, save_checkpoint_atomic
from mmpretrain_mobileone_ext.commands.checkpoints.recalibrate import recalibrate_checkpoint
from mmpretrain_mobileone_ext.errors import CheckpointError, MobileOneExtError


def trained(folder, epochs=12):
    """A run whose network tells the toy classes apart, and its config."""
    accuracy = dict(type='Accuracy', topk=(1,))
    train = loader_cfg(48, 0, shuffle=True)
    train['batch_size'] = 12
    cfg = toy_cfg(
        folder,
        epochs=epochs,
        test_evaluator=accuracy,
        train_dataloader=train,
        test_dataloader=loader_cfg(60, 1),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=100)),
    )
    for key in ('val_dataloader', 'val_cfg', 'val_evaluator'):
        cfg.pop(key)
    Runner.from_cfg(copy.deepcopy(cfg)).train()
    return cfg, folder / f'epoch_{epochs}.pth'


@pytest.fixture(scope='module')
def broken(tmp_path_factory):
    """Good weights, statistics of something else."""
    folder = tmp_path_factory.mktemp('run')
    cfg, path = trained(folder)
    found = load_checkpoint_file(path)
    for key, value in found['state_dict'].items():
        if key.endswith('running_mean'):
            value.add_(20.0)
        if key.endswith('running_var'):
            value.mul_(400.0)
    out = save_checkpoint_atomic(
        dict(state_dict=found['state_dict'], meta=found['meta']), folder / 'broken.pth'
    )
    return cfg, out


def test_broken_statistics_are_restored(broken, tmp_path):
    cfg, path = broken
    done = recalibrate_checkpoint(cfg, path, tmp_path / 'new.pth', images=48)
    key = 'accuracy/top1'
    assert done.metric == key
    assert done.before[key] < 40  # three classes: a third is chance
    assert done.after[key] > 95
    written = load_checkpoint_file(tmp_path / 'new.pth')
    record = written['meta']['bn_recalibration']
    assert record['images'] == 48
    assert record['before'][key] == pytest.approx(done.before[key])
    assert record['source_file'] == 'broken.pth'
    assert 'optimizer' not in written
    again = copy.deepcopy(cfg)
    again.load_from = str(tmp_path / 'new.pth')
    again.experiment_name = 'again'
    assert Runner.from_cfg(again).test()[key] == pytest.approx(done.after[key])


def test_worse_is_not_written(broken, tmp_path, monkeypatch):
    cfg, path = broken
    scores = iter([dict(top1=90.0), dict(top1=80.0)])
    monkeypatch.setattr(Runner, 'test', lambda self: next(scores))
    with pytest.raises(MobileOneExtError, match=r'top1 is 90.*80'):
        recalibrate_checkpoint(cfg, path, tmp_path / 'new.pth', images=24)
    assert not list(tmp_path.iterdir())


def test_targets_that_are_refused(broken, tmp_path):
    cfg, path = broken
    taken = tmp_path / 'taken.pth'
    taken.write_text('mine')
    for out, word in (
        (path, 'would replace'),
        (taken, 'exists already'),
        (tmp_path / 'no' / 'x.pth', 'does not exist'),
    ):
        with pytest.raises(CheckpointError, match=word):
            recalibrate_checkpoint(cfg, path, out, images=24)
    assert taken.read_text() == 'mine'
