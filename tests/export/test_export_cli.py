"""tools/export_coreml.py: every mistake is one line, and changes nothing."""

import re
import runpy
import subprocess
import sys

import pytest
import torch
from export_kit import HEAD, TINY, TOOL, build, model_cfg, photos, save, snapshot, write_config

NO_SIZE = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]
FLOATS = [
    dict(type='LoadImageFromFile', to_float32=True),
    dict(type='Resize', scale=32),
    dict(type='PackInputs'),
]
NORMALIZES = [
    dict(type='LoadImageFromFile'),
    dict(type='Resize', scale=32),
    dict(type='Normalize', mean=[0, 0, 0], std=[1, 1, 1]),
    dict(type='PackInputs'),
]


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """Everything that can be named on the command line."""
    root = tmp_path_factory.mktemp('cli')
    data = photos(root / 'data', 1)

    def config(name, model=None, pipeline=None, extra=''):
        write_config(root / f'{name}.py', data, model, pipeline, extra)

    config('good')
    config('nosize', pipeline=NO_SIZE)
    config('floats', pipeline=FLOATS)
    config('normalizes', pipeline=NORMALIZES)
    config('syntax', extra='this is no Python')
    config('nomodel', extra='del model')
    config('nodata', extra="test_dataloader['dataset']['data_root'] = 'no'")
    config('nosplit', extra='del test_dataloader')
    config('badtype', dict(model_cfg(), type='NoSuchClassifier'))
    config('nohead', dict(model_cfg(), head=None))
    config('padded', model_cfg(preprocessor=dict(pad_size_divisor=64)))
    config('multilabel', model_cfg(head=dict(HEAD, type='MultiLabelLinearClsHead')))
    four = model_cfg(dict(TINY, in_channels=4), preprocessor=dict(mean=[1.0] * 4, std=[2.0] * 4))
    config('four', four)
    save(build(), root / 'good.pth')
    save(build(), root / 'two.pth', classes=('a', 'b'))
    save(build(four), root / 'four.pth')
    save(build(model_cfg(head=dict(HEAD, num_classes=5))), root / 'otherhead.pth')
    backbone = {k: v for k, v in build().state_dict().items() if k.startswith('backbone.')}
    torch.save(dict(state_dict=backbone), root / 'nohead.pth')
    (root / 'garbage.pth').write_bytes(b'not a checkpoint')
    (root / 'folder.mlpackage').mkdir()
    (root / 'old.mlmodel').write_bytes(b'old')
    for name, text in (('dup', 'a\nb\na\n'), ('few', 'a\nb\n'), ('gap', 'a\n\nb\n'), ('none', '')):
        (root / f'{name}.txt').write_text(text)
    (root / 'latin.txt').write_bytes(b'\xe4\n\xf6\n\xfc\n')
    return root


def call(argv, monkeypatch, capsys):
    """Exit code, stdout and stderr of the tool, in this process."""
    monkeypatch.setattr(sys, 'argv', [str(TOOL), *argv])
    with pytest.raises(SystemExit) as end:
        runpy.run_path(str(TOOL), run_name='__main__')
    out, err = capsys.readouterr()
    return end.value.code, out, err


