"""Two processes through mmpretrain's own, unmodified ``tools/train.py``.

CPU and gloo. With plain norms statistics differ between the ranks: what is scored has to be what is
saved all the same. torch's SyncBatchNorm refuses to train on a CPU; ``CPUSyncBN`` is used in its
place.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import mmpretrain
import numpy as np
import pytest
from helpers import MeanTopScore, assert_same_state, classifier_cfg
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmpretrain.registry import DATASETS, MODELS
from PIL import Image

from mmpretrain_mobileone_ext import switch_to_deploy
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file

pytestmark = pytest.mark.slow

TRAIN = Path(mmpretrain.__file__).parent / '.mim/tools/train.py'
KITS = Path(__file__).resolve().parents[1] / 'kits'
RUNTIME = KITS.parents[1] / 'configs/_base_/default_runtime.py'
PYTHONPATH = os.pathsep.join([str(KITS), os.environ.get('PYTHONPATH', '')])
CONFIG = """
_base_ = '{runtime}'
custom_imports = dict(
    imports=['mmpretrain_mobileone_ext',
             'mmpretrain_mobileone_ext.hooks.cpu_ranks', 'helpers'])
model = {model}
pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
train_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(type='CustomDataset', data_root='train', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=True))
val_dataloader = dict(
    batch_size=4, num_workers=0, persistent_workers=False,
    dataset=dict(type='CustomDataset', data_root='test', pipeline=pipeline),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_dataloader = val_dataloader
val_evaluator = test_evaluator = dict(type='MeanTopScore')
train_cfg = dict(by_epoch=True, max_epochs=1)
val_cfg = test_cfg = dict()
optim_wrapper = dict(optimizer=dict(type='SGD', lr=0.05, momentum=0.9))
default_hooks = dict(
    checkpoint=dict(save_best='score', rule='greater'),
    logger=dict(interval=1))
custom_hooks = [
    dict(type='EMAHook', momentum=0.3, priority='ABOVE_NORMAL'),
    dict(type='DeploySwitchHook'), *{export}]
"""


def write_images(folder, count, seed):
    rng = np.random.default_rng(seed)
    for index in range(count):
        label = index % 3
        path = folder / 'abc'[label] / f'{index}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(60 * label, 60 * label + 120, (16, 16, 3))
        Image.fromarray(pixels.astype(np.uint8)).save(path)


def train(folder, *options):
    """Run the tool on two processes; returns what it printed."""
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            str(TRAIN),
            'config.py',
            '--work-dir',
            'run',
            '--launcher',
            'pytorch',
            *options,
        ],
        capture_output=True,
        text=True,
        cwd=folder,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'PYTHONPATH': PYTHONPATH},
    )
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


@pytest.fixture(scope='module', params=['BN', 'CPUSyncBN'])
def run(request, tmp_path_factory):
    """One epoch, then a second one by --resume."""
    folder = tmp_path_factory.mktemp('distributed')
    write_images(folder / 'train', 16, seed=0)
    write_images(folder / 'test', 8, seed=1)
    model = classifier_cfg(norm_cfg=dict(type=request.param))
    export = [dict(type='CoreMLExportHook')] if request.param == 'BN' else []
    (folder / 'config.py').write_text(CONFIG.format(model=model, runtime=RUNTIME, export=export))
    train(folder)
    train(folder, '--resume', 'auto', '--cfg-options', 'train_cfg.max_epochs=2')
    return folder


def deploy_files(run):
    return sorted((run / 'run').glob('*_deploy.pth'))


def folded_here(run, name):
    """A fold of the same checkpoint in this one process."""
    cfg = Config.fromfile(str(run / 'config.py'))
    model = MODELS.build(cfg.model).eval()
    model.load_state_dict(load_checkpoint_file(run / 'run' / name)['state_dict'])
    return switch_to_deploy(model), cfg


def test_both_runs_wrote_deploy_files(run):
    names = {p.name for p in deploy_files(run)}
    assert {'epoch_1_deploy.pth', 'epoch_2_deploy.pth'} < names
    assert any(name.startswith('best_score_epoch_') for name in names)


def test_a_deploy_file_is_the_fold_of_its_checkpoint(run):
    for path in deploy_files(run):
        if not path.with_name(path.name.replace('_deploy', '')).exists():
            continue  # a best one that the resumed run has surpassed
        model, _ = folded_here(run, path.name.replace('_deploy', ''))
        assert_same_state(model.state_dict(), load_checkpoint_file(path)['state_dict'])


def test_one_rank_exports_while_the_other_waits(run):
    asked = 'CoreMLExportHook' in (run / 'config.py').read_text()
    (best,) = (run / 'run').glob('best_*[0-9].pth')
    assert best.with_suffix('.mlpackage').exists() == asked
    lines = [
        line for path in (run / 'run').rglob('*.log') for line in path.read_text().splitlines()
    ]
    done = [line for line in lines if 'CoreMLExportHook: done in' in line or 'it is kept' in line]
    assert len(done) == (2 if asked else 0)  # one a session
    assert not [line for line in lines if ' - ERROR - ' in line]


def scores_in_the_logs(run):
    found = {}
    for path in sorted((run / 'run').glob('*/vis_data/scalars.json')):
        for line in map(json.loads, path.read_text().splitlines()):
            if 'score' in line:
                found[line['step']] = line['score']
    return found


def score_here(model, cfg, run):
    data = dict(cfg.val_dataloader.dataset, data_root=str(run / 'test'))
    data = DATASETS.build(data)
    metric = MeanTopScore()
    metric.process(
        None,
        [s.to_dict() for s in model.val_step(pseudo_collate([data[i] for i in range(len(data))]))],
    )
    return metric.compute_metrics(metric.results)['score']


def test_what_is_scored_is_what_is_saved(run):
    scores = scores_in_the_logs(run)
    assert scores.keys() == {1, 2}
    for epoch, score in scores.items():
        model, cfg = folded_here(run, f'epoch_{epoch}.pth')
        assert score == pytest.approx(score_here(model, cfg, run), abs=1e-5)


def test_training_went_on_where_it_stopped(run):
    epochs = [load_checkpoint_file(run / f'run/epoch_{i}.pth')['meta'] for i in (1, 2)]
    assert [e['epoch'] for e in epochs] == [1, 2]
    assert [e['iter'] for e in epochs] == [2, 4]
