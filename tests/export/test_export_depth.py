"""Exports with precision auto, compression, sizes, features and extras."""

import copy
import json
import os
import shutil

import pytest
import torch
from export_kit import (
    CLASSES,
    HEAD,
    MEAN,
    STD,
    TINY,
    build,
    files,
    model_cfg,
    oracle,
    photos,
    relative,
    rgb,
    save,
    switched,
    write_config,
)

from mmpretrain_mobileone_ext import exporter
from mmpretrain_mobileone_ext.coreml import export_coreml, load_program
from mmpretrain_mobileone_ext.coreml.formats import CoreML
from mmpretrain_mobileone_ext.errors import ExportError, ParityError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export

#: The whole way for each option; `test_export.py` has the shortest one.
pytestmark = pytest.mark.slow


@pytest.fixture(scope='module')
def case(tmp_path_factory):
    """Config, checkpoint, network and images of a test split."""
    folder = tmp_path_factory.mktemp('case')
    data = photos(folder / 'data', 4)
    # Wide enough for weights that are worth compressing.
    cfg = model_cfg(
        backbone=dict(TINY, arch=dict(num_blocks=(1, 1), width_factor=1.0)),
        head=dict(HEAD, in_channels=128),
    )
    model = build(cfg)
    return (
        write_config(folder / 'c.py', data, cfg),
        save(model, folder / 'c.pth'),
        model,
        [rgb(p) for p in files(data)],
    )


def exported(case, tmp_path, name='m.mlpackage', **options):
    """The result of an export of the case."""
    return run_export(case[0], case[1], ExportOptions(out=tmp_path / name, **options))


def overflowing():
    """A folded network, one layer beyond fp16 and the next one back."""
    model = switched(build())
    first, second = (model.backbone.stage0, model.backbone.stage1[0])
    with torch.no_grad():
        first.branch_reparam.weight *= 1e5
        first.branch_reparam.bias *= 1e5
        second.branch_reparam.weight /= 1e5
    return model


def test_precision_auto_keeps_few_operations(tmp_path):
    model = overflowing()
    options = dict(image_size=32, classes=CLASSES)
    with pytest.raises(ParityError, match=r'beyond fp16 in .*precision auto'):
        export_coreml(model, out=tmp_path / 'm.mlpackage', **options)
    result = run_export(
        model, None, ExportOptions(out=tmp_path / 'm.mlpackage', precision='auto', **options)
    )
    assert 1 <= len(result.kept) <= 3
    assert all('65504' in op.why for op in result.kept)
    assert not result.verification.overflows
    told = load_program(result.path).program.metadata['in_fp32']
    assert [op['name'] for op in json.loads(told)] == [op.name for op in result.kept]


def test_precision_auto_keeps_nothing_where_fp16_is_enough(case, tmp_path):
    result = exported(case, tmp_path, precision='auto')
    assert result.kept == ()
    assert result.verification.tolerance == 'export-fp16'


@pytest.mark.parametrize('name', ['m.mlpackage', 'm.mlmodel'])
def test_compressed_file_is_smaller_and_predicts(case, tmp_path, name):
    result = exported(case, tmp_path, name, compress='int8')
    assert result.size_bytes < result.plain_bytes
    assert os.listdir(tmp_path) == [name]
    images = case[3]
    wanted = oracle(case[2], images)
    pixels = torch.from_numpy(rgb_batch(images))
    found = load_program(result.path).predict_batch({'image': pixels})
    error = relative(found['classLabel_probs'], wanted)
    assert 0 < error < 0.05


def rgb_batch(images):
    """(N, 3, H, W) float32 in RGB order."""
    import numpy as np

    return np.stack(images).transpose(0, 3, 1, 2).astype('float32')


def test_compression_beyond_its_bound_writes_nothing(case, tmp_path, monkeypatch):
    other = copy.deepcopy(case[2])
    with torch.no_grad():
        other.head.fc.weight.neg_()
        other.head.fc.bias.neg_()
    (tmp_path / 'other').mkdir()
    wrong = export_coreml(
        case[0], save(other, tmp_path / 'other/o.pth'), tmp_path / 'other/m.mlpackage'
    )
    monkeypatch.setattr(
        CoreML, 'compress', lambda self, source, scheme, out, *_: shutil.copytree(wrong, out)
    )
    with pytest.raises(ParityError, match=r'int8: top-1 drops by'):
        exported(case, tmp_path, compress='int8', verify_data='none')
    assert os.listdir(tmp_path) == ['other']


