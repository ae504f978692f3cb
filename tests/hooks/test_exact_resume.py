"""Two ranks with every hook: killed and resumed equals never interrupted."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from recipe_kit import write_images
from toy_runner import toy_runner

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.hooks import epoch_seed as epoch_seed_hook
from mmpretrain_mobileone_ext.hooks.training.epoch_seed import epoch_seed

REPO = Path(__file__).resolve().parents[2]
KITS = Path(__file__).resolve().parents[1] / 'kits'
PYTHONPATH = os.pathsep.join([str(KITS), os.environ.get('PYTHONPATH', '')])
#: The S2 recipe with a small backbone, small images and few epochs.
CONFIG = """
_base_ = '{repo}/configs/mobileone/mobileone-ext-s2_8xb32_in1k.py'
custom_imports = dict(
    imports=[*_base_.custom_imports.imports, 'recipe_kit'],
    allow_failed_imports=False)
model = dict(
    backbone=dict(arch=dict(_delete_=True, num_blocks=(1, 1),
                            width_factor=0.25),
                  norm_cfg=dict(type='CPUSyncBN')),
    head=dict(in_channels=32, num_classes=2, topk=(1, )))
data_preprocessor = dict(num_classes=2)
train = _base_.train_dataloader.dataset.pipeline
train[1].scale = 48
test = _base_.test_dataloader.dataset.pipeline
test[1].scale = 48
test[2].crop_size = 48
folder = dict(_delete_=True, type='CustomDataset', data_root='images',
              data_prefix='')
train_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(**folder, pipeline=train))
val_dataloader = dict(
    batch_size=4, num_workers=1, dataset=dict(**folder, pipeline=test))
test_dataloader = val_dataloader
val_evaluator = dict(topk=(1, ))
test_evaluator = val_evaluator
_base_.custom_hooks[0].momentum = 0.3
_base_.custom_hooks[-1].update(strength=0.7, phases=[
    dict(begin=0, resolution=32, magnitude=0.3),
    dict(begin=0.5, resolution=48, magnitude=1.0)])
custom_hooks = [
    *_base_.custom_hooks,
    dict(type='TrainThroughputHook', interval=2, warmup=0),
    *{more}]
for schedule in _base_.param_scheduler:
    schedule.pop('T_max', None)
    schedule.end = 4
_base_.param_scheduler[0].end = _base_.param_scheduler[1].begin = 1
optim_wrapper = dict(optimizer=dict(lr=0.05))
train_cfg = dict(max_epochs=4)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(
    max_keep_ckpts=-1))
"""


def train(folder, work_dir, *options, code=0):
    done = subprocess.run(
        [
            'bash',
            str(REPO / 'tools/dist_train.sh'),
            'config.py',
            '2',
            '--work-dir',
            work_dir,
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env={
            **os.environ,
            'OMP_NUM_THREADS': '1',
            'PYTHONPATH': PYTHONPATH,
            'PYTHON': sys.executable,
        },
    )
    said = done.stdout + done.stderr
    assert (done.returncode != 0) == bool(code), said[-4000:]
    return said


SEED = dict(type='EpochSeedHook')
DIE = dict(type='Die', epoch=3)


def write_config(folder, *hooks):
    (folder / 'config.py').write_text(CONFIG.format(repo=REPO, more=[*hooks]))


def last_metrics(work_dir):
    path = sorted(work_dir.glob('*/vis_data/scalars.json'))[-1]
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [r for r in records if 'accuracy/top1' in r][-1]['accuracy/top1']


QUANTIZED = dict(
    type='QuantizationHook',
    weights=4,
    activations=8,
    start=1,
    freeze_stats=3,
    observer='max',
    block_size=8,
    sensitive=4,
)


@pytest.fixture(scope='module', params=[(), (QUANTIZED,)], ids=['float', 'quantized'])
def runs(tmp_path_factory, request):
    folder = tmp_path_factory.mktemp('runs')
    write_images(folder / 'images', count=16)
    write_config(folder, SEED, *request.param)
    said = train(folder, 'whole')
    write_config(folder, SEED, DIE, *request.param)
    train(folder, 'cut', code=1)
    assert not (folder / 'cut/epoch_4.pth').exists()
    write_config(folder, SEED, *request.param)
    resumed = train(folder, 'cut', '--resume')
    return folder, said, resumed


@pytest.mark.slow
def test_weights_and_scores_are_the_same_to_the_last_bit(runs):
    folder, _, resumed = runs
    assert 'Epoch(train) [4][1/2]' in resumed
    assert 'Epoch(train) [3]' not in resumed
    whole, cut = (load_checkpoint_file(folder / name / 'epoch_4.pth') for name in ('whole', 'cut'))
    for part in ('state_dict', 'ema_state_dict'):
        assert set(whole[part]) == set(cut[part])
        for key, value in whole[part].items():
            assert torch.equal(value, cut[part][key]), (part, key)
    assert last_metrics(folder / 'whole') == last_metrics(folder / 'cut')
    # and training did something
    before = load_checkpoint_file(folder / 'whole/epoch_3.pth')['state_dict']
    assert any(not torch.equal(v, whole['state_dict'][k]) for k, v in before.items())


@pytest.mark.slow
def test_every_worker_says_how_fast_it_is(runs):
    _, said, _ = runs
    lines = [line for line in said.splitlines() if 'img/s; by worker' in line]
    assert len(lines) == 4
    assert all(line.split('by worker ')[1].count(',') == 1 for line in lines)
    assert 'throughput: ' in said


@pytest.mark.slow
def test_without_the_hook_a_resume_draws_other_numbers(runs):
    """Shows that the test above can fail."""
    folder, _, _ = runs
    write_config(folder)
    train(folder, 'free')
    write_config(folder, DIE)
    train(folder, 'free-cut', code=1)
    assert not (folder / 'free-cut/epoch_4.pth').exists()
    write_config(folder)
    train(folder, 'free-cut', '--resume')
    whole, cut = (load_checkpoint_file(folder / n / 'epoch_4.pth') for n in ('free', 'free-cut'))
    assert any(not torch.equal(v, cut['state_dict'][k]) for k, v in whole['state_dict'].items())


def test_epochs_have_seeds_of_their_own():
    found = np.array([[epoch_seed(seed, epoch) for epoch in range(300)] for seed in (None, 1, 2)])
    assert len(np.unique(found)) == found.size
    assert found.min() >= 0
    assert found.max() < 2**31


def test_all_ranks_take_the_seed_of_rank_0(monkeypatch, tmp_path):
    """With ``diff_rank_seed`` they have others, but share out one order."""

    def receive(seeds):
        seeds[0] = 5

    monkeypatch.setattr(epoch_seed_hook, 'broadcast_object_list', receive)
    runner = toy_runner(tmp_path, dict(type='EpochSeedHook'))
    runner.train()
    assert runner.seed == 0
    assert runner.train_dataloader.sampler.seed == 5


def test_a_cut_accumulation_is_said(tmp_path):
    runner = toy_runner(
        tmp_path,
        dict(type='EpochSeedHook'),
        optim_wrapper=dict(accumulative_counts=2, optimizer=dict(type='SGD', lr=0.05)),
    )
    said = []
    monkey = runner.logger.warning
    runner.logger.warning = lambda text, *a: said.append(text)
    try:
        runner.train()
    finally:
        runner.logger.warning = monkey
    assert any('accumulative_counts=2' in text for text in said)
