"""mmpretrain's own, unmodified tools on our config, from data to package."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mmpretrain_mobileone_ext.commands.cli import mmpretrain_tool
from mmpretrain_mobileone_ext.commands.training.demo import write_digits

pytestmark = pytest.mark.slow

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / 'configs/digits/mobileone-tiny_bs64_digits.py'
#: Fewer steps: the averaged weights have to keep up.
FAST = (
    'custom_hooks.0.momentum=0.3',
    'train_cfg.val_interval=1',
    'optim_wrapper.optimizer.lr=0.02',
    'randomness.seed=0',
    # Four epochs have to be steps enough for running statistics.
    'train_dataloader.batch_size=8',
)


def run(*command):
    done = subprocess.run(
        [sys.executable, *map(str, command)],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.fixture(scope='module')
def lab(tmp_path_factory):
    return Lab(tmp_path_factory.mktemp('lab'))


class Lab:
    """One work dir, trained once, in two sessions."""

    def __init__(self, root):
        self.root = root
        self.work = root / 'work'
        data = write_digits(root / 'digits')
        self.options = [
            '--cfg-options',
            *(f'{s}_dataloader.dataset.data_root={data}' for s in ('train', 'val', 'test')),
        ]
        self.train('train_cfg.max_epochs=2')
        self.resumed = self.train('train_cfg.max_epochs=4', resume=True)
        self.package = self.root / 'model.mlpackage'
        self.exported = run(
            REPO / 'tools/export_coreml.py',
            CONFIG,
            self.work / 'epoch_4.pth',
            '--out',
            self.package,
            '--verify-data',
            'test',
            *self.options,
        )

    def train(self, *options, resume=False):
        return run(
            mmpretrain_tool('train.py'),
            CONFIG,
            '--work-dir',
            self.work,
            *(['--resume'] if resume else []),
            *self.options,
            *FAST,
            *options,
        )

    def metrics(self, checkpoint, *options, tool=None):
        out = self.root / 'metrics.json'
        run(
            tool or mmpretrain_tool('test.py'),
            CONFIG,
            checkpoint,
            '--work-dir',
            self.root / 'test',
            '--out',
            out,
            '--out-item',
            'metrics',
            *self.options,
            *options,
        )
        return json.loads(out.read_text())


def test_training_resumes_with_its_own_files(lab):
    assert 'resumed epoch: 2' in lab.resumed
    assert (lab.work / 'epoch_4_deploy.pth').is_file()
    assert list(lab.work.glob('best_*_deploy.pth'))


def test_every_form_scores_alike(lab):
    branches = lab.metrics(lab.work / 'epoch_4.pth')
    folded = lab.metrics(lab.work / 'epoch_4_deploy.pth', 'model.backbone.deploy=True')
    coreml = lab.metrics(lab.package)
    assert branches['accuracy/top1'] > 80
    assert folded == pytest.approx(branches, abs=0.01)
    # One image of 540 is 0.19 points.
    assert coreml == pytest.approx(branches, abs=0.19)


def test_core_ml_file_replaces_any_classifier_of_a_config(lab):
    ours = lab.metrics(lab.package, tool=REPO / 'tools/test.py')
    plain = lab.metrics(lab.package, 'model.type=CoreMLClassifier')
    assert ours == plain


def test_branch_checkpoint_folds_into_a_deploy_model(lab):
    folded = lab.metrics(lab.work / 'epoch_4.pth', 'model.backbone.deploy=True')
    deploy = lab.metrics(lab.work / 'epoch_4_deploy.pth', 'model.backbone.deploy=True')
    assert folded == deploy


def test_deploy_checkpoint_in_a_branch_model_is_an_error(lab):
    done = subprocess.run(
        [
            sys.executable,
            REPO / 'tools/test.py',
            CONFIG,
            lab.work / 'epoch_4_deploy.pth',
            '--work-dir',
            lab.root / 'test',
            *lab.options,
        ],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert 'error: ' in done.stderr
    assert 'Traceback' not in done.stderr
    assert 'model.backbone.deploy=True' in done.stderr


def test_inference_with_the_package_gives_a_class_name(lab):
    from mmpretrain import get_model, inference_model

    model = get_model(str(CONFIG), pretrained=str(lab.package))
    images = sorted((lab.root / 'digits/test/7').iterdir())[:10]
    found = [inference_model(model, str(i))['pred_class'] for i in images]
    assert found.count('7') >= 8