def test_compress_auto_is_at_most_as_large_as_int8(case, tmp_path):
    auto = exported(case, tmp_path, 'a.mlpackage', compress='auto', max_drop=0)
    fixed = [c for c in auto.compression.candidates if c.kind == 'fixed' and c.fits]
    assert fixed
    assert auto.size_bytes < auto.plain_bytes
    best = min(c.size_bytes for c in fixed)
    chosen = [c for c in auto.compression.candidates if c.path]
    assert len(chosen) == 1
    assert chosen[0].size_bytes <= best


@pytest.mark.parametrize('name', ['m.mlpackage', 'm.mlmodel'])
def test_sizes_and_batches(case, tmp_path, name):
    result = exported(
        case,
        tmp_path,
        name,
        input='tensor',
        extra_sizes=('48x32',),
        batch_sizes=(1, 2),
        precision='fp32',
    )
    loaded = load_program(result.path)
    for height in (32, 48):
        pixels = 255 * torch.rand(2, 3, height, 32)
        wanted = oracle(case[2], list(pixels.permute(0, 2, 3, 1).numpy()))
        found = loaded.predict_batch({'image': pixels}, chunk_size=2)
        assert relative(found['classLabel_probs'], wanted) < 1e-5


def test_a_size_that_predicts_otherwise_writes_nothing(case, tmp_path, monkeypatch):
    def off(loaded, network, *args):
        return compare_at(loaded, lambda x: {k: v.flip(1) for k, v in network(x).items()}, *args)

    compare_at = exporter.compare_at
    monkeypatch.setattr(exporter, 'compare_at', off)
    with pytest.raises(ParityError, match=r'at \(1, 3, 48, 32\)'):
        exported(case, tmp_path, extra_sizes=[(48, 32)])
    assert os.listdir(tmp_path) == []


def test_features(tmp_path):
    data = photos(tmp_path / 'data', 1)
    cfg = model_cfg(backbone=dict(TINY, out_indices=(0, 1)))
    model = build(cfg)
    config = write_config(tmp_path / 'c.py', data, cfg)
    result = run_export(
        config,
        save(model, tmp_path / 'c.pth'),
        ExportOptions(out=tmp_path / 'm.mlpackage', outputs='features', precision='fp32'),
    )
    image = rgb(files(data)[0])
    x = torch.from_numpy(image).double().permute(2, 0, 1)[None]
    shift, scale = (torch.tensor(v).double().view(1, -1, 1, 1) for v in (MEAN, STD))
    wanted = model.double().backbone((x - shift) / scale)
    found = load_program(result.path).predict({'image': image})
    assert sorted(found) == ['feature_0', 'feature_1']
    for index, value in enumerate(wanted):
        assert relative(found[f'feature_{index}'], value.detach()) < 1e-5


def test_swift_package_and_report_beside_the_file(case, tmp_path):
    result = exported(
        case, tmp_path, compress='int8', swift=tmp_path / 'Swift', report=tmp_path / 'page'
    )
    assert sorted(os.listdir(tmp_path)) == ['Swift', 'm.mlpackage', 'page']
    assert (tmp_path / 'Swift/Package.swift').is_file()
    assert dict(result.rows())['Swift package'] == f'{tmp_path / "Swift"}: import SwiftModel'
    told = json.loads((tmp_path / 'page/report.json').read_text())
    sizes = [form['size_bytes'] for form in told['forms'] if form['file'] == 'm.mlpackage']
    assert result.size_bytes in sizes
    assert len(told['forms']) >= 4
    chosen = next(f for f in told['forms'] if f['form'] == told['chosen'])
    assert chosen['size_bytes'] == result.size_bytes


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        (dict(compress='zip'), "compress is 'zip'"),
        (dict(compress='int8', deployment_target='iOS15'), 'iOS16'),
        (dict(max_drop=1.0), 'without compression'),
        (dict(compress='int8', max_drop=-1), '0 to 100'),
        (dict(precision='auto', out='m.mlmodel'), 'only a .mlpackage'),
        (dict(batch_sizes=(0,)), 'batch_sizes is'),
        (dict(batch_sizes=(1, 2)), 'tensor'),
        (dict(extra_sizes=('a',)), "extra_sizes is 'a'"),
        (dict(outputs='features', compress='int8'), 'needs classes'),
        (dict(outputs='features', swift='s'), 'needs classes'),
        (dict(swift='missing/s'), 'does not exist'),
        (dict(compute_units='CPU_AND_NE', deployment_target='iOS15'), 'iOS16'),
    ],
)
def test_mistakes_are_found_before_anything_is_written(case, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ExportError, match=words) as found:
        run_export(case[0], case[1], ExportOptions(**dict(dict(out='m.mlpackage'), **options)))
    assert '\n' not in str(found.value)
    assert os.listdir(tmp_path) == []
