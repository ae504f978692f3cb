"""What is printed at the end: scores by class, what is mixed up, the next command."""

import io
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from mmpretrain_mobileone_ext.commands.training.finetune import ImageFolder
from mmpretrain_mobileone_ext.commands.training.finetune.cli import print_folder
from mmpretrain_mobileone_ext.commands.training.finetune.results import (
    confusion_of,
    print_classes,
    print_results,
)
from mmpretrain_mobileone_ext.utils.text import PlainConsole


@pytest.fixture
def console():
    return PlainConsole(file=io.StringIO(), width=100)


def said(console):
    return console.file.getvalue()


def predictions(*pairs):
    return [dict(gt_label=torch.tensor([t]), pred_label=torch.tensor([p])) for t, p in pairs]


def test_each_class_has_its_scores_and_few_have_a_matrix(console):
    found = confusion_of(predictions((0, 0), (0, 1), (1, 1), (1, 1)), ('cat', '[dog]'))
    print_classes(found, console)
    rows = [[c.strip() for c in line.split('│')[1:-1]] for line in said(console).splitlines()]
    assert ['cat', '2', '100.00', '50.00'] in rows
    assert ['[dog]', '2', '66.67', '100.00'] in rows
    assert ['1 cat', '1', '1'] in rows
    assert ['2 [dog]', '.', '2'] in rows


def test_of_many_classes_those_with_the_lowest_recall_and_pairs(console):
    names = tuple(f'class {i}' for i in range(60))
    pairs = [(i, i) for i in range(60)] + [(7, 9)] * 3
    print_classes(confusion_of(predictions(*pairs), names), console)
    text = said(console)
    assert 'the 40 classes with the lowest recall' in ' '.join(text.split())
    assert text.index('class 7 ') < text.index('class 0 ')
    assert '3 of class 7 taken for class 9' in text


def test_no_mistake_is_said(console):
    print_classes(confusion_of(predictions((0, 0), (1, 1)), ('a', 'b')), console)
    assert 'no test image is taken for another class' in said(console)


def steps(console, folder, hooks='[]'):
    folder.mkdir(exist_ok=True)
    (folder / 'finetune.py').write_text(f'custom_hooks = {hooks}\n', 'utf-8')
    return SimpleNamespace(
        console=console,
        config=folder / 'finetune.py',
        checkpoint=folder / 'epoch_2.pth',
        work_dir=folder,
        page=folder / 'report/report.html',
        package=folder / 'model.mlpackage',
        predictions=lambda: predictions((0, 0), (1, 0)),
    )


FOLDER = ImageFolder(Path('my photos'), ('a', 'b'), (('a/1.jpg', 0),), (('b/1.jpg', 1),), True)


@pytest.mark.parametrize(
    ('program', 'begins'),
    [
        ('tools/finetune.py', 'python tools/export_coreml.py'),
        ('/usr/bin/mobileone-ext', 'mobileone-ext export'),
        ('mobileone-ext finetune', 'mobileone-ext export'),
    ],
)
def test_the_next_command_is_one_that_can_be_typed(program, begins, console, monkeypatch, tmp_path):
    monkeypatch.setattr(sys, 'argv', [program, 'my photos'])
    monkeypatch.chdir(tmp_path)
    folder = Path('work dirs')
    print_results(steps(console, folder), [], FOLDER, None)
    (line,) = [x for x in said(console).splitlines() if x.startswith('next: ')]
    assert line.startswith(f"next: {begins} 'work dirs/finetune.py' 'work dirs/epoch_2.pth' --out ")
    assert "--swift 'work dirs/swift'" in line


def test_what_is_left_is_named_with_its_place(console, tmp_path):
    print_results(steps(console, tmp_path), [], FOLDER, tmp_path / 'my kit')
    lines = dict(x.split(': ', 1) for x in said(console).splitlines() if ': ' in x)
    assert lines['Core ML file'] == f'{tmp_path / "model.mlpackage"}'
    assert lines['report'].startswith(f'{tmp_path / "report/report.html"}')
    assert lines['Swift package'] == f'{tmp_path / "my kit"} (import MyKit)'
    assert lines['next'].startswith(f'open {tmp_path / "my kit"} in Xcode')


@pytest.mark.parametrize('averaged', [True, False])
def test_which_checkpoint_was_exported_and_why(averaged, console, tmp_path):
    hooks = "[dict(type='EMAHook')]" if averaged else '[]'
    print_results(steps(console, tmp_path, hooks), [], FOLDER, None)
    (line,) = [x for x in said(console).splitlines() if x.startswith('exported: ')]
    assert line.startswith('exported: epoch_2.pth, the last one')
    assert ('averaged' in line) is averaged


@pytest.mark.parametrize(('few', 'is_said'), [(31, False), (29, True)])
def test_classes_of_very_different_sizes_are_said(few, is_said, console, tmp_path):
    train = tuple(('a/x.jpg', 0) for _ in range(90)) + tuple(('b/x.jpg', 1) for _ in range(few))
    print_folder(ImageFolder(Path('d'), ('a', 'b'), train, train[:2], True), tmp_path, console)
    assert ('uneven: a has 3.1 times the training images of b' in said(console)) is is_said
    assert ('uneven' in said(console)) is is_said
    assert f'{100 * 90 / (90 + few):.1f}' in said(console)
