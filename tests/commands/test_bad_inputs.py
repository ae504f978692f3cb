"""What a user can get wrong: one line, exit code 2, nothing changed.

Each case calls a real tool in this process, on a folder whose every byte is compared before and
after.
"""

import hashlib
import runpy
import shutil
import sys
import zipfile
from pathlib import Path

import pytest
import torch
from mmengine.logging import MMLogger

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / 'configs/digits/mobileone-tiny_bs64_digits.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Data, a fitting checkpoint, a package, and broken copies of each."""
    from mmengine.config import Config
    from mmpretrain import get_model

    from mmpretrain_mobileone_ext.commands.training.demo import write_digits
    from mmpretrain_mobileone_ext.coreml import export_coreml

    root = tmp_path_factory.mktemp('bad')
    write_digits(root / 'digits')
    model = get_model(Config.fromfile(CONFIG))
    torch.save(dict(state_dict=model.state_dict()), root / 'good.pth')
    torch.save([1, 2], root / 'list.pth')
    torch.save(dict(state_dict={'backbone.x': torch.zeros(1)}), root / 'other.pth')
    torch.save(dict(state_dict=model.switch_to_deploy().state_dict()), root / 'deploy.pth')
    (root / 'text.pth').write_text('not a checkpoint')
    (root / 'empty.pth').touch()
    data = (root / 'good.pth').read_bytes()
    (root / 'cut.pth').write_bytes(data[: len(data) // 2])
    with (
        zipfile.ZipFile(root / 'good.pth') as old,
        zipfile.ZipFile(root / 'packed.pth', 'w', zipfile.ZIP_DEFLATED) as new,
    ):
        for record in old.namelist():
            new.writestr(record, old.read(record))
    (root / 'few.txt').write_text('a\nb\n')
    (root / 'broken.py').write_text('model = dict(')
    export_coreml(
        model,
        out=root / 'good.mlpackage',
        image_size=32,
        classes=list('0123456789'),
        verify_data='none',
    )
    break_packages(root)
    return root


def break_packages(root):
    good = root / 'good.mlpackage'
    (root / 'empty.mlpackage').mkdir()
    (root / 'text.mlmodel').write_text('no model')
    for name in ('noweights', 'cutweights', 'cutspec'):
        shutil.copytree(good, root / f'{name}.mlpackage')
    (weight,) = (root / 'noweights.mlpackage').rglob('weight.bin')
    weight.unlink()
    for name, pattern in (('cutweights', 'weight.bin'), ('cutspec', '*.mlmodel')):
        (file,) = (root / f'{name}.mlpackage').rglob(pattern)
        file.write_bytes(file.read_bytes()[:100])


def backbone(*options):
    """Train with another backbone."""
    return ('train', *(f'model.backbone.{o}' for o in options))


def score(checkpoint, *options):
    """Test a checkpoint of the folder."""
    return ('test', checkpoint, *options)


def export(*arguments, checkpoint='good.pth', out='new.mlpackage'):
    """Export from the folder into it."""
    return ('export', checkpoint, out, *arguments)


CASES = {
    # specs
    'preset': (backbone('arch=s9'), "arch='s9'"),
    'arch key': (backbone('arch.depth=3'), 'depth'),
    'branch count': (backbone('num_conv_branches=-1'), '-1'),
    'no branch': (backbone('num_conv_branches=0'), 'no branch is left'),
    'branch kind': (backbone('branches=[conv,pool]'), 'pool'),
    'stage count': (backbone('num_conv_branches=[1,2]'), '2 values for 3'),
    'keyword': (backbone('num_branches=3'), "'num_branches'; did you mean num_conv_branches?"),
    'foreign keyword': (backbone('zebra=3'), "takes no argument 'zebra'; it takes arch, "),
    'no value': (backbone('num_conv_branches'), "num_conv_branches' must be KEY=VALUE"),
    'out_indices': (backbone('out_indices=[5]'), 'out_indices'),
    'frozen_stages': (backbone('frozen_stages=7'), 'frozen_stages=7'),
    'activation': (backbone('act_cfg.type=NoSuch'), 'NoSuch'),
    'norm': (backbone('norm_cfg.type=NoSuch'), 'NoSuch'),
    'se ratio': (backbone('se_cfg.ratio=0'), 'se_cfg.ratio'),
    'se placement': (backbone('se_cfg.placement=9'), 'placement'),
    'output_stride': (backbone('output_stride=3'), 'output_stride=3'),
    'hook': (('train', 'custom_hooks.2.when=[never]'), 'never'),
    # checkpoints
    'missing': (score('nowhere.pth'), 'nowhere.pth'),
    'text': (score('text.pth'), 'text.pth'),
    'empty': (score('empty.pth'), 'empty'),
    'truncated': (score('cut.pth'), 'cut.pth'),
    'list': (score('list.pth'), 'list'),
    'foreign': (score('other.pth'), 'does not fit'),
    'deploy in branches': (score('deploy.pth'), 'deploy=True'),
    'other head': (score('good.pth', 'model.head.num_classes=7'), 'the network has 7'),
    'zip bomb': (score('packed.pth'), 'compressed'),
    # packages
    'stock model': (
        score('good.mlpackage', 'model.type=ImageClassifier'),
        'model.type=CoreMLClassifier',
    ),
    'no package': (score('nowhere.mlpackage'), 'nowhere.mlpackage'),
    'empty package': (score('empty.mlpackage'), 'empty.mlpackage'),
    'not a model': (score('text.mlmodel'), 'text.mlmodel'),
    'no weights': (score('noweights.mlpackage'), 'weight'),
    'cut weights': (score('cutweights.mlpackage'), 'weight'),
    'cut spec': (score('cutspec.mlpackage'), 'cutspec.mlpackage'),
    # export arguments
    'suffix': (export(out='new.onnx'), '.onnx'),
    'exists': (export(out='good.mlpackage'), 'good.mlpackage'),
    'no folder': (export(out='none/new.mlpackage'), 'none'),
    'precision': (export('--precision', 'bf16'), 'bf16'),
    'target': (export('--deployment-target', 'iOS3'), 'iOS3'),
    'units': (export('--compute-units', 'TPU'), 'TPU'),
    'input kind': (export('--input', 'audio'), 'audio'),
    'image size': (export('--image-size', '0'), '0'),
    'classes': (export('--classes', 'few.txt'), '2'),
    'no classes': (export('--classes', 'none.txt'), 'none.txt'),
    'images': (export('--verify-data', '-4'), '-4'),
    'fold over the source': (('fold', 'good.pth', 'good.pth'), 'replace'),
    'fold exists': (('fold', 'good.pth', 'other.pth'), '--force'),
    'bad checkpoint': (export(checkpoint='cut.pth'), 'cut.pth'),
}


def snapshot(root):
    """Digest of every file, and which folders there are."""
    return {
        str(p.relative_to(root)): hashlib.sha256(p.read_bytes()).hexdigest()
        if p.is_file()
        else 'dir'
        for p in sorted(root.rglob('*'))
    }


def command(case, folder, work_dir):
    tool, *rest = case
    data = [
        '--cfg-options',
        *(
            f'{s}_dataloader.dataset.data_root={folder / "digits"}'
            for s in ('train', 'val', 'test')
        ),
        *(f'{s}_dataloader.num_workers=0' for s in ('train', 'val', 'test')),
        *(f'{s}_dataloader.persistent_workers=False' for s in ('train', 'val', 'test')),
    ]
    if tool == 'train':
        return ['train.py', CONFIG, '--work-dir', work_dir, *data, *rest]
    if tool == 'test':
        checkpoint, *options = rest
        return ['test.py', CONFIG, folder / checkpoint, '--work-dir', work_dir, *data, *options]
    checkpoint, out, *options = rest
    if tool == 'fold':
        return ['switch_to_deploy.py', CONFIG, folder / checkpoint, '--out', folder / out]
    options = [folder / o if o.endswith('.txt') else o for o in options]
    return ['export_coreml.py', CONFIG, folder / checkpoint, '--out', folder / out, *options, *data]


def call(monkeypatch, name, *arguments):
    """Exit code of a tool run in this process."""
    path = str(REPO / 'tools' / name)
    monkeypatch.setattr(sys, 'argv', [path, *map(str, arguments)])
    monkeypatch.setattr(MMLogger, '_instance_dict', {})
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(path, run_name='__main__')
    return stop.value.code


@pytest.mark.parametrize('name', CASES)
def test_mistake_is_one_line_and_changes_nothing(name, folder, tmp_path, monkeypatch, capsys):
    case, fragment = CASES[name]
    before = snapshot(folder)
    code = call(monkeypatch, *command(case, folder, tmp_path))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert code == 2
    assert len(lines) == 1
    assert fragment in lines[0]
    assert snapshot(folder) == before


def test_what_a_library_answers_is_one_line(folder, tmp_path, monkeypatch, capsys):
    """Other libraries' answers: exit code 1, and how to see more."""
    case = ('train', 'model.neck.type=NoSuch')
    assert call(monkeypatch, *command(case, folder, tmp_path)) == 1
    lines = capsys.readouterr().err.splitlines()
    found = [line for line in lines if line.startswith('error: KeyError')]
    assert len(found) == 1
    assert 'NoSuch' in found[0]
    assert 'MOBILEONE_EXT_TRACEBACK=1' in found[0]


@pytest.mark.parametrize('base', ['nowhere.py', 'mmpretrain::resnet/nowhere.py'])
def test_a_base_that_is_missing_is_named(base, folder, tmp_path, monkeypatch, capsys):
    (tmp_path / 'mine.py').write_text(f'_base_ = {base!r}')
    assert call(monkeypatch, 'train.py', tmp_path / 'mine.py') == 2
    said = capsys.readouterr().err
    assert f'{tmp_path / "mine.py"}: its _base_ ' in said
    assert 'nowhere.py' in said
    assert 'does not exist' in said


def test_a_head_of_other_channels_is_told_them(folder, tmp_path, monkeypatch, capsys):
    case = ('train', 'model.head.in_channels=64')
    assert call(monkeypatch, *command(case, folder, tmp_path)) == 1
    assert 'made for 64 channels and gets 128; set model.head.in_channels=128' in (
        capsys.readouterr().err
    )


def test_data_of_the_demo_is_made_by_the_demo(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert call(monkeypatch, 'train.py', CONFIG, '--work-dir', tmp_path / 'work') == 2
    assert 'data/digits/train' in (said := capsys.readouterr().err)
    assert 'mobileone-ext demo makes' in said


@pytest.mark.parametrize('name', ['none.py', 'broken.py'])
def test_unusable_config_is_one_line(name, folder, monkeypatch, capsys):
    code = call(monkeypatch, 'train.py', folder / name)
    assert code == 2
    assert name in capsys.readouterr().err


def test_the_same_call_without_the_mistake_works(folder, tmp_path, monkeypatch):
    """The table's calls fail for their reason, not for another one."""
    for case in (score('good.pth'), score('good.mlpackage')):
        assert call(monkeypatch, *command(case, folder, tmp_path)) == 0
