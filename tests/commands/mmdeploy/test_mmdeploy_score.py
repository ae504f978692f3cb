"""Files as mmdeploy makes them, run and described without mmdeploy."""

import json

import numpy as np
import pytest
import torch
from export_kit import (
    CLASSES,
    MEAN,
    STD,
    build,
    files,
    model_cfg,
    oracle,
    relative,
    rgb,
    save,
    switched,
)
from mmdeploy_kit import CORE_ML_32, lab

from mmpretrain_mobileone_ext.commands.mmdeploy import deploy
from mmpretrain_mobileone_ext.commands.mmdeploy.compare import (
    ExporterRow,
    _divided,
    comparison_table,
    write_comparison,
)
from mmpretrain_mobileone_ext.commands.mmdeploy.convert import load_network, mmdeploy_model_config
from mmpretrain_mobileone_ext.commands.mmdeploy.deploy import app_work, describe
from mmpretrain_mobileone_ext.commands.mmdeploy.deploy_config import (
    DeployOptions,
    read_deploy_config,
)
from mmpretrain_mobileone_ext.commands.mmdeploy.score import open_file, score
from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.graph import takes_normalized
from mmpretrain_mobileone_ext.errors import CheckpointError, ExportError, ParityError
from mmpretrain_mobileone_ext.utils.text import Steps


class Softmax(torch.nn.Module):
    """The graph that mmdeploy traces: normalized images to probabilities."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return self.net(images, mode='tensor').softmax(1)


def convert_as_mmdeploy(model, path):
    """An fp32 ML program with inputs and outputs of mmdeploy's names."""
    graph = Softmax(switched(model)).eval()
    with quiet.conversion() as ct, torch.no_grad():
        traced = torch.jit.trace(graph, torch.zeros(1, 3, 32, 32))
        ct.convert(
            traced,
            inputs=[ct.TensorType('input', (1, 3, 32, 32), np.float32)],
            outputs=[ct.TensorType('output')],
            compute_precision=ct.precision.FLOAT32,
            minimum_deployment_target=ct.target.iOS16,
            skip_model_load=True,
        ).save(str(path))
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    root = lab(tmp_path_factory.mktemp('score'))
    save(switched(build()), root / 'folded.pth')
    convert_as_mmdeploy(build(), root / 'm.mlpackage')
    return root


def network(folder, checkpoint='good.pth', size=32, **options):
    deploy = read_deploy_config(CORE_ML_32)
    request = DeployOptions(folder / 'out.mlpackage', size, **options)
    return load_network(deploy, folder / 'good.py', folder / checkpoint, request)


def scored(folder, model=None):
    found = network(folder, verify_data='test')
    opened = open_file(folder / 'm.mlpackage', found.deploy)
    return found, opened, score(opened, model or found.source.model, found.images, 'fp32')


def test_a_file_is_given_normalized_images(folder):
    _, opened, found = scored(folder)
    assert found.parity.relative < 1e-5
    assert found.parity.num_samples == 6
    assert found.images == 'all 6 images of the test split'
    assert opened.input == 'fp32 tensor (1, 3, 32, 32)'
    # What it is given, written out; pixels instead are far off.
    pixels = [rgb(path) for path in files(folder / 'data')]
    wanted = oracle(switched(build()), pixels)
    batch = torch.from_numpy(np.stack(pixels)).float().permute(0, 3, 1, 2)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    assert relative(opened.run((batch - mean) / std), wanted) < 1e-5
    assert relative(opened.run(batch), wanted) > 0.05
    labels = torch.arange(3).repeat_interleave(2)
    top1 = float((wanted.argmax(1) == labels).double().mean())
    assert found.top1_reference == found.top1_candidate == top1


def test_a_file_of_other_weights_does_not_pass(folder):
    other = network(folder).source.model
    with torch.no_grad():
        other.head.fc.weight[0] += 0.3
    found = scored(folder, other)[2]
    with pytest.raises(ParityError, match=r'beyond fp16 in conv_3\).*fp32'):
        found.require({'conv_3': 1})


