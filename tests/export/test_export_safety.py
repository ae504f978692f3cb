"""A target is the old file or the whole new one, and only if it is right."""

import copy
import os

import pytest
import torch
from export_kit import CLASSES, build, photos, save, snapshot, switched, write_config

from mmpretrain_mobileone_ext import exporter as export
from mmpretrain_mobileone_ext.coreml import export_coreml, load_program
from mmpretrain_mobileone_ext.coreml.convert import convert_and_save
from mmpretrain_mobileone_ext.coreml.formats import CoreML
from mmpretrain_mobileone_ext.errors import ExportError, ParityError
from mmpretrain_mobileone_ext.export import job as export_job
from mmpretrain_mobileone_ext.export.verify import Judge

SUFFIXES = pytest.mark.parametrize(
    'suffix', ['.mlpackage', pytest.param('.mlmodel', marks=pytest.mark.slow)]
)


@pytest.fixture
def case(tmp_path):
    """Config and checkpoint, and an empty folder for what is exported."""
    config = write_config(tmp_path / 'c.py', photos(tmp_path / 'data', 1))
    checkpoint = save(build(), tmp_path / 'c.pth')
    (tmp_path / 'out').mkdir()
    return config, checkpoint, tmp_path / 'out'


@SUFFIXES
def test_refuses_to_overwrite_before_any_work(case, suffix, monkeypatch):
    config, checkpoint, folder = case
    out = export_coreml(config, checkpoint, folder / f'm{suffix}')
    before = snapshot(folder)
    monkeypatch.setattr(export_job, 'load_source', None)
    with pytest.raises(ExportError, match='exists; give --force'):
        export_coreml(config, checkpoint, out)
    assert snapshot(folder) == before


@SUFFIXES
def test_force_replaces(case, suffix):
    config, checkpoint, folder = case
    out = export_coreml(config, checkpoint, folder / f'm{suffix}')
    again = export_coreml(config, checkpoint, out, force=True, classes=('x', 'y', 'z'))
    assert again == out
    assert load_program(out).classes == ('x', 'y', 'z')
    assert os.listdir(folder) == [out.name]


def test_force_replaces_no_other_things(case):
    config, checkpoint, folder = case
    (folder / 'm.mlpackage').mkdir()
    (folder / 'm.mlpackage' / 'thesis.txt').write_text('x')
    before = snapshot(folder)
    with pytest.raises(ExportError, match=r'is no \.mlpackage'):
        export_coreml(config, checkpoint, folder / 'm.mlpackage', force=True)
    assert snapshot(folder) == before


@pytest.mark.slow
def test_force_replaces_a_link_not_its_target(case):
    config, checkpoint, folder = case
    real = export_coreml(config, checkpoint, folder / 'real.mlpackage')
    link = folder / 'link.mlpackage'
    link.symlink_to(real)
    before = snapshot(real)
    export_coreml(config, checkpoint, link, force=True, classes=('a', 'b', 'c'))
    assert snapshot(real) == before
    assert not link.is_symlink()
    assert load_program(link).classes == ('a', 'b', 'c')


def perturbed(prepared, *args):
    """Convert a network with four kernels twice as large."""
    net = copy.deepcopy(prepared.net)
    with torch.no_grad():
        next(m for m in net.modules() if isinstance(m, torch.nn.Conv2d)).weight[:4] *= 2
    object.__setattr__(prepared, 'net', net)
    return convert_and_save(prepared, *args)


@SUFFIXES
@pytest.mark.parametrize('precision', ['fp16', pytest.param('fp32', marks=pytest.mark.slow)])
def test_a_wrong_program_gets_no_name(case, suffix, precision, monkeypatch):
    config, checkpoint, folder = case
    out = export_coreml(config, checkpoint, folder / f'old{suffix}')
    before = snapshot(folder)
    monkeypatch.setattr(CoreML, 'convert', staticmethod(perturbed))
    for target, force in ((out, True), (folder / f'new{suffix}', False)):
        with pytest.raises(ParityError, match=r'relative error .* exceeds'):
            export_coreml(config, checkpoint, target, force=force, precision=precision)
    assert snapshot(folder) == before


def test_overflow_is_named(tmp_path):
    model = switched(build())
    with torch.no_grad():
        model.backbone.stage1[0].branch_reparam.weight *= 1e5
    named = r'values beyond fp16 in \w+ \(\d+\)'
    with pytest.raises(ParityError, match=named):
        export_coreml(model, out=tmp_path / 'm.mlpackage', image_size=32, classes=CLASSES)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ('owner', 'step'),
    [(CoreML, 'convert'), (Judge, 'score'), (export, 'write_description'), (export, 'install')],
)
@pytest.mark.parametrize(
    'error', [KeyboardInterrupt, pytest.param(OSError, marks=pytest.mark.slow)]
)
def test_nothing_stays_after_an_interruption(case, owner, step, error, monkeypatch):
    config, checkpoint, folder = case
    (folder / 'm.mlmodel').write_bytes(b'old')
    before = snapshot(folder)

    def fail(*args):
        raise error

    monkeypatch.setattr(owner, step, fail)
    with pytest.raises(error):
        export_coreml(config, checkpoint, folder / 'm.mlmodel', force=True)
    assert snapshot(folder) == before


def test_target_that_appears_meanwhile_is_kept(case, monkeypatch):
    config, checkpoint, folder = case
    out = folder / 'm.mlmodel'
    real = Judge.score

    def slow(*args):
        out.write_bytes(b'of someone else')
        return real(*args)

    monkeypatch.setattr(Judge, 'score', slow)
    with pytest.raises(ExportError, match='exists'):
        export_coreml(config, checkpoint, out)
    assert out.read_bytes() == b'of someone else'
    assert os.listdir(folder) == [out.name]


def test_a_split_labelled_in_another_way_is_no_test(case, tmp_path):
    """Its top-1 would be fine, and every name on the phone wrong."""
    config, checkpoint, folder = case
    wrong = CLASSES[::-1]
    with pytest.raises(ExportError, match='another order') as caught:
        export_coreml(
            config,
            save(build(), tmp_path / 'w.pth', wrong),
            folder / 'm.mlmodel',
            cfg_options={'test_dataloader.dataset.metainfo.classes': list(wrong)},
        )
    assert 'folders of the test split' in str(caught.value)
    (image,) = (tmp_path / 'data/test' / CLASSES[0]).iterdir()
    image.unlink()
    image.parent.rmdir()
    with pytest.raises(ExportError, match=f"'{CLASSES[0]}' missing"):
        export_coreml(config, checkpoint, folder / 'm.mlmodel')
    assert not any(folder.iterdir())
