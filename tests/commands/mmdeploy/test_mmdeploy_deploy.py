"""mmdeploy's own API on this stack; skipped where mmdeploy is missing."""

import json
import signal
import subprocess
import sys

import numpy as np
import pytest
import torch
from export_kit import MEAN, STD, build, files, oracle, relative, rgb, save, snapshot, switched
from mmdeploy_kit import (
    CORE_ML,
    CORE_ML_32,
    NCNN,
    ONNX,
    ONNX_BATCH,
    TOOL,
    call,
    errors,
    lab,
    needs,
    without,
)
from mmengine.registry import DefaultScope
from mmpretrain.models.classifiers import ImageClassifier

from mmpretrain_mobileone_ext.commands.mmdeploy import convert, deploy
from mmpretrain_mobileone_ext.commands.mmdeploy.deploy_config import (
    DeployOptions,
    read_deploy_config,
)
from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program.graph import takes_normalized
from mmpretrain_mobileone_ext.errors import ExportError, ParityError
from mmpretrain_mobileone_ext.utils.text import Steps

pytestmark = needs('mmdeploy')


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = lab(tmp_path_factory.mktemp('deploy'))
    save(switched(build()), root / 'folded.pth')
    return root


def made(folder, out, config=CORE_ML, checkpoint='good.pth', **options):
    request = DeployOptions(out, **{**dict(image_size=32, verify_data='test'), **options})
    return deploy.run_deploy(
        read_deploy_config(config),
        folder / 'good.py',
        folder / checkpoint,
        request,
        None,
        Steps(False),
    )


def normalized(folder):
    """All images as the files take them, and the probabilities wanted."""
    pixels = [rgb(path) for path in files(folder / 'data')]
    batch = torch.from_numpy(np.stack(pixels)).float().permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    return (batch - mean) / std, oracle(switched(build()), pixels)


@pytest.mark.parametrize(
    ('config', 'checkpoint', 'bound'),
    [(CORE_ML, 'good.pth', 1e-2), (CORE_ML_32, 'folded.pth', 1e-5)],
)
def test_core_ml_from_branches_and_folded(folder, tmp_path, config, checkpoint, bound):
    out = tmp_path / 'm.mlpackage'
    forward = ImageClassifier.forward
    result = made(folder, out, config, checkpoint)
    images, wanted = normalized(folder)
    program = load_program(out)
    found = program.predict_batch({'input': images})['output']
    assert relative(found, wanted) < bound
    assert relative(found, wanted.flip(1)) > 0.05
    assert takes_normalized(program.program)
    assert result.opened.operations == program.program.count_operations()
    assert result.opened.operations['conv'] == 5  # folded: one a unit
    assert result.scored.parity.top1_agreement == 1
    assert list(tmp_path.iterdir()) == [out]
    # Nothing of mmdeploy's rewriting stays behind.
    assert ImageClassifier.forward is forward
    assert DefaultScope.get_current_instance().scope_name == 'mmpretrain'
    assert not DefaultScope.check_instance_created('BaseTask')


@pytest.mark.parametrize('config', [ONNX, ONNX_BATCH])
@pytest.mark.parametrize('runtime', ['ONNX Runtime', 'onnx reference'])
def test_onnx(folder, tmp_path, config, runtime, monkeypatch):
    if runtime == 'onnx reference':
        without(monkeypatch, 'onnxruntime')
    else:
        pytest.importorskip('onnxruntime')
    export = torch.onnx.export
    out = tmp_path / 'm.onnx'
    result = made(folder, out, config)
    assert torch.onnx.export is export
    assert result.opened.runtime == runtime
    assert result.scored.parity.relative < 1e-5
    assert result.opened.operations['Conv'] == 5
    assert ('batch' in result.opened.input) is (config is ONNX_BATCH)
    onnx = pytest.importorskip('onnx')
    said = {p.key: p.value for p in onnx.load(str(out)).metadata_props}
    assert json.loads(said['std']) == list(STD)
    images, wanted = normalized(folder)
    session = pytest.importorskip('onnx.reference').ReferenceEvaluator(str(out))
    first = session.run(None, {'input': images[:1].numpy()})[0]
    assert relative(first, wanted[:1]) < 1e-5


@needs('ncnn', 'pnnx')
def test_ncnn(folder, tmp_path):
    out = tmp_path / 'm.ncnn'
    result = made(folder, out, NCNN)
    assert result.scored.parity.relative < 1e-5
    assert sorted(p.name for p in out.iterdir()) == ['metadata.json', 'model.bin', 'model.param']
    assert json.loads((out / 'metadata.json').read_text())['mean'] == list(MEAN)
    assert result.opened.runtime == 'ncnn'


def test_a_file_that_differs_is_not_written(folder, tmp_path, monkeypatch):
    load = deploy.load_network

    def other(*args):
        network = load(*args)
        with torch.no_grad():
            network.source.model.head.fc.weight[0] += 0.3
        return network

    monkeypatch.setattr(deploy, 'load_network', other)
    with pytest.raises(ParityError, match='nothing is written'):
        made(folder, tmp_path / 'm.mlpackage')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('broken', [RuntimeError('first\nsecond'), SystemExit(1), AssertionError()])
def test_whatever_mmdeploy_raises_is_one_line(folder, tmp_path, monkeypatch, broken):
    def fail(*args):
        raise broken

    monkeypatch.setattr(convert, '_to_ir', fail)
    with pytest.raises(ExportError, match='mmdeploy cannot convert') as caught:
        made(folder, tmp_path / 'm.mlpackage')
    assert '\n' not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_the_tool_compares_and_replaces(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(folder)
    out, figures = tmp_path / 'm.mlpackage', tmp_path / 'c.json'
    argv = [
        CORE_ML,
        'good.py',
        'good.pth',
        '--out',
        out,
        '--image-size',
        '32',
        '--verify-data',
        '3',
    ]
    code, printed, err = call([*argv, '--compare', '--json', figures], monkeypatch, capsys)
    assert (code, errors(err)) == (0, [])
    assert printed.splitlines()[-1] == str(out)
    ours, theirs = json.loads(figures.read_text())
    assert ours['input'] == 'image, RGB, 32 x 32'
    assert theirs['input'] == 'normalized fp16 tensor (1, 3, 32, 32)'
    assert ours['network'] == theirs['network'] == theirs['operations']
    assert ours['around'] == dict(add=1, cast=2, classify=1)
    assert ours['agreement'] == theirs['agreement'] == 100
    assert ours['size_bytes'] == pytest.approx(theirs['size_bytes'], rel=0.3)
    before = snapshot(out)
    code, _, err = call(argv, monkeypatch, capsys)
    assert (code, len(errors(err))) == (2, 1)
    assert snapshot(out) == before
    save(build(seed=1), folder / 'other.pth')
    argv[2] = 'other.pth'
    assert call([*argv, '--force'], monkeypatch, capsys)[0] == 0
    assert snapshot(out) != before


def test_killed_it_leaves_no_file(folder, tmp_path):
    out = tmp_path / 'm.mlpackage'
    process = subprocess.Popen(
        [
            sys.executable,
            str(TOOL),
            str(CORE_ML),
            str(folder / 'good.py'),
            str(folder / 'good.pth'),
            '--out',
            str(out),
            '--image-size',
            '32',
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert process.stderr.readline().startswith('load: ')
    # Now mmdeploy converts in the hidden folder.
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert [p.name[:13] for p in tmp_path.iterdir()] == ['.m.mlpackage.']
    made(folder, out)
    assert list(tmp_path.iterdir()) == [out]
