"""Whatever a wrong argument, file, disk or machine causes is one line."""

import errno
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from mmengine.config import Config
from mmengine.runner import save_checkpoint
from PIL import Image
from test_bad_inputs import call
from torch.utils.data import DataLoader

from mmpretrain_mobileone_ext.commands.cli import guarded
from mmpretrain_mobileone_ext.commands.console.launch import launch
from mmpretrain_mobileone_ext.commands.console.table import COMMANDS
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError

REPO = Path(__file__).resolve().parents[2]
CONFIG = REPO / 'configs/digits/mobileone-tiny_bs64_digits.py'
HINT = 'MOBILEONE_EXT_TRACEBACK=1'


def fails_with(error):
    def main():
        raise error

    return main


def answer(main, capsys):
    """Exit code and the one line of a tool that fails."""
    code = guarded(main)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    return code, line


def os_error(number, path=None):
    return OSError(number, os.strerror(number), path)


GPU_MEMORY = type('OutOfMemoryError', (RuntimeError,), {})
OUTSIDE = {
    'missing file': (os_error(errno.ENOENT, '/x/y.png'), 'x/y.png'),
    'a file as folder': (os_error(errno.EEXIST, '/x/y'), 'no folder'),
    'below a file': (os_error(errno.ENOTDIR, '/x/y'), '/x/y'),
    'a folder as file': (os_error(errno.EISDIR, '/x'), 'a file is needed'),
    'permission': (os_error(errno.EACCES, '/x/y'), 'may not'),
    'read-only disk': (os_error(errno.EROFS, '/x/y'), 'read-only'),
    'full disk': (os_error(errno.ENOSPC), 'the disk is full'),
    'quota': (os_error(errno.EDQUOT, '/x'), 'quota'),
    'input or output': (os_error(errno.EIO, '/x'), 'Input/output'),
    'no number': (OSError('no such stream'), 'no such stream'),
    'rename': (OSError(errno.EISDIR, 'x', '/from', None, '/to'), '/to'),
    's3': (ImportError('Please install petrel_client to enable PetrelBackend.'), 'download'),
    'not installed': (ModuleNotFoundError("No module named 'tables'", name='tables'), 'tables'),
}
LIKELY = {
    'torch.save on a full disk': (
        RuntimeError(
            '[enforce fail at inline_container.cc:858] . PytorchStreamWriter '
            'failed writing file data/3: file write failed'
        ),
        'disk',
    ),
    'torch.save at its end': (RuntimeError('unexpected pos 64 vs 0'), 'disk'),
    'more classes': (IndexError('Target 10 is out of bounds.'), 'num_classes'),
    'more classes, one-hot': (
        RuntimeError('Class values must be smaller than num_classes.'),
        'num_classes',
    ),
    'no lines': (ValueError('need at least one array to concatenate'), 'empty'),
    'no images': (RuntimeError('Found 0 files in subfolders of: x'), 'empty'),
    'memory': (MemoryError(), 'not enough memory'),
    "torch's memory": (
        RuntimeError(
            '[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: '
            "can't allocate memory"
        ),
        'not enough memory',
    ),
    'memory of a GPU': (GPU_MEMORY('CUDA'), 'not enough memory'),
    'depth': (RecursionError('maximum recursion depth exceeded'), 'nested'),
    'sizes': (RuntimeError('mat1 and mat2 shapes cannot be multiplied'), 'fit together'),
    'worker killed': (RuntimeError('DataLoader worker (pid(s) 7) exited unexpectedly'), 'memory'),
    'other config': (AttributeError("'ConfigDict' object has no attribute 'model'"), 'config'),
    'no GPU': (RuntimeError('Found no NVIDIA driver on your system'), 'GPU'),
    'no home': (RuntimeError('Could not determine home directory.'), 'HOME'),
    'zip': (zipfile.BadZipFile('File is not a zip file'), 'zip'),
    'yaml': (yaml.YAMLError('a\nb'), 'a b'),
    'json': (json.JSONDecodeError('Expecting value', '{', 1), 'Expecting'),
    'pickle': (pickle.UnpicklingError('invalid load key'), 'load key'),
    'end of file': (EOFError('Ran out of input'), 'Ran out'),
    'encoding': (UnicodeDecodeError('utf-8', b'\xe9', 0, 1, 'x'), 'utf-8'),
    'long': (ValueError('x' * 100000), '...'),
}
BUGS = (
    ZeroDivisionError('x'),
    NameError('x'),
    AttributeError('x'),
    RuntimeError('x'),
    IndexError('list index out of range'),
    NotImplementedError('x'),
    ImportError("cannot import name 'x'", name='mmpretrain_mobileone_ext.models.spec'),
)


