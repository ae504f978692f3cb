"""Where packages are written, from what, and what is refused."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from export_kit import snapshot
from PIL import Image
from swift_models import LABELS, export

from mmpretrain_mobileone_ext.coreml import read_program
from mmpretrain_mobileone_ext.coreml.formats import MLProgram
from mmpretrain_mobileone_ext.coreml.swift import package, write_swift_package
from mmpretrain_mobileone_ext.errors import ExportError, ProgramError
from mmpretrain_mobileone_ext.utils import files

PIXELS = np.random.default_rng(1).integers(0, 256, (24, 32, 3), np.uint8)


def golden(out, library):
    folder = out / 'Tests' / f'{library}Tests' / 'Golden'
    return folder, json.loads((folder / 'golden.json').read_text())


def test_same_model_same_package(models, packages, tmp_path):
    out = write_swift_package(models['rgb'], tmp_path / 'my rgb')
    assert snapshot(out) == snapshot(packages['rgb'])
    assert [p.name for p in tmp_path.iterdir()] == ['my rgb']


def test_name_and_empty_folder(models, tmp_path):
    (tmp_path / 'out').mkdir()
    write_swift_package(models['gray'], tmp_path / 'out', name='Digits')
    assert (tmp_path / 'out/Sources/Digits/DigitsPredictor.swift').is_file()


def test_own_package_is_replaced_with_force_only(models, tmp_path):
    out = write_swift_package(models['gray'], tmp_path / 'out')
    (out / 'mine.txt').write_text('')
    with pytest.raises(ExportError, match='exists; give --force'):
        write_swift_package(models['gray'], out)
    assert (out / 'mine.txt').exists()
    write_swift_package(models['gray'], out, force=True)
    assert not (out / 'mine.txt').exists()
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_own_package_is_replaced_where_names_cannot_be_swapped(models, tmp_path, monkeypatch):
    out = write_swift_package(models['gray'], tmp_path / 'out')
    (out / 'mine.txt').write_text('')
    monkeypatch.setattr(files, 'exchange', lambda one, other: False)
    write_swift_package(models['gray'], out, force=True)
    assert not (out / 'mine.txt').exists()
    assert [p.name for p in tmp_path.iterdir()] == ['out']


@pytest.mark.parametrize('kind', ['file', 'folder', 'link'])
def test_other_things_are_never_replaced(models, tmp_path, kind):
    out = tmp_path / 'out'
    if kind == 'file':
        out.write_text('x')
    elif kind == 'folder':
        out.mkdir()
        (out / 'Package.swift').write_text('// by hand')
    else:
        write_swift_package(models['gray'], tmp_path / 'there')
        out.symlink_to(tmp_path / 'there')
    before = snapshot(tmp_path)
    with pytest.raises(ExportError, match='no generated Swift package'):
        write_swift_package(models['gray'], out, force=True)
    assert snapshot(tmp_path) == before


def test_missing_parent(models, tmp_path):
    with pytest.raises(ExportError, match='does not exist; make it first'):
        write_swift_package(models['gray'], tmp_path / 'a/b')


@pytest.mark.parametrize('where', ['write_golden', 'install_folder'])
def test_a_failure_leaves_the_old_package(models, tmp_path, monkeypatch, where):
    out = write_swift_package(models['gray'], tmp_path / 'out')
    before = snapshot(tmp_path)

    def fail(*args):
        raise OSError('disk full')

    if where == 'write_golden':
        monkeypatch.setattr(package, where, fail)
    else:
        monkeypatch.setattr(os, 'rename', fail)
        monkeypatch.setattr(files, 'exchange', lambda one, other: False)
    with pytest.raises(ExportError, match=r'cannot write.*disk full'):
        write_swift_package(models['gray'], out, force=True)
    monkeypatch.undo()
    assert snapshot(tmp_path) == before


def test_a_killed_process_leaves_nothing_under_the_name(models, tmp_path, monkeypatch):
    out = tmp_path / 'out'
    child = os.fork()
    if child == 0:
        monkeypatch.setattr(
            package, 'write_golden', lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        )
        write_swift_package(models['gray'], out)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == signal.SIGKILL
    assert [p.suffix for p in tmp_path.iterdir()] == ['.partial']
    write_swift_package(models['gray'], out)
    assert [p.name for p in tmp_path.iterdir()] == ['out']


def test_given_images_of_the_models_size(models, tmp_path):
    images = [PIXELS, Image.fromarray(PIXELS[::-1]), PIXELS[..., :1]]
    out = write_swift_package(models['rgb'], tmp_path / 'Out', images=images)
    folder, found = golden(out, 'Out')
    raw = [(folder / c['pixels']).read_bytes() for c in found['cases']]
    gray = np.ascontiguousarray(PIXELS[..., :1].repeat(3, 2))
    assert raw == [PIXELS.tobytes(), PIXELS[::-1].tobytes(), gray.tobytes()]
    assert len(found['photos']) == 2


def test_given_photos(models, tmp_path):
    photo = PIXELS.repeat(3, 0).repeat(4, 1)
    out = write_swift_package(models['gray'], tmp_path / 'Out', images=[photo])
    folder, found = golden(out, 'Out')
    assert len(found['cases']) == 3
    assert len(found['photos']) == 2
    with Image.open(folder / found['photos'][0]['file']) as image:
        assert image.size == (128, 72)
        assert image.mode == 'L'


@pytest.mark.parametrize(
    ('image', 'message'),
    [
        (PIXELS.astype(np.float32), r'image 1 is a float32 array'),
        (PIXELS[..., :2], r'image 1 is a uint8 array of shape \(24, 32, 2\)'),
        ('photo.png', r'image 1 is a str; allowed: PIL image'),
    ],
)
def test_other_images_are_refused(models, tmp_path, image, message):
    with pytest.raises(ExportError, match=message):
        write_swift_package(models['rgb'], tmp_path / 'out', images=[PIXELS, image])
    assert list(tmp_path.iterdir()) == []


def test_tensor_input_is_refused(tmp_path):
    model = export('rgb', tmp_path, input='tensor')
    with pytest.raises(
        ExportError,
        match=r"input 'image' is a tensor; .*"
        'export with input image',
    ):
        write_swift_package(model, tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_models_that_are_no_classifiers_are_refused(models, tmp_path, monkeypatch):
    program = read_program(models['rgb'])
    object.__setattr__(program, 'classes', None)
    monkeypatch.setattr(MLProgram, 'describe', lambda self, path: program)
    with pytest.raises(ExportError, match='takes classifiers'):
        write_swift_package(models['rgb'], tmp_path / 'out')
    for classes in ((1, 2, 3), ('a', 'a', 'b')):
        object.__setattr__(program, 'classes', classes)
        with pytest.raises(ExportError, match='not text, each one once'):
            write_swift_package(models['rgb'], tmp_path / 'out')


def test_a_file_that_is_no_model(tmp_path):
    (tmp_path / 'a.mlmodel').write_text('no')
    with pytest.raises(ProgramError, match=r'a\.mlmodel'):
        write_swift_package(tmp_path / 'a.mlmodel', tmp_path / 'out')


def test_a_pipeline_that_swift_cannot_do(models, tmp_path, monkeypatch):
    program = read_program(models['rgb'])
    step = dict(type='Resize', scale=[32, 24], interpolation='area')
    meta = dict(program.metadata, pipeline=json.dumps([step]))
    object.__setattr__(program, 'metadata', meta)
    monkeypatch.setattr(MLProgram, 'describe', lambda self, path: program)
    out = write_swift_package(models['rgb'], tmp_path / 'Out')
    text = (out / 'Sources/Out/ModelInfo.swift').read_text()
    assert "interpolation='area'" in text
    assert "interpolation='area'" in (out / 'README.md').read_text()
    assert golden(out, 'Out')[1]['photos'] == []
    shutil.rmtree(out)
    with pytest.raises(ExportError, match=r'24 x 32.*cannot do.*area'):
        write_swift_package(models['rgb'], out, images=[PIXELS[1:]])


def test_a_model_without_a_stated_pipeline(tiny_package, tiny_model, tmp_path):
    for model in (tiny_package, tiny_model):
        out = write_swift_package(model, tmp_path / model.suffix[1:])
        text = next(out.rglob('ModelInfo.swift')).read_text()
        assert 'which the model does not state' in text


def test_labels_are_in_no_other_file_as_text(packages):
    for file in packages['rgb'].rglob('*.swift'):
        assert file.name == 'Labels.swift' or LABELS[0] not in file.read_text()
