"""Folded networks that coreai-opt quantizes as they train, from the run to the file."""

import pytest
import torch
from coreai_kit import needs_core_ai
from helpers import classifier_cfg
from mmengine.runner import Runner
from toy_runner import toy_cfg
from trained_kit import stored_integers

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.coreai import folded
from mmpretrain_mobileone_ext.errors import CheckpointError, ExportError, SpecError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.exporter import run_export
from mmpretrain_mobileone_ext.hooks import FoldedQuantizationHook

pytestmark = needs_core_ai
SLOW = pytest.mark.slow
FOLDED = classifier_cfg(deploy=True)
RESNET = dict(
    type='ImageClassifier',
    data_preprocessor=FOLDED['data_preprocessor'],
    backbone=dict(type='ResNet_CIFAR', depth=18, stem_channels=8, base_channels=8),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=64),
)


def cfg(work_dir, preset='w4', start=1, epochs=3, model=FOLDED, hooks=(), **options):
    own = dict(type='FoldedQuantizationHook', preset=preset, start=start)
    return toy_cfg(work_dir, own, *hooks, epochs=epochs, model=model, **options)


def train(*args, **options):
    runner = Runner.from_cfg(cfg(*args, **options))
    runner.train()
    return runner


def exported(run, checkpoint, out, **options):
    target = dict(deployment_target='iOS18', verify_data='none', image_size=32, input='tensor')
    return run_export(run, checkpoint, ExportOptions(out=out, **{**target, **options}))


@pytest.mark.parametrize(
    'model', [pytest.param(FOLDED, id='mobileone'), pytest.param(RESNET, id='resnet', marks=SLOW)]
)
@pytest.mark.parametrize(
    'preset', ['w4', 'w8a8', pytest.param('w8', marks=SLOW), pytest.param('w4a8', marks=SLOW)]
)
def test_a_run_becomes_a_file_with_integers(tmp_path, preset, model):
    run = train(tmp_path, preset, model=model)
    first, last = (load_checkpoint_file(tmp_path / f'epoch_{n}.pth') for n in (1, 3))
    assert folded.RECORD not in first
    assert last[folded.RECORD]['preset'] == preset
    result = exported(run.cfg, tmp_path / 'epoch_3.pth', tmp_path / 'a.mlpackage')
    stored = stored_integers(result.path)
    layers = [m for m in run.model.modules() if isinstance(m, (torch.nn.Conv2d, torch.nn.Linear))]
    assert len(stored) == len(layers)
    assert {kind for *_, kind in stored} == {'int4' if preset.startswith('w4') else 'int8'}
    assert ('quantize' in result.verification.operations) == preset.endswith('a8')
    assert any(f'trained the network as {preset}' in note for note in result.notes)


@pytest.mark.slow
def test_an_aimodel_is_made_of_it(tmp_path):
    run = train(tmp_path, 'w4a8')
    result = exported(run.cfg, tmp_path / 'epoch_3.pth', tmp_path / 'a.aimodel')
    assert result.verification.operations['quantize'] > 1


@pytest.mark.parametrize('preset', [pytest.param('w4', marks=SLOW), 'w8a8'])
def test_a_run_that_goes_on_equals_one_that_did(tmp_path, preset):
    train(tmp_path / 'whole', preset)
    train(tmp_path / 'cut', preset, epochs=2)
    train(tmp_path / 'cut', preset, resume=True, load_from=str(tmp_path / 'cut' / 'epoch_2.pth'))
    whole, cut = (
        load_checkpoint_file(tmp_path / name / 'epoch_3.pth')['state_dict']
        for name in ('whole', 'cut')
    )
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[key], cut[key]) for key in whole)


def test_before_its_start_nothing_is_changed(tmp_path):
    train(tmp_path / 'a', start=2, epochs=2)
    hookless = toy_cfg(tmp_path / 'b', epochs=2, model=FOLDED)
    Runner.from_cfg(hookless).train()
    ours, theirs = (
        load_checkpoint_file(tmp_path / name / 'epoch_2.pth')['state_dict'] for name in 'ab'
    )
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(model=classifier_cfg()), 'the network has branches; QuantizationHook trains'),
        (dict(hooks=[dict(type='EMAHook')]), 'EMAHook averages'),
    ],
)
def test_runs_that_it_is_not_for(tmp_path, options, message):
    with pytest.raises(SpecError, match=message):
        train(tmp_path, **options)


@pytest.mark.parametrize(
    ('arguments', 'message'), [(('w3',), "'w3'"), (('w8', -1), 'an integer >= 0')]
)
def test_other_arguments_are_refused(arguments, message):
    with pytest.raises(SpecError, match=message):
        FoldedQuantizationHook(*arguments)


def test_what_does_not_go_together_is_refused(tmp_path, monkeypatch):
    run = train(tmp_path, 'w4', epochs=2)
    checkpoint = tmp_path / 'epoch_2.pth'
    with pytest.raises(CheckpointError, match="trained with preset 'w4', and 'w8' is asked for"):
        train(tmp_path / 'b', 'w8', resume=True, load_from=str(checkpoint))
    with pytest.raises(ExportError, match="holds these integers; allowed: 'trained'"):
        exported(run.cfg, checkpoint, tmp_path / 'a.mlpackage', compress='int8')
    with pytest.raises(ExportError, match='a deployment target of iOS18 or later'):
        exported(run.cfg, checkpoint, tmp_path / 'a.mlpackage', deployment_target='iOS17')
    with pytest.raises(ExportError, match='coreai-opt makes no neuralnetwork'):
        exported(run.cfg, checkpoint, tmp_path / 'a.mlmodel')
    monkeypatch.setattr('mmpretrain_mobileone_ext.coreai.extra.find_spec', lambda name: None)
    with pytest.raises(ExportError, match=r'coreai-opt is missing; .*\[coreai\]'):
        train(tmp_path / 'c')


@pytest.mark.parametrize(
    'found',
    [
        3,
        {},
        dict(preset='w9'),
        dict(preset='w8'),
        *(
            dict(preset='w8', shape=shape)
            for shape in (
                [1, 3, 0, 9],
                [1, 3, 9],
                [1, 3, 9, 9.0],
                [1, 8192, 9, 9],
                [1, 3, 8192, 8192],
            )
        ),
    ],
)
def test_a_record_of_another_kind_is_refused(found):
    with pytest.raises(CheckpointError, match='it was not written here'):
        folded.Prepared.of({folded.RECORD: found})
