"""Throughput and recalibration on two ranks, and of a Core ML file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import assert_close, assert_same_state, classifier_cfg
from mmpretrain.registry import MODELS
from recalibration_ranks import SIZES, batches, network
from test_bn_recalibration import oracle
from test_distributed import RUNTIME, write_images
from toy_runner import toy_runner

import mmpretrain_mobileone_ext
from mmpretrain_mobileone_ext.coreml import export_coreml

pytestmark = pytest.mark.slow

KITS = Path(__file__).resolve().parents[1] / 'kits'
PACKAGE = Path(mmpretrain_mobileone_ext.__file__).parents[1]
ENV = {
    **os.environ,
    'OMP_NUM_THREADS': '1',
    'PYTHONPATH': os.pathsep.join([str(PACKAGE), str(KITS), os.environ.get('PYTHONPATH', '')]),
}
CONFIG = """
_base_ = '{runtime}'
custom_imports = dict(
    imports=['mmpretrain_mobileone_ext',
             'mmpretrain_mobileone_ext.hooks.cpu_ranks', 'helpers'])
model = {model}
test_dataloader = dict(
    batch_size=2, num_workers=0,
    dataset=dict(type='CustomDataset', data_root='test', pipeline=[
        dict(type='LoadImageFromFile'), dict(type='PackInputs')]),
    sampler=dict(type='DefaultSampler', shuffle=False))
test_evaluator = dict(type='MeanTopScore')
test_cfg = dict()
default_hooks = dict(checkpoint=None)
custom_hooks = [dict(type='DeploySwitchHook'),
                dict(type='ThroughputHook', warmup=1)]
work_dir = 'run'
launcher = 'pytorch'
"""
RUN = """
from mmengine.config import Config
from mmengine.runner import Runner
metrics = Runner.from_cfg(Config.fromfile('config.py')).test()
assert metrics['throughput'] > 0 and metrics['score'] > 0
"""


def test_two_ranks_are_one_figure(tmp_path):
    write_images(tmp_path / 'test', 16, seed=1)
    (tmp_path / 'config.py').write_text(CONFIG.format(runtime=RUNTIME, model=classifier_cfg()))
    (tmp_path / 'run.py').write_text(RUN)
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            'run.py',
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
        env=ENV,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    (path,) = tmp_path.glob('run/*/throughput_test.json')
    record = json.loads(path.read_text())
    assert (record['ranks'], record['form']) == (2, 'folded')
    assert record['batches'] == 6  # 8 images a rank, the first batch warms up
    # Two ranks at once are faster than a batch in a median time.
    one = 1e3 * record['batch_size'] / record['latency_median']
    assert record['throughput'] > one


def test_ranks_give_the_statistics_of_all_images(tmp_path):
    command = [sys.executable, str(KITS / 'recalibration_ranks.py')]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(tmp_path / 'init'), str(tmp_path / 'out')], env=ENV
        )
        for rank in range(2)
    ]
    assert [rank.wait() for rank in ranks] == [0, 0]
    (used, state), (other, state_1) = (torch.load(tmp_path / f'out.{rank}') for rank in range(2))
    assert used == other == sum(map(sum, SIZES))
    assert_same_state(state, state_1)
    for name, value in oracle(network(), batches(0) + batches(1)).items():
        assert_close(value[0], state[f'{name}.running_mean'], 1e-5)
        assert_close(value[1], state[f'{name}.running_var'], 1e-5)


def test_core_ml_file_is_measured(tmp_path):
    model = MODELS.build(classifier_cfg())
    path = export_coreml(
        model,
        out=tmp_path / 'm.mlpackage',
        input='tensor',
        image_size=16,
        verify_data='none',
        classes=('dark', 'grey', 'light'),
    )
    runner = toy_runner(
        tmp_path / 'run',
        dict(type='DeploySwitchHook'),
        dict(type='ThroughputHook', warmup=1),
        load_from=str(path),
    )
    metrics = runner.test()
    assert metrics['throughput'] > 0
    (record,) = (tmp_path / 'run').glob('*/throughput_test.json')
    assert json.loads(record.read_text())['form'] == 'Core ML'