@pytest.mark.parametrize('name', OUTSIDE)
def test_what_comes_from_outside(name, capsys):
    error, fragment = OUTSIDE[name]
    code, line = answer(fails_with(error), capsys)
    assert code == 2
    assert fragment in line


@pytest.mark.parametrize('name', LIKELY)
def test_what_usually_does(name, capsys):
    error, fragment = LIKELY[name]
    code, line = answer(fails_with(error), capsys)
    assert code == 1
    assert fragment in line
    assert HINT in line
    assert len(line) < 1000


@pytest.mark.parametrize('error', BUGS, ids=lambda e: type(e).__name__)
def test_a_bug_keeps_its_traceback(error):
    with pytest.raises(type(error)):
        guarded(fails_with(error))


@pytest.mark.parametrize('name', [*OUTSIDE, *LIKELY])
def test_tracebacks_on_request(name, monkeypatch):
    monkeypatch.setenv('MOBILEONE_EXT_TRACEBACK', '1')
    error, _ = {**OUTSIDE, **LIKELY}[name]
    with pytest.raises(type(error)):
        guarded(fails_with(error))


def test_own_errors_stay_one_line_on_request(monkeypatch, capsys):
    monkeypatch.setenv('MOBILEONE_EXT_TRACEBACK', '1')
    assert answer(fails_with(SpecError('why')), capsys) == (2, 'error: why')


@pytest.mark.parametrize(
    ('words', 'said'),
    [
        (['--work-dir', '/x/run'], '(given with --work-dir)'),
        (['--work-dir=/x/run'], '(given with --work-dir)'),
        (['--cfg-options', 'a=1', 'load_from=/x'], '(given with load_from)'),
        (['--out', '/x/runs'], ''),
        (['--out', '/x/run/file/more'], ''),
    ],
)
def test_the_argument_is_named(words, said, monkeypatch, capsys):
    monkeypatch.setattr(sys, 'argv', ['tool.py', *words])
    error = os_error(errno.ENOTDIR, '/x/run/file')
    _, line = answer(fails_with(error), capsys)
    assert ('given with' in line) == bool(said)
    assert said in line


def test_the_disk_is_full(capsys):
    """torch's own words, whatever they are in this version."""
    if not Path('/dev/full').exists():
        pytest.skip('no /dev/full')
    state = {'a': torch.zeros(1 << 20)}

    def to_path():
        torch.save(state, '/dev/full')

    def to_handle():
        with open('/dev/full', 'wb') as handle:
            torch.save(state, handle)

    def by_mmengine():
        save_checkpoint(state, '/dev/full')

    for main in (to_path, to_handle, by_mmengine):
        _, line = answer(main, capsys)
        assert 'disk' in line
        assert main is to_handle or '/dev/full: ' in line


class Samples(torch.utils.data.Dataset):
    """Every sample fails."""

    def __init__(self, error):
        self.error = error

    def __len__(self):
        return 1

    def __getitem__(self, index):
        raise self.error


