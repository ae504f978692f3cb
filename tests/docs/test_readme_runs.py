"""The commands of README.md, as printed, one after the other, on few epochs.

A training is made short by further options. ``make test`` is what runs this, ``make demo`` runs the
``demo`` command.
"""

import shlex
import subprocess
import sys

import pytest
from docs_kit import DOCS, README, ROOT, commands, snippets
from PIL import Image

from mmpretrain_mobileone_ext.commands.training.demo import write_digits

pytestmark = pytest.mark.slow

#: Fewer steps: the averaged weights have to keep up.
SHORT = (
    'custom_hooks.0.momentum=0.3',
    'optim_wrapper.optimizer.lr=0.02',
    'train_cfg.val_interval=1',
    'train_dataloader.batch_size=16',
)
PRINTED = {line.split()[1]: line for line in commands(README) if line.startswith('mobileone-ext ')}
#: Options that make a command short, by command.
MORE = {
    'train': [
        '--work-dir',
        'work_dirs/demo-digits',
        '--cfg-options',
        *SHORT,
        'train_cfg.max_epochs=5',
    ],
    'ablate': ['--cfg-options', *SHORT, 'train_cfg.max_epochs=1'],
    'finetune': [
        '--config',
        'configs/digits/mobileone-tiny_bs64_digits.py',
        '--epochs',
        '2',
        '--cfg-options',
        *SHORT,
    ],
    'export': [],
    'doctor': [],
}


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """What a clone has: configs, data of the demo, photos."""
    root = tmp_path_factory.mktemp('clone')
    (root / 'configs').symlink_to(ROOT / 'configs')
    write_digits(root / 'data/digits')
    for animal, digit in (('cat', '3'), ('dog', '8')):
        (root / 'photos' / animal).mkdir(parents=True)
        for path in sorted((root / 'data/digits/train' / digit).iterdir())[:60]:
            Image.open(path).convert('RGB').save(root / 'photos' / animal / path.name)
    return root


def run(name, root):
    words = shlex.split(PRINTED[name], comments=True)[1:]
    done = subprocess.run(
        [sys.executable, ROOT / 'mobileone_ext.py', *words, *MORE[name]],
        cwd=root,
        capture_output=True,
        text=True,
        encoding='utf-8',
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_every_command_is_run_here():
    assert set(MORE) == set(PRINTED) - {'demo'}


def test_doctor(clone):
    assert 'torch' in run('doctor', clone)


def test_photos_become_a_model_and_a_swift_package(clone):
    run('finetune', clone)
    work = clone / 'work_dirs/finetune-photos'
    assert (work / 'model.mlpackage').is_dir()
    assert list(clone.rglob('PhotosKit/Package.swift'))
    assert (work / 'skipped.csv').is_file()


def test_train_export_and_python(clone, monkeypatch, capfd):
    run('train', clone)
    work = clone / 'work_dirs/demo-digits'
    # The demo trains for 25 epochs.
    (work / 'epoch_5.pth').rename(work / 'epoch_25.pth')
    run('export', clone)
    assert (clone / 'digits.mlpackage').is_dir()
    assert (clone / 'DigitsKit/Package.swift').is_file()
    assert (clone / 'report/report.html').is_file()
    run_python(clone, README, 'get_model')
    run_python(clone, DOCS / 'phone/exporting.md', 'export_coreml')
    (clone / 'model.mlpackage').rename(work / 'model.mlpackage')
    assert run_python(clone, DOCS / 'phone/runtime.md', 'load_program').strip() == '7'


def run_python(root, page, name):
    """The snippet with this name in it, as printed."""
    (text,) = (t for t in snippets(page, 'python') if name in t)
    done = subprocess.run(
        [sys.executable, '-c', text], cwd=root, capture_output=True, text=True, encoding='utf-8'
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def test_ablation(clone):
    run('ablate', clone)
    (found,) = clone.glob('work_dirs/ablate-*/ablation.csv')
    rows = found.read_text('utf-8').splitlines()[1:]
    variants = [row.partition(',')[0] for row in rows]
    assert sorted(variants) == [*['num_conv_branches=1'] * 3, *['num_conv_branches=4'] * 3]
