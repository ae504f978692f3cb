"""``.aimodel`` files: made, compared, scored and shown as Core ML's are."""

import json
import shutil

import pytest
import torch
from coreai_kit import needs_core_ai
from export_kit import build, files, oracle, photos, relative, rgb, save, snapshot, write_config

from mmpretrain_mobileone_ext.coreai import extra
from mmpretrain_mobileone_ext.coreml.classifier import CoreMLClassifier
from mmpretrain_mobileone_ext.coreml.convert import INPUT, PROBABILITIES
from mmpretrain_mobileone_ext.coreml.formats import format_of
from mmpretrain_mobileone_ext.errors import ExportError, ParityError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.models import switch_to_deploy


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp('case')
    model, data = build(), photos(folder / 'data', 2)
    config = write_config(folder / 'c.py', data)
    return model, config, save(model, folder / 'c.pth'), [rgb(p) for p in files(data)]


@needs_core_ai
@pytest.mark.parametrize(
    ('precision', 'bound'), [pytest.param('fp32', 1e-6, marks=pytest.mark.slow), ('fp16', 5e-3)]
)
def test_it_is_exported_verified_and_reported(case, tmp_path, precision, bound):
    model, config, checkpoint, images = case
    out = tmp_path / 'm.aimodel'
    options = ExportOptions(out, precision=precision, report=tmp_path / 'page', author='Ada')
    rows = dict(run_export(config, checkpoint, options).rows())
    assert rows['format'] == 'Core AI, iOS27 or later'
    assert rows['input'] == 'image, 32 x 32, tensor, 3 channels'
    assert rows['operations'].endswith('6 conv')
    pixels = torch.stack([torch.from_numpy(i).permute(2, 0, 1) for i in images]).float()
    loaded = format_of(out).load(out)
    found = loaded.predict_batch({INPUT: pixels})[PROBABILITIES]
    assert relative(found, oracle(model, images)) < bound
    assert loaded.classes == ('ant', 'bee', 'cat')
    assert loaded.program.metadata['author'] == 'Ada'
    parity = loaded.program.metadata['parity']
    assert json.loads(parity)['arithmetic'] == "Apple's interpreter"
    (form,) = (
        f
        for f in json.loads((tmp_path / 'page/report.json').read_text())['forms']
        if f['file'] == 'm.aimodel'
    )
    assert form['form'] == f'Core AI {precision}'
    assert form['agreement'] == 100
    classifier = CoreMLClassifier(str(out), data_preprocessor=dict(to_rgb=True))
    assert relative(classifier(pixels), found) < 1e-6


@needs_core_ai
def test_a_swift_package_comes_with_it(case, tmp_path):
    model, config, checkpoint, images = case
    options = ExportOptions(tmp_path / 'm.aimodel', precision='fp32', swift=tmp_path / 'Ants')
    rows = dict(run_export(config, checkpoint, options).rows())
    assert rows['Swift package'] == f'{tmp_path / "Ants"}: import Ants'
    inside = tmp_path / 'Ants/Sources/Ants/Model/m.aimodel'
    assert snapshot(inside) == snapshot(tmp_path / 'm.aimodel')
    golden = tmp_path / 'Ants/Tests/AntsTests/Golden'
    cases = json.loads((golden / 'golden.json').read_text())['cases']
    raw = [(golden / c['pixels']).read_bytes() for c in cases]
    shown = [images[i] for i in range(len(images)) if images[i].tobytes() in raw]
    assert len(shown) == len(cases)
    found = torch.tensor([c['probabilities'] for c in cases])
    order = [raw.index(image.tobytes()) for image in shown]
    assert relative(found[order], oracle(model, shown)) < 1e-6


@needs_core_ai
def test_a_file_that_predicts_otherwise_gets_no_name(case, tmp_path, monkeypatch):
    def spoilt(net):
        net = switch_to_deploy(net, inplace=False)
        with torch.no_grad():
            next(net.parameters()).mul_(1.1)
        return net

    monkeypatch.setattr('mmpretrain_mobileone_ext.coreai.convert._as_convolutions', spoilt)
    with pytest.raises(ParityError, match='relative error'):
        run_export(case[1], case[2], ExportOptions(tmp_path / 'm.aimodel'))
    assert not list(tmp_path.iterdir())


@needs_core_ai
def test_operations_beyond_fp16_stay_in_fp32(tmp_path):
    model = build()
    with torch.no_grad():
        # What one unit makes 3e5 times larger, the next one makes as much smaller.
        blocks = switch_to_deploy(model.backbone).stage1
        first, second = (block.branch_reparam for block in blocks)
        first.weight.mul_(3e5), first.bias.mul_(3e5), second.weight.div_(3e5)
    options = dict(classes=['ant', 'bee', 'cat'], image_size=[32], verify_data='none')
    out = tmp_path / 'm.aimodel'
    with pytest.raises(ParityError, match='nothing is written'):
        run_export(model, None, ExportOptions(out, **options))
    result = run_export(model, None, ExportOptions(out, precision='auto', **options))
    # By their modules and in the order of execution, as in a .mlpackage.
    assert [(op.name, op.type) for op in result.kept] == [
        ('stage1_0', 'convolution'),
        ('stage1_0_act', 'relu'),
        ('stage1_1', 'convolution'),
    ]
    assert any('fp16 ends at 65504' in op.why for op in result.kept)


@needs_core_ai
def test_force_replaces_an_aimodel_and_no_other_folder(case, tmp_path):
    out = tmp_path / 'm.aimodel'
    out.mkdir()
    (out / 'thesis.txt').write_text('x')
    with pytest.raises(ExportError, match=r'is no \.aimodel'):
        run_export(case[1], case[2], ExportOptions(out, force=True))
    assert [file.name for file in out.iterdir()] == ['thesis.txt']
    shutil.rmtree(out)
    first = snapshot(run_export(case[1], case[2], ExportOptions(out)).path)
    options = ExportOptions(out, force=True, precision='fp32')
    assert snapshot(run_export(case[1], case[2], options).path) != first


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(input='image'), 'input.*allowed for .aimodel: tensor'),
        (dict(extra_sizes=[48]), 'extra_sizes: not for .aimodel'),
        (dict(batch_sizes=[4]), 'batch_sizes: not for .aimodel'),
        (dict(compress='w8a8'), 'compressed in its weights only'),
    ],
)
def test_what_it_cannot_be_is_said_before_any_work(tmp_path, options, words):
    with pytest.raises(ExportError, match=words):
        ExportOptions(tmp_path / 'm.aimodel', **options)


def test_without_the_extra_a_line_names_it(case, tmp_path, monkeypatch):
    monkeypatch.setattr(extra, 'find_spec', lambda name: None)
    out = tmp_path / 'm.aimodel'
    with pytest.raises(ExportError, match=r'coreai-torch is missing.*\[coreai\]'):
        run_export(case[1], case[2], ExportOptions(out))
    assert not out.exists()