@pytest.mark.parametrize(
    ('error', 'fragment'),
    [
        (AssertionError('failed to load image: /a/b.png'), '/a/b.png'),
        (FileNotFoundError(2, 'No such file', '/a/b.png'), '/a/b.png'),
        (KeyError('img'), 'img'),
        (IndexError('list index'), 'list index'),
        (ValueError('two\nlines'), 'two lines'),
    ],
    ids=repr,
)
def test_a_data_loader_worker_in_its_own_words(error, fragment, capsys):
    loader = DataLoader(Samples(error), num_workers=1)
    _, line = answer(lambda: list(loader), capsys)
    assert fragment in line
    assert 'Traceback' not in line
    assert 'fetch.py' not in line


def open_text():
    with Image.open(io.BytesIO(b'text')):
        pass


def shrink_nothing():
    import cv2

    cv2.resize(np.zeros((0, 0, 3), np.uint8), (3, 3))


@pytest.mark.parametrize('main', [open_text, shrink_nothing])
def test_what_is_no_image(main, capsys):
    code, line = answer(main, capsys)
    assert code == 2
    assert 'an image cannot be read' in line


# Configs


def zipped(path):
    torch.save({'state_dict': {}}, path)


def legacy(path):
    torch.save({'state_dict': {}}, path, _use_new_zipfile_serialization=False)


CONFIGS = {
    'zip.pth': (zipped, 'is a checkpoint'),
    'zip.py': (zipped, 'is a checkpoint'),
    'legacy.pth': (legacy, 'is a checkpoint'),
    'legacy.py': (legacy, 'is a checkpoint'),
    'a.safetensors': (lambda p: p.write_bytes(b'\x40' + bytes(7) + b'{"a":'), 'is a checkpoint'),
    'text.txt': (lambda p: p.write_text('x'), 'allowed: .py'),
    'bare': (lambda p: p.write_text('x'), 'allowed: .py'),
    'latin.py': (lambda p: p.write_bytes(b'# caf\xe9\na = 1\n'), 'not a readable config'),
    'cut.json': (lambda p: p.write_text('{"a": '), 'not a readable config'),
    'cut.yaml': (lambda p: p.write_text('a: [1,\n b: }'), 'not a readable config'),
    'cut.py': (lambda p: p.write_text('a = ('), 'not a readable config'),
    'name.py': (lambda p: p.write_text('a = b'), "name 'b'"),
    'zero.py': (lambda p: p.write_text('a = 1 / 0'), 'division'),
    'deep.py': (lambda p: p.write_text('a = ' + '[' * 500 + ']' * 500), 'not a readable config'),
    'base.py': (lambda p: p.write_text("_base_ = './none.py'"), 'none.py'),
    'folder.py': (lambda p: p.mkdir(), 'is a folder'),
    'missing.py': (lambda p: None, 'no such config'),
}


@pytest.mark.parametrize('name', CONFIGS)
def test_a_config_that_is_none(name, tmp_path, capsys):
    make, fragment = CONFIGS[name]
    make(tmp_path / name)
    code, line = answer(lambda: Config.fromfile(str(tmp_path / name)), capsys)
    assert code == 2
    assert str(tmp_path) in line
    assert fragment in line


