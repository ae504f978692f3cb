"""Files of a real mmengine Runner: loaded, resumed, and never executed."""

from contextlib import nullcontext

import numpy as np
import pytest
import torch
from mmengine.evaluator import BaseMetric, Evaluator
from mmengine.hooks import EMAHook
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner
from mmengine.runner.checkpoint import load_state_dict
from same_values import assert_same
from stack import is_onedl
from torch.utils.data import Dataset

from mmpretrain_mobileone_ext.checkpoints import download as schemes
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file

SCHEDULERS = [
    dict(type='LinearLR', start_factor=0.1, begin=0, end=2, by_epoch=False),
    dict(type='CosineAnnealingLR', T_max=4, by_epoch=False),
    dict(type='MultiStepLR', milestones=[3], by_epoch=False),
    dict(type='CosineAnnealingMomentum', T_max=4, by_epoch=False),
]


class Numbers(Dataset):
    METAINFO = dict(classes=('a', 'b'), palette=np.arange(6).reshape(2, 3))
    metainfo = METAINFO

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return {'inputs': torch.full((3,), float(index + 1))}


class Tiny(BaseModel):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Sequential(
            torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2, momentum=0.3)
        )

    def forward(self, inputs, mode='tensor'):
        out = self.layer(inputs)
        return {'loss': out.square().mean()} if mode == 'loss' else [out]


class Score(BaseMetric):
    def process(self, data_batch, data_samples):
        self.results.append(1)

    def compute_metrics(self, results):
        return {'accuracy': np.float64(len(results))}


def loader():
    return dict(
        dataset=Numbers(),
        batch_size=2,
        num_workers=0,
        sampler=dict(type='DefaultSampler', shuffle=False),
        collate_fn=dict(type='default_collate'),
    )


def runner(folder, epochs, **options):
    return Runner(
        Tiny(),
        str(folder),
        train_dataloader=loader(),
        val_dataloader=loader(),
        val_evaluator=Evaluator(Score()),
        val_cfg=dict(),
        train_cfg=dict(by_epoch=True, max_epochs=epochs),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=SCHEDULERS,
        randomness=dict(seed=0),
        default_hooks=dict(
            checkpoint=dict(type='CheckpointHook', save_best='accuracy', interval=1)
        ),
        custom_hooks=[EMAHook(momentum=0.1)],
        experiment_name=f'{folder.name}{epochs}{len(options)}',
        **options,
    )


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    """A folder with epoch_1.pth to epoch_3.pth, of one three-epoch run."""
    folder = tmp_path_factory.mktemp('run')
    runner(folder, 3).train()
    return folder


def test_values_equal_those_of_the_unrestricted_reader(run):
    path = run / 'epoch_2.pth'
    want = torch.load(path, weights_only=False)
    got = load_checkpoint_file(path)
    assert got['meta'].pop('config_text') == want['meta'].pop('cfg')
    del want['message_hub']['runtime_info']['cfg']
    del want['message_hub']['resumed_keys']['cfg']
    assert set(want) == {
        'meta',
        'state_dict',
        'message_hub',
        'optimizer',
        'param_schedulers',
        'ema_state_dict',
    }
    assert len(want['message_hub']['log_scalars']['train/loss'].data[0]) == 2
    assert_same(got, want)
    assert got['state_dict']._metadata == want['state_dict']._metadata
    got['ema_state_dict']['module.layer.0.bias'][0] += 1e-3
    with pytest.raises(AssertionError):
        assert_same(got, want)


def test_best_checkpoint_beside_the_file_is_still_known(run):
    info = load_checkpoint_file(run / 'epoch_2.pth')['message_hub']
    assert info['runtime_info']['best_ckpt'].endswith('.pth')


def test_resumed_run_equals_the_run_that_never_stopped(run, tmp_path):
    again = runner(tmp_path, 3, resume=True, load_from=str(run / 'epoch_2.pth'))
    again.train()
    got = load_checkpoint_file(tmp_path / 'epoch_3.pth')
    want = load_checkpoint_file(run / 'epoch_3.pth')
    for part in ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers'):
        assert_same(got[part], want[part])
    for key in ('train/loss', 'train/lr'):
        assert_same(got['message_hub']['log_scalars'][key], want['message_hub']['log_scalars'][key])
    assert again.message_hub.get_scalar('train/loss').mean() > 0


def stock_loader(filename, map_location=None):
    return torch.load(filename, map_location, weights_only=False)


@pytest.mark.parametrize('is_ours', [True, False])
def test_resume_never_runs_the_config_of_a_checkpoint(run, tmp_path, monkeypatch, is_ours):
    marker = tmp_path / 'marker'
    checkpoint = torch.load(run / 'epoch_2.pth', weights_only=False)
    checkpoint['meta']['config'] = f"open({str(marker)!r}, 'w').close()"
    evil = tmp_path / 'evil.pth'
    torch.save(checkpoint, evil)
    if not is_ours:
        monkeypatch.setitem(CheckpointLoader._schemes, '', stock_loader)
    runner(tmp_path / f'config{is_ours}', 3, resume=True, load_from=str(evil)).train()
    assert marker.exists() != is_ours


@pytest.mark.parametrize('is_ours', [True, False])
def test_resume_deletes_nothing_it_did_not_write(run, tmp_path, monkeypatch, is_ours):
    victim = tmp_path / 'victim'
    victim.mkdir()
    checkpoint = torch.load(run / 'epoch_2.pth', weights_only=False)
    info = checkpoint['message_hub']['runtime_info']
    info.update(best_ckpt=str(victim), best_score=-1.0)
    evil = tmp_path / 'evil.pth'
    torch.save(checkpoint, evil)
    if not is_ours:
        monkeypatch.setitem(CheckpointLoader._schemes, '', stock_loader)
    runner(tmp_path / f'run{is_ours}', 3, resume=True, load_from=str(evil)).train()
    assert victim.exists() == is_ours


@pytest.mark.skipif(
    tuple(int(n) for n in torch.__version__.split('.')[:2]) < (2, 6),
    reason='torch < 2.6 unpickles everything by default',
)
def test_mmengine_alone_unpickles_its_own_file_or_none(run, monkeypatch):
    """OpenMMLab's fails since torch loads weights only; OneDL's lets the pickle run."""
    from mmengine.runner.checkpoint import load_from_local

    path = str(run / 'epoch_2.pth')
    assert CheckpointLoader.load_checkpoint(path)
    monkeypatch.setitem(CheckpointLoader._schemes, '', load_from_local)
    fails = pytest.raises(Exception, match='Weights only load failed')
    with nullcontext() if is_onedl() else fails:
        CheckpointLoader.load_checkpoint(path)


def test_weights_load_into_a_model(run):
    checkpoint = schemes.load_from_local(str(run / 'epoch_3.pth'))
    model = Tiny()
    load_state_dict(model, checkpoint['state_dict'], strict=True)
    assert torch.equal(model.layer[0].weight, checkpoint['state_dict']['layer.0.weight'])
