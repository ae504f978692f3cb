"""Folders and images of any name: data, or refused in one line."""

import os
from pathlib import Path

import pytest
import torch
from hostile_text import NAMES, RUNS
from mmengine.config import Config
from mmpretrain.registry import DATASETS
from PIL import Image

from mmpretrain_mobileone_ext.commands.training.finetune import cli, finetune_config, read_folder
from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.utils.config import MIM
from mmpretrain_mobileone_ext.utils.text import shown

DIGITS = MIM / 'configs/digits/mobileone-tiny_bs64_digits.py'
#: A line end ends the line of a list; a lone surrogate is no UTF-8.
UNFIT = [n for n in NAMES if set(n) & set('\n\r') or any('\ud800' <= c < '\ue000' for c in n)]


def is_file_name(name):
    """Whether this disk takes it for a folder; not '.x', which is hidden."""
    return '/' not in name and not name.startswith('.') and '\ud83d' not in name


FIT = [n for n in NAMES if n not in UNFIT and is_file_name(n)]
#: yapf takes some ms a class: those that a list could lose, and others.
SOME = sorted({*FIT[::4], *(n for n in FIT if n != n.strip() or not n.isprintable())})


def folder_of(root, names):
    for name in names:
        (root / name).mkdir(parents=True)
        for index in range(2):
            Image.new('RGB', (32, 32)).save(root / name / f'{index} {name[:50]}.png')
    return root


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('HOME', 'leaked-home')
    yield
    assert not Path('pwned').exists()


def test_there_are_many_names_of_both_kinds():
    assert len(FIT) > 100
    assert len(SOME) > 30
    assert len(UNFIT) >= 4


def test_a_written_config_and_its_lists_are_read_as_what_they_were(tmp_path):
    """Through mmpretrain's own CustomDataset."""
    root = folder_of(tmp_path / RUNS / '{{$HOME:}}, [a] ', SOME)
    work = tmp_path / '{{fileDirname}}'
    work.mkdir()
    folder = read_folder(root)
    cfg = finetune_config(Config.fromfile(DIGITS), folder, work)
    cfg.dump(work / 'finetune.py')
    again = Config.fromfile(work / 'finetune.py')
    assert again.to_dict() == cfg.to_dict()
    for split, samples in (('train', folder.train), ('test', folder.test)):
        data = dict(again[f'{split}_dataloader'].dataset, pipeline=[])
        dataset = DATASETS.build(data)
        assert tuple(dataset.metainfo['classes']) == tuple(SOME)
        found = [dataset.get_data_info(i) for i in range(len(dataset))]
        assert [(os.path.normpath(f['img_path']), f['gt_label']) for f in found] == [
            (str(folder.root / path), label) for path, label in samples
        ]
        assert all(os.path.isfile(f['img_path']) for f in found)
    assert 'leaked-home' not in (work / 'finetune.py').read_text()


@pytest.mark.parametrize('name', [n for n in UNFIT if is_file_name(n)])
def test_a_name_that_no_list_holds_is_refused(name, tmp_path):
    folder_of(tmp_path / 'data', ['cat', name])
    with pytest.raises(MobileOneExtError, match='rename it') as caught:
        cli.run(['data', '--config', str(DIGITS), '--work-dir', 'work'])
    assert repr(name) in str(caught.value)
    assert shown(caught.value) == str(caught.value)
    assert not Path('work').exists()


def test_an_image_that_no_list_holds_is_refused(tmp_path):
    root = folder_of(tmp_path / 'data', ['cat', 'dog'])
    (root / 'dog' / 'a\nb.png').write_bytes(b'')
    with pytest.raises(MobileOneExtError, match=r'dog/a\\nb\.png.*line end'):
        read_folder(root)


def test_the_tool_writes_such_a_config(tmp_path, monkeypatch, capsys):
    """Up to the training, which is replaced."""
    monkeypatch.setattr(cli.TrainToPhone, 'run', lambda self: [])
    monkeypatch.setattr(cli, 'print_results', lambda *given: None)
    folder_of(tmp_path / 'x[/b]{{$HOME:}}', [RUNS, '\x1b[31m', ' cat'])
    torch.save({'state_dict': {'w': torch.zeros(1)}}, '{{$HOME:}}')
    package = cli.run(
        ['x[/b]{{$HOME:}}', '--config', str(DIGITS), '--cfg-options', 'load_from={{$HOME:}}']
    )
    assert package == Path('work_dirs/finetune-b]{{$HOME:}}/model.mlpackage')
    cfg = Config.fromfile(package.with_name('finetune.py'))
    assert cfg.load_from == '{{$HOME:}}'
    assert cfg.test_dataloader.dataset.metainfo.classes == sorted([RUNS, '\x1b[31m', ' cat'])
    assert 'x[/b]{{$HOME:}}' in capsys.readouterr().out


@pytest.mark.parametrize(('data', 'work'), [('a\udc80', 'w'), ('data', 'w\udc80')])
def test_a_folder_that_is_no_utf8_is_refused(data, work, tmp_path):
    folder_of(tmp_path / data, ['cat', 'dog'])
    with pytest.raises(MobileOneExtError, match=r'udc80.*no UTF-8'):
        cli.run([data, '--config', str(DIGITS), '--work-dir', work])
    assert not Path(work).exists()
