"""One command from a folder to a scored package."""

import json
import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from hostile_text import RUNS
from photo_kit import SHARES, write_photos
from PIL import Image

from mmpretrain_mobileone_ext.commands.training.demo import write_digits
from mmpretrain_mobileone_ext.coreml import load_program

REPO = Path(__file__).resolve().parents[3]
CONFIG = REPO / 'configs/digits/mobileone-tiny_bs64_digits.py'
#: Few steps: small batches, averaged weights that keep up.
FAST = (
    '--cfg-options',
    'custom_hooks.0.momentum=0.3',
    'optim_wrapper.optimizer.lr=0.02',
    'train_dataloader.batch_size=8',
)


def tool(name, *args, code=0):
    done = subprocess.run(
        [sys.executable, str(REPO / 'tools' / name), *map(str, args)],
        capture_output=True,
        text=True,
        env={**os.environ, 'OMP_NUM_THREADS': '1'},
    )
    assert done.returncode == code, done.stdout + done.stderr[-2000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_digits_from_the_stem_of_another_run(tmp_path):
    digits = write_digits(tmp_path / 'digits')
    few = tmp_path / 'few'  # one class less than the run before has
    few.mkdir()
    for name in range(9):
        (few / f'digit {name}').symlink_to(digits / 'train' / str(name))
    tool(
        'train.py',
        CONFIG,
        '--work-dir',
        tmp_path / 'first',
        *FAST,
        'train_cfg.max_epochs=1',
        *(f'{s}_dataloader.dataset.data_root={digits}' for s in ('train', 'val', 'test')),
    )
    weights = tmp_path / 'first/epoch_1.pth'
    out = tool(
        'finetune.py',
        few,
        '--config',
        CONFIG,
        '--weights',
        weights,
        '--frozen-stages',
        1,
        '--epochs',
        4,
        '--work-dir',
        tmp_path / 'work',
        *FAST,
    )
    forms = json.loads((tmp_path / 'work/forms.json').read_text())
    assert len(forms) == 3, out
    assert all(f['top1'] > 80 for f in forms), out
    program = load_program(tmp_path / 'work/model.mlpackage')
    assert list(program.classes) == [f'digit {n}' for n in range(9)]
    _assert_frozen(weights, tmp_path / 'work/epoch_4.pth')
    # a second run does not mix with the first
    again = tool('finetune.py', few, '--config', CONFIG, '--work-dir', tmp_path / 'work', code=2)
    assert re.search(r'error: .*holds an earlier run', again)


@pytest.mark.slow
def test_photos_as_people_have_them_become_a_package_an_app_and_a_page(tmp_path):
    """Of every size and format, one corrupt, four uneven classes; from random weights."""
    photos = write_photos(
        tmp_path / 'photos', 60, large=1, heic=find_spec('pillow_heif') is not None
    )
    work = tmp_path / 'work'
    words = (photos, '--from-scratch', '--image-size', 32, '--swift', '--work-dir', work)
    tiny = ('--config', CONFIG, '--epochs', 12)
    out = tool('finetune.py', *words, *tiny)
    assert 'uneven: Blüten has' in out
    assert re.search(r'Blüten/abgebrochen\.jpg: damaged, cut off', out)
    assert 'train: 12 epochs' in out
    assert len(re.findall(r'train: epoch \d+/12, loss \d', out)) == 12
    assert re.search(r'decoded once, to 64 pixels or less', ' '.join(out.split()))
    assert 'with the worst mistakes as pictures' in out
    assert f'next: open {work / "swift"} in Xcode' in out
    program = load_program(work / 'model.mlpackage')
    assert list(program.classes) == sorted(SHARES)
    assert (work / 'swift/Package.swift').is_file()
    figures = json.loads((work / 'report/report.json').read_text('utf-8'))
    assert sum(map(sum, figures['confusion']['counts'])) == figures['num_images'] == 12
    assert 'stem' in figures['places'].values()
    page = (work / 'report/report.html').read_text('utf-8')
    assert page.index('id="mistakes"') < page.index('id="forms"')
    # What is there is neither overwritten nor gone on with unasked.
    again = tool('finetune.py', *words, *tiny, code=2)
    assert re.search(r'error: .*holds an earlier run, which is finished', again)


@pytest.mark.slow
def test_a_rate_that_is_too_large_ends_with_one_line_and_the_next_command_is_free(tmp_path):
    digits = write_digits(tmp_path / 'digits')
    few = tmp_path / 'few'
    for name in '01':
        (few / name).mkdir(parents=True)
        for source in sorted((digits / 'train' / name).iterdir())[:20]:
            (few / name / source.name).symlink_to(source)
    words = (few, '--config', CONFIG, '--work-dir', tmp_path / 'work', '--epochs', 2)
    out = tool('finetune.py', *words, '--lr', 1e30, code=2)
    assert re.search(r'error: train failed.*the loss is \w+ in iteration \d+ at a .* diverged', out)
    assert not list((tmp_path / 'work').glob('*.mlpackage'))
    assert 'by class' in tool('finetune.py', *words)


#: In iterations, on two data sets, one of them repeated, and unfolded.
ITERATIONS = """
_base_ = {base!r}
part = dict(_scope_='mmpretrain', type='RepeatDataset', times=2,
            dataset=_base_.train_dataloader.dataset)
train_dataloader = dict(dataset=dict(
    _delete_=True, type='ConcatDataset', datasets=[part, part]))
train_cfg = dict(
    _delete_=True, by_epoch=False, max_iters=24, val_interval=12)
param_scheduler = [dict(type='ConstantLR', by_epoch=False, factor=1.0)]
default_hooks = dict(checkpoint=dict(by_epoch=False, interval=12))
custom_hooks = []
model = dict(head=dict(topk=(5, )))
val_evaluator = dict(topk=(5, ))
test_evaluator = dict(topk=(5, ))
"""


@pytest.mark.slow
def test_a_folder_and_a_recipe_as_people_have_them(tmp_path):
    digits = write_digits(tmp_path / 'digits')
    for split, source, count in (('Training', 'train', 40), ('Testing', 'test', 10)):
        for name in ('0', '1'):
            folder = tmp_path / 'data' / split / f'a {name}'
            folder.mkdir(parents=True)
            for image in sorted((digits / source / name).iterdir())[:count]:
                Image.open(image).save(folder / f'{image.stem}.webp', lossless=True)
    (tmp_path / 'data/Training/a 0/page.jpg').write_text('<html>')
    (tmp_path / 'data/Training/a 0/._0.jpg').write_text('x')
    recipe = tmp_path / 'recipe.py'
    recipe.write_text(ITERATIONS.format(base=str(CONFIG)))
    out = tool(
        'finetune.py',
        tmp_path / 'data',
        '--config',
        recipe,
        '--work-dir',
        tmp_path / 'work',
        '--cfg-options',
        'load_from=None',
        'train_dataloader.batch_size=16',
    )
    assert '24 iterations' in out
    assert 'DeploySwitchHook is added' in out
    assert 'Training/a 0/page.jpg: no image but a web page' in out
    program = load_program(tmp_path / 'work/model.mlpackage')
    assert list(program.classes) == ['a 0', 'a 1']
    forms = json.loads((tmp_path / 'work/forms.json').read_text())
    assert [f['num_images'] for f in forms] == [20, 20, 20]
    dumped = (tmp_path / 'work/finetune.py').read_text()
    assert 'RepeatDataset' in dumped
    assert 'ConcatDataset' not in dumped


@pytest.mark.slow
def test_names_of_folders_stay_names_in_every_process(tmp_path, monkeypatch):
    """Train, test and export read the config that the Runner wrote again."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('OMP_NUM_THREADS', '1')
    digits = write_digits(tmp_path / 'digits')
    names = (RUNS, '{{$HOME:}}', ' =1+1 ', '[b]', 'a|b"\'')
    for index, name in enumerate(names):
        (tmp_path / 'data' / name).mkdir(parents=True)
        for source in sorted((digits / 'train' / str(index)).iterdir())[:12]:
            (tmp_path / 'data' / name / source.name).symlink_to(source)
    tool(
        'finetune.py',
        'data',
        '--config',
        CONFIG,
        '--epochs',
        1,
        '--work-dir',
        'w{{fileDirname}}',
        *FAST,
        'load_from=None',
    )
    assert not list(tmp_path.rglob('pwned*'))
    work = Path('w{{fileDirname}}')
    program = load_program(work / 'model.mlpackage')
    assert list(program.classes) == sorted(names)
    assert os.environ['HOME'] not in (work / 'finetune.py').read_text()


def _assert_frozen(before, after):
    """Averaged weights start from the loaded ones, in frozen stages too."""
    first, second = (torch.load(p, weights_only=False)['state_dict'] for p in (before, after))
    for key, value in first.items():
        if key.startswith(('backbone.stage0.', 'backbone.stage1.')):
            assert torch.equal(value, second[key]), key
    assert any(
        not torch.equal(v, second[k]) for k, v in first.items() if k.startswith('backbone.stage2.')
    )
