"""The script that shows throughput in the test flow, as it is printed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from mmpretrain.datasets import ImageNet

from mmpretrain_mobileone_ext.commands.benchmark.fake_data import write_fake_imagenet
from mmpretrain_mobileone_ext.errors import SpecError

TOOL = Path(__file__).parents[3] / 'tools/benchmark_throughput.py'


def test_mmpretrain_reads_the_images(tmp_path):
    write_fake_imagenet(tmp_path / 'data', 3)
    found = ImageNet(data_root=str(tmp_path / 'data'), split='val')
    assert [found[i]['gt_label'] for i in range(len(found))] == [0, 919, 838]
    assert all(Path(found[i]['img_path']).is_file() for i in range(3))
    assert len(found.metainfo['classes']) == 1000


def test_another_split_is_never_replaced(tmp_path):
    (tmp_path / 'meta').mkdir()
    (tmp_path / 'meta/val.txt').write_text('real.JPEG 3\n')
    with pytest.raises(SpecError, match='another'):
        write_fake_imagenet(tmp_path, 3)
    assert (tmp_path / 'meta/val.txt').read_text() == 'real.JPEG 3\n'


def test_no_images(tmp_path):
    with pytest.raises(SpecError, match='images=0'):
        write_fake_imagenet(tmp_path, 0)


@pytest.mark.slow
def test_script_runs_as_printed(tmp_path):
    done = subprocess.run(
        [sys.executable, str(TOOL)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '2'},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.rstrip().splitlines()[-1].startswith('throughput: ')
    assert list(tmp_path.glob('work_dirs/throughput/*/throughput_test.json'))
