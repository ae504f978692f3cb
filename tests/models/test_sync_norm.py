"""Batch norm over two ranks against one process on the joined batch."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmcv.cnn import build_norm_layer
from torch import nn

from mmpretrain_mobileone_ext.models import CPUSyncBatchNorm


@pytest.mark.slow
def test_two_ranks_equal_one_process_on_the_joined_batch():
    script = Path(__file__).parents[1] / 'kits/sync_norm_ranks.py'
    done = subprocess.run(
        [
            sys.executable,
            '-m',
            'torch.distributed.run',
            '--standalone',
            '--nproc_per_node',
            '2',
            str(script),
        ],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('compared 9') == 2


@pytest.mark.parametrize('training', [True, False])
def test_one_process_is_plain_batch_norm(training):
    norm = build_norm_layer(dict(type='CPUSyncBN'), 4)[1].train(training)
    assert isinstance(norm, CPUSyncBatchNorm)
    plain = nn.BatchNorm2d(4).train(training)
    x = torch.randn(3, 4, 5, 5)
    assert torch.equal(norm(x), plain(x))
    assert torch.equal(norm.running_var, plain.running_var)