BAD = [
    ('no arguments', [], 'required: config, checkpoint, --out'),
    ('unknown option', 'good.py good.pth --out m.mlmodel --fast', 'unrecognized arguments: --fast'),
    ('no suffix', 'good.py good.pth --out m', "unknown suffix ''"),
    ('other suffix', 'good.py good.pth --out m.onnx', r'allowed: \.mlpackage'),
    ('no folder', 'good.py good.pth --out no/m.mlmodel', 'does not exist'),
    ('exists', 'good.py good.pth --out old.mlmodel', 'exists; give --force'),
    ('swapped', 'good.pth good.py --out old.mlmodel', 'good.pth is a checkpoint, but a config'),
    ('no package', 'good.py good.pth --out folder.mlpackage --force', r'is no \.mlpackage'),
    (
        'bf16',
        'good.py good.pth --out m.mlmodel --precision bf16',
        "precision is 'bf16'; allowed: fp16, fp32",
    ),
    (
        'target',
        'good.py good.pth --out m.mlmodel --deployment-target iOS9',
        "'iOS9'; allowed: iOS15, iOS16",
    ),
    ('units', 'good.py good.pth --out m.mlmodel --compute-units TPU', "'TPU'; allowed: ALL"),
    ('input', 'good.py good.pth --out m.mlmodel --input video', "'video'; allowed: image, tensor"),
    ('size 0', 'good.py good.pth --out m.mlmodel --image-size 0', "image_size is '0'"),
    ('size text', 'good.py good.pth --out m.mlmodel --image-size big', "image_size is 'big'"),
    ('three sizes', 'good.py good.pth --out m.mlmodel --image-size 8 8 8', "image_size is '8 8 8'"),
    ('no images', 'good.py good.pth --out m.mlmodel --verify-data 0', "verify_data is '0'"),
    ('-3 images', 'good.py good.pth --out m.mlmodel --verify-data=-3', "verify_data is '-3'"),
    ('val', 'good.py good.pth --out m.mlmodel --verify-data val', "verify_data is 'val'"),
    ('no config', 'no.py good.pth --out m.mlmodel', 'no such config file'),
    ('config is data', 'dup.txt good.pth --out m.mlmodel', 'not a readable config'),
    ('syntax', 'syntax.py good.pth --out m.mlmodel', 'not a readable config'),
    ('no model', 'nomodel.py good.pth --out m.mlmodel', 'the config has no model'),
    ('unknown type', 'badtype.py good.pth --out m.mlmodel', 'cannot be built .*NoSuchClassifier'),
    ('no head', 'nohead.py good.pth --out m.mlmodel', 'has no head'),
    ('multi-label', 'multilabel.py good.pth --out m.mlmodel', 'several labels an image'),
    ('padding', 'padded.py good.pth --out m.mlmodel', 'pad_size_divisor=64'),
    (
        'four channels',
        'four.py four.pth --out m.mlmodel --verify-data none',
        '4 channels, but an image has 1 or 3; give --input tensor',
    ),
    ('bad option', 'good.py good.pth --out m.mlmodel --cfg-options model.backbone.arch=s9', "'s9'"),
    ('no checkpoint', 'good.py no.pth --out m.mlmodel', 'no such checkpoint file'),
    ('garbage', 'good.py garbage.pth --out m.mlmodel', 'garbage.pth: '),
    ('other head', 'good.py otherhead.pth --out m.mlmodel', 'does not fit'),
    ('lost head', 'good.py nohead.pth --out m.mlmodel', 'does not fit.*head.fc'),
    ('Core ML file', 'good.py old.mlmodel --out m.mlmodel', 'is a Core ML file already'),
    ('data set', 'nodata.py good.pth --out m.mlmodel', 'cannot be read.*--verify-data none'),
    ('no split', 'nosplit.py good.pth --out m.mlmodel', 'no test_dataloader'),
    ('floats', 'floats.py good.pth --out m.mlmodel', 'uint8 pixels'),
    ('normalizes', 'normalizes.py good.pth --out m.mlmodel', 'has a Normalize step'),
    ('size unknown', 'nosize.py good.pth --out m.mlmodel --verify-data none', 'give --image-size'),
    (
        'classes missing',
        'good.py good.pth --out m.mlmodel --classes no.txt',
        'cannot read class labels',
    ),
    (
        'duplicates',
        'good.py good.pth --out m.mlmodel --classes dup.txt',
        "more than once, such as 'a'",
    ),
    (
        'too few',
        'good.py good.pth --out m.mlmodel --classes few.txt',
        r'2 classes \(few.txt\) do not fit the 3 outputs',
    ),
    ('empty line', 'good.py good.pth --out m.mlmodel --classes gap.txt', 'label 2 is'),
    ('empty file', 'good.py good.pth --out m.mlmodel --classes none.txt', 'is empty'),
    (
        'not UTF-8',
        'good.py good.pth --out m.mlmodel --classes latin.txt',
        'cannot read class labels',
    ),
    (
        'classes of checkpoint',
        'good.py two.pth --out m.mlmodel',
        r'2 classes \(checkpoint\) do not fit the 3 outputs',
    ),
]


@pytest.mark.parametrize(('argv', 'message'), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_mistakes(folder, argv, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    argv = argv.split() if isinstance(argv, str) else argv
    code, out, err = call(argv, monkeypatch, capsys)
    errors = [line for line in err.splitlines() if not re.fullmatch(r'\w+: \d+\.\d s', line)]
    assert (code, out, len(errors)) == (2, '', 1), (out, err)
    assert errors[0].startswith('error: ')
    assert re.search(message, errors[0]), errors[0]
    assert snapshot(folder) == before


def test_success_prints_a_table_and_the_path(folder, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(folder)
    target = tmp_path / 'm.mlpackage'
    code, out, err = call(
        [
            'good.py',
            'good.pth',
            '--out',
            str(target),
            '--verify-data',
            '2',
            '--image-size',
            '32',
            '--cfg-options',
            'model.data_preprocessor.to_rgb=False',
        ],
        monkeypatch,
        capsys,
    )
    assert code == 0
    assert out.splitlines()[-1] == str(target)
    assert '32 x 32, BGR' in out
    assert '2 of 3 images of the test split' in out
    assert [line.split(':')[0] for line in err.splitlines()] == [
        'load',
        'fold',
        'convert',
        'verify',
        'write',
    ]
    assert target.is_dir()


def process(argv, cwd):
    """The tool in a process of its own."""
    return subprocess.run(
        [sys.executable, str(TOOL), *argv], cwd=cwd, capture_output=True, text=True, check=False
    )


def test_mistake_in_a_process(folder):
    before = snapshot(folder)
    done = process(['good.py', 'no.pth', '--out', 'm.mlmodel'], folder)
    assert (done.returncode, done.stdout) == (2, '')
    assert done.stderr == 'error: no.pth: no such checkpoint file\n'
    assert snapshot(folder) == before


@pytest.mark.slow
def test_export_in_a_process(folder, tmp_path):
    target = tmp_path / 'm.mlmodel'
    done = process(['good.py', 'good.pth', '--out', str(target)], folder)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == str(target)
    assert re.fullmatch(r'(\w+: \d+\.\d s\n){5}', done.stderr)
    assert target.is_file()