def test_the_file_says_what_is_left_to_the_app(folder, tmp_path):
    made = convert_as_mmdeploy(build(), tmp_path / 'd.mlpackage')
    found, _, result = scored(folder)
    describe(made, found, result, '1.3.1')
    program = load_program(made).program
    assert takes_normalized(program)
    said = program.metadata
    assert json.loads(said['mean']) == list(MEAN)
    assert json.loads(said['std']) == list(STD)
    assert json.loads(said['classes']) == list(CLASSES)
    assert json.loads(said['versions'])['mmdeploy'] == '1.3.1'
    assert said['channel_order'] == 'RGB'
    assert '(pixel - mean) / std' in said['preprocessing']
    assert app_work(found) == (
        'resize, planar RGB float tensor, (pixel - mean) / std, argmax, label'
    )


def test_mmdeploy_is_told_the_form_of_the_checkpoint(folder):
    branches = mmdeploy_model_config(network(folder))
    folded = mmdeploy_model_config(network(folder, 'folded.pth'))
    assert 'deploy' not in branches.model.backbone
    assert folded.model.backbone.deploy is True
    assert folded.default_scope == 'mmpretrain'
    assert folded.test_pipeline == [dict(type='PackInputs')]


def test_images_of_another_size_need_a_word(folder):
    with pytest.raises(
        ExportError,
        match=r'takes \(3, 224, 224\).*'
        r'are \(3, 32, 32\); give --image-size',
    ):
        network(folder, size=None)
    # Without data the pipeline's size counts.
    with pytest.raises(ExportError, match=r'are \(3, 32, 32\)'):
        network(folder, size=None, verify_data='none')
    found = network(folder, size=(40, 48), verify_data='none')
    assert found.deploy.size == found.preprocessing.size == (40, 48)
    assert found.images.origin == '16 images of seeded noise'


def test_another_network_is_refused(folder):
    head = dict(model_cfg()['head'], num_classes=5)
    save(build(model_cfg(head=head)), folder / 'five.pth')
    with pytest.raises(CheckpointError, match='does not fit'):
        network(folder, 'five.pth')


def test_operations_are_counted_inside_and_around_the_network():
    types = ['add', 'cast', 'conv', 'relu', 'cast', 'softmax', 'cast', 'classify']
    assert _divided(types) == (
        ['conv', 'relu', 'cast', 'softmax'],
        ['add', 'cast', 'cast', 'classify'],
    )


def test_the_comparison_is_shown_and_written(tmp_path):
    row = ExporterRow(
        'ours',
        'fp16',
        'image',
        'label',
        'resize',
        4,
        2,
        {'add': 1, 'classify': 1},
        2048,
        None,
        100.0,
        1e-4,
        '5 images',
        1.25,
    )
    table = comparison_table([row, row])
    assert len(table.columns) == 3
    cells = list(table.columns[1].cells)
    assert '4 = 2 network + 1 add + 1 classify' in cells
    assert 'no labels' in cells
    written = json.loads(write_comparison([row], tmp_path / 'c.json').read_text())
    assert written[0]['size_bytes'] == 2048
    assert written[0]['top1'] is None
    with pytest.raises(ExportError, match='cannot be written'):
        write_comparison([row], tmp_path / 'no' / 'c.json')


def test_the_whole_way_with_a_stand_in_for_mmdeploy(tmp_path, monkeypatch):
    lab(tmp_path)

    def stand_in(network, checkpoint, folder):
        convert_as_mmdeploy(build(), folder / 'model.mlpackage')
        return folder / 'model.mlpackage'

    monkeypatch.setattr(deploy, 'convert', stand_in)
    monkeypatch.setattr(deploy, 'require_mmdeploy', lambda backend: None)
    monkeypatch.setattr(deploy.metadata, 'version', lambda package: '1.3.1')
    out = tmp_path / 'm.mlpackage'
    result = deploy.run_deploy(
        read_deploy_config(CORE_ML_32),
        tmp_path / 'good.py',
        tmp_path / 'good.pth',
        DeployOptions(out, 32, 'test'),
        None,
        Steps(False),
    )
    assert result.scored.parity.relative < 1e-5
    assert result.size_bytes == sum(p.stat().st_size for p in out.rglob('*') if p.is_file())
    assert load_program(out).program.metadata['config'] == 'good.py'
    said = dict(result.rows())
    assert said['made by'].startswith('mmdeploy 1.3.1')
    assert said['file'] == str(out)