# The tools


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A checkpoint, a file that is in the way, and data sets."""
    root = tmp_path_factory.mktemp('launch')
    from mmpretrain import get_model

    model = get_model(Config.fromfile(CONFIG))
    torch.save(dict(state_dict=model.state_dict()), root / 'good.pth')
    (root / 'afile').touch()
    for name, classes in (('ten', 10), ('eleven', 11), ('bad', 10)):
        for i in range(2 * classes):
            write_image(root / name, i % classes, i)
    write_image(root / 'bad', 3, 99).write_bytes(b'<html>')
    for i in range(10):
        (root / 'none/train' / str(i)).mkdir(parents=True)
    return root


def write_image(root, label, number):
    for split in ('train', 'test'):
        path = root / split / chr(ord('a') + label) / f'{number}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8, 3), number, np.uint8)).save(path)
    return path


@pytest.mark.parametrize(
    'words',
    [
        ['train.py', 'good.pth'],
        ['test.py', 'good.pth', CONFIG],
        ['switch_to_deploy.py', 'good.pth', CONFIG],
        ['recalibrate_bn.py', 'good.pth', 'good.pth', '--out', 'new.pth'],
        ['export_coreml.py', 'good.pth', 'good.pth', '--out', 'a.mlpackage'],
        ['deploy_mmdeploy.py', 'good.pth', CONFIG, 'good.pth', '--out', 'a.onnx'],
        ['finetune.py', 'ten', '--config', 'good.pth'],
        ['ablate.py', 'good.pth'],
        ['compare.py', 'good.pth'],
        ['report.py', '.', '--config', 'good.pth', '--checkpoint', 'good.pth'],
        ['convert_checkpoint.py', CONFIG, '--to', 'timm', '--out', 'new.pth'],
        ['recalibrate_bn.py', CONFIG, CONFIG, '--out', 'new.pth'],
    ],
    ids=lambda words: ' '.join(map(str, words[:2])).partition('/')[0],
)
def test_config_and_checkpoint_swapped(words, files, monkeypatch, capsys):
    monkeypatch.chdir(files)
    assert call(monkeypatch, *words) == 2
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert 'good.pth' in error or CONFIG.name in error
    assert 'config' in error or 'checkpoint' in error
    assert not (files / 'new.pth').exists()


def options(data, workers=0):
    splits = ('train', 'val', 'test')
    return [
        '--cfg-options',
        'train_cfg.max_epochs=1',
        *(f'{s}_dataloader.dataset.data_root={data}' for s in splits),
        *(f'{s}_dataloader.num_workers={workers}' for s in splits),
        *(f'{s}_dataloader.persistent_workers={workers > 0}' for s in splits),
    ]


TRAINED = {
    'work dir is a file': (['--work-dir', 'afile', *options('ten')], 'given with --work-dir'),
    'work dir below a file': (['--work-dir', 'afile/x', *options('ten')], 'given with --work-dir'),
    'empty data set': (['--work-dir', 'new', *options('none')], 'empty'),
    'missing data set': (['--work-dir', 'new', *options('nowhere')], 'nowhere'),
    'more classes': (['--work-dir', 'new', *options('eleven')], 'num_classes'),
    'bad image': (['--work-dir', 'new', *options('bad')], '99.png'),
    'bad image, worker': (['--work-dir', 'new', *options('bad', workers=1)], '99.png'),
    's3': (
        ['--work-dir', 'new', *options('ten'), 'load_from=s3://bucket/a.pth'],
        's3://bucket/a.pth',
    ),
}


@pytest.mark.parametrize(
    'name', [pytest.param(n, marks=pytest.mark.slow) if n == 's3' else n for n in TRAINED]
)
def test_training(name, files, monkeypatch, capsys):
    words, fragment = TRAINED[name]
    monkeypatch.chdir(files)
    assert call(monkeypatch, 'train.py', CONFIG, *words) in (1, 2)
    (error,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith('error: ')]
    assert fragment in error
    assert 'Original Traceback' not in error


@pytest.mark.parametrize('tool', sorted(p.name for p in (REPO / 'tools').glob('*.py')))
def test_help_does_nothing_else(tool, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert not call(monkeypatch, tool, '--help')
    assert 'usage: ' in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


# Installations


@pytest.fixture
def bare(tmp_path):
    """Everything that is installed here, but for what a test leaves out."""

    def make(*without):
        site = tmp_path / 'site'
        site.mkdir()
        for folder in map(Path, sys.path):
            if folder.name == 'site-packages':
                for entry in folder.iterdir():
                    link = site / entry.name
                    if (
                        entry.suffix != '.pth'
                        and not link.exists()
                        and not entry.name.startswith(without)
                    ):
                        link.symlink_to(entry)
        return site

    return make


def start(site, *words, **environment):
    env = {k: v for k, v in os.environ.items() if k != 'PYTHONPATH'}
    return subprocess.run(
        [sys.executable, '-S', *map(str, words)],
        capture_output=True,
        text=True,
        check=False,
        cwd=site,
        env={**env, 'PYTHONPATH': f'{site}{os.pathsep}{REPO}', **environment},
    )


def test_without_mmcv_every_tool_says_what_to_install(bare):
    site = bare('mmcv')
    done = start(site, REPO / 'tools/train.py', CONFIG)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith('error: ')
    assert "No module named 'mmcv'" in line
    assert "pip install 'mmcv-lite" in line
    asked = start(site, REPO / 'tools/train.py', CONFIG, MOBILEONE_EXT_TRACEBACK='1')
    assert 'Traceback' in asked.stderr
    assert "pip install 'mmcv-lite" in asked.stderr


def test_without_mmcv_a_program_can_catch_it(bare):
    done = start(
        bare('mmcv'),
        '-c',
        'try:\n import mmpretrain_mobileone_ext\n'
        'except ImportError as e: print(e)\nraise ValueError("own")',
    )
    assert "pip install 'mmcv-lite" in done.stdout
    assert done.stderr.startswith('Traceback')
    assert done.stderr.endswith('ValueError: own\n')


@pytest.mark.slow
def test_without_pkg_resources(bare):
    site = bare('pkg_resources', 'setuptools')
    info = site / 'setuptools-82.0.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text('Metadata-Version: 2.1\nName: setuptools\nVersion: 82.0\n')
    done = start(site, REPO / 'tools/train.py', CONFIG)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'pkg_resources' in line
    assert "pip install 'setuptools<81'" in line


@pytest.mark.slow
def test_whoever_reads_the_output_stops():
    """As ``compare.py | head`` does."""
    reader, writer = os.pipe()
    os.close(reader)
    program = (
        'import sys; from mmpretrain_mobileone_ext.commands.cli import '
        'guarded; sys.exit(guarded(lambda: print("x")))'
    )
    done = subprocess.run(
        [sys.executable, '-c', program],
        stdout=writer,
        text=True,
        stderr=subprocess.PIPE,
        check=False,
        cwd=REPO,
        env={**os.environ, 'PYTHONPATH': str(REPO)},
    )
    os.close(writer)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert 'stopped' in line


@pytest.mark.parametrize('stopped', [c.stopped for c in COMMANDS.values()])
def test_ctrl_c_says_how_to_go_on(stopped, capsys):
    assert guarded(fails_with(KeyboardInterrupt()), stopped) == 130
    assert capsys.readouterr().err == f'{stopped}\n'
    assert stopped.startswith('stopped')


def test_what_can_be_gone_on_with_says_so(monkeypatch, capsys):
    command = COMMANDS['finetune']
    monkeypatch.setattr(type(command), '__call__', fails_with_words(KeyboardInterrupt()))
    assert launch(['finetune', 'photos'], lambda: None) == 130
    assert '--resume' in capsys.readouterr().err
    for name in ('train', 'ablate', 'demo'):
        assert COMMANDS[name].stopped != 'stopped'


def fails_with_words(error):
    def call(command, words):
        raise error

    return call


@pytest.mark.parametrize(
    ('word', 'meant'),
    [
        ('--from', '; did you mean --from-scratch?'),
        ('--from-scrach', '; did you mean --from-scratch?'),
        ('--epoch=3', '; did you mean --epochs?'),
        ('--zzz', ';'),
    ],
)
def test_no_option_is_guessed_but_those_like_it_are_named(word, meant):
    with pytest.raises(MobileOneExtError) as caught:
        COMMANDS['finetune'].build_parser().parse_args(['photos', word])
    assert str(caught.value).startswith(f'unrecognized arguments: {word}{meant}')
