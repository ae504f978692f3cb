"""tools/deploy_mmdeploy.py: each mistake is one line, nothing changes.

mmdeploy is not needed: these are found before it is asked.
"""

import re
import subprocess
import sys

import pytest
from export_kit import snapshot
from mmdeploy_kit import CORE_ML, ONNX, call, errors, lab, without

from mmpretrain_mobileone_ext.commands.mmdeploy import convert

GOOD = f'{CORE_ML} good.py good.pth --out m.mlpackage'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = lab(tmp_path_factory.mktemp('deploy'), count=1)
    (root / 'old.onnx').write_bytes(b'old')
    (root / 'old.mlpackage').mkdir()
    return root


BAD = [
    ('no arguments', '', 'required: deploy_cfg, config, checkpoint, --out'),
    ('unknown option', f'{GOOD} --fast', 'unrecognized arguments: --fast'),
    ('no deploy config', 'no.py good.py good.pth --out m.onnx', r'no\.py: no such deploy config'),
    ('model config', 'good.py good.py good.pth --out m.onnx', r'codebase_config is \{\}'),
    (
        'suffix',
        f'{CORE_ML} good.py good.pth --out m.onnx',
        r"needs the suffix '\.mlpackage', not '\.onnx'",
    ),
    ('onnx suffix', f'{ONNX} good.py good.pth --out m.mlpackage', r"needs the suffix '\.onnx'"),
    ('exists', f'{ONNX} good.py good.pth --out old.onnx', 'exists; give --force'),
    ('no package', f'{CORE_ML} good.py good.pth --out old.mlpackage --force', r'is no \.mlpackage'),
    (
        'no folder',
        f'{CORE_ML} good.py good.pth --out no/m.mlpackage',
        'the folder no does not exist',
    ),
    ('size 0', f'{GOOD} --image-size 0', "image_size is '0'"),
    ('three sizes', f'{GOOD} --image-size 8 8 8', "image_size is '8 8 8'"),
    ('size text', f'{GOOD} --image-size big', "invalid int value: 'big'"),
    ('no images', f'{GOOD} --verify-data 0', "verify_data is '0'"),
    ('val', f'{GOOD} --verify-data val', "verify_data is 'val'"),
    ('json alone', f'{GOOD} --json a.json', 'give both'),
    ('json nowhere', f'{GOOD} --compare --json none/a.json', 'none/a.json'),
    (
        'compare onnx',
        f'{ONNX} good.py good.pth --out m.onnx --compare',
        'for onnxruntime; only Core ML files can be compared',
    ),
]


@pytest.mark.parametrize(('argv', 'message'), [b[1:] for b in BAD], ids=[b[0] for b in BAD])
def test_mistakes(folder, argv, message, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    before = snapshot(folder)
    code, out, err = call(argv.split(), monkeypatch, capsys)
    found = errors(err)
    assert (code, out, len(found)) == (2, '', 1), (out, err)
    assert found[0].startswith('error: ')
    assert re.search(message, found[0]), found[0]
    assert snapshot(folder) == before


@pytest.mark.parametrize('compare', [[], ['--compare']])
def test_without_mmdeploy_one_line_says_how_to_get_it(folder, compare, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    without(monkeypatch, 'mmdeploy')
    before = snapshot(folder)
    code, out, err = call([*GOOD.split(), *compare], monkeypatch, capsys)
    assert (code, out) == (2, '')
    assert err.startswith('error: mmdeploy is not installed; pip install ')
    assert err.count('\n') == 1
    assert snapshot(folder) == before


def test_ncnn_names_what_it_lacks(monkeypatch):
    without(monkeypatch, 'pnnx')
    # Any package stands in for mmdeploy, which is looked for first.
    real = convert.importlib.util.find_spec
    monkeypatch.setattr(
        convert.importlib.util,
        'find_spec',
        lambda name: real('torch') if name in ('mmdeploy', 'ncnn') else real(name),
    )
    with pytest.raises(convert.ExportError, match='ncnn needs pnnx; pip'):
        convert.require_mmdeploy('ncnn')


def test_an_mmdeploy_that_does_not_import_is_one_line(monkeypatch):
    monkeypatch.setattr(convert.importlib.util, 'find_spec', lambda name: object())

    def broken(name):
        raise TypeError('Descriptors cannot be\ncreated directly')

    monkeypatch.setattr(convert.importlib, 'import_module', broken)
    with pytest.raises(convert.ExportError) as caught:
        convert.require_mmdeploy('onnxruntime')
    assert 'Descriptors cannot be created directly' in str(caught.value)
    assert '\n' not in str(caught.value)


def test_importing_the_bridge_imports_no_mmdeploy():
    code = (
        'import sys; import mmpretrain_mobileone_ext.commands.mmdeploy; from '
        'mmpretrain_mobileone_ext.commands.mmdeploy.compare import compare_exporters; print([m for '
        'm in ("mmdeploy", "onnx", "coremltools") if m in sys.modules])'
    )
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == '[]'


def test_help_names_the_backends(monkeypatch, capsys):
    code, out, _ = call(['--help'], monkeypatch, capsys)
    assert code == 0
    assert 'Core ML, ONNX Runtime or ncnn' in ' '.join(out.split())
