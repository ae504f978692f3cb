"""A package's files are its own: nothing is read, or copied, from outside."""

from __future__ import annotations

import json
import os
import shutil

import pytest
from crafted_kit import MODEL, WEIGHTS

from mmpretrain_mobileone_ext.coreml import load_program, read_program
from mmpretrain_mobileone_ext.coreml.classifier import CoreMLClassifier
from mmpretrain_mobileone_ext.coreml.program.package_files import package_files
from mmpretrain_mobileone_ext.coreml.swift import write_swift_package
from mmpretrain_mobileone_ext.errors import ProgramError
from mmpretrain_mobileone_ext.report.collect import _program_hash

SECRET = 'not for others'


@pytest.fixture
def package(tiny_package, tmp_path):
    return shutil.copytree(tiny_package, tmp_path / 'own.mlpackage')


@pytest.fixture
def secret(tmp_path):
    (tmp_path / 'secret').mkdir()
    file = tmp_path / 'secret' / 'key.txt'
    file.write_text(SECRET)
    return file


def replaced(package, name, target):
    """A link in place of one of the package's files."""
    outside = package.parent / 'outside'
    shutil.move(package / name, outside)
    (package / name).symlink_to(target or outside)


LINKS = {
    'model': lambda p, s: replaced(p, MODEL, None),
    'weights': lambda p, s: replaced(p, WEIGHTS, None),
    'manifest': lambda p, s: replaced(p, 'Manifest.json', None),
    'folder': lambda p, s: replaced(p, 'Data', None),
    'weights folder': lambda p, s: replaced(p, 'Data/com.apple.CoreML/weights', None),
    'another file': lambda p, s: (p / 'Data/notes.txt').symlink_to(s),
    'another folder': lambda p, s: (p / 'Data/more').symlink_to(s.parent),
    'relative': lambda p, s: (p / 'notes').symlink_to('../secret/key.txt'),
    'nowhere': lambda p, s: (p / 'notes').symlink_to('none'),
    'a circle': lambda p, s: (p / 'notes').symlink_to('notes'),
    'a pipe': lambda p, s: os.mkfifo(p / 'notes'),
    'a pipe as model': lambda p, s: ((p / MODEL).unlink(), os.mkfifo(p / MODEL)),
    'a device': lambda p, s: (p / 'notes').symlink_to('/dev/zero'),
}


@pytest.mark.parametrize('name', LINKS)
def test_what_leads_outside_is_refused(package, secret, name):
    LINKS[name](package, secret)
    with pytest.raises(ProgramError, match=r'link|neither a folder') as caught:
        read_program(package)
    assert '\n' not in str(caught.value)
    out = package.parent / 'Swift'
    with pytest.raises(ProgramError):
        write_swift_package(package, out)
    assert not out.exists()
    with pytest.raises(ProgramError):
        _ = CoreMLClassifier(str(package)).program
    assert _program_hash(package) == ''


def test_links_inside_and_to_the_package_are_fine(package, tmp_path):
    weights = package / WEIGHTS
    shutil.move(weights, weights.with_name('real.bin'))
    weights.symlink_to('real.bin')
    (tmp_path / 'chosen.mlpackage').symlink_to(package)
    classes = read_program(package).classes
    assert read_program(tmp_path / 'chosen.mlpackage').classes == classes
    assert weights in set(package_files(package))


def root_at(package, path):
    manifest = json.loads((package / 'Manifest.json').read_text())
    root = manifest['rootModelIdentifier']
    manifest['itemInfoEntries'][root]['path'] = path
    (package / 'Manifest.json').write_text(json.dumps(manifest))


@pytest.mark.parametrize(
    'path',
    [
        '../../secret/key.txt',
        '/etc/passwd',
        'com.apple.CoreML/../../../x',
        'a\0b',
        'x' * 5000,
        'x/' * 3000,
        '',
        '.',
        '..',
        None,
        7,
        [],
        {},
        '\ud800',
    ],
)
def test_manifest_names_a_file_inside(package, path):
    root_at(package, path)
    with pytest.raises(ProgramError, match=r'not a file inside|missing') as e:
        read_program(package)
    assert len(str(e.value)) < 1000


@pytest.mark.parametrize(
    'content',
    [
        b'[' * 100_000,
        b'{"a":' * 100_000,
        b'\xff\xfe{',
        b'',
        b'null',
        b'{}',
        b'{"rootModelIdentifier": [], "itemInfoEntries": {}}',
    ],
)
def test_damaged_manifest(package, content):
    (package / 'Manifest.json').write_bytes(content)
    with pytest.raises(ProgramError, match='names no root model'):
        read_program(package)


def test_endless_manifest(package):
    os.truncate(package / 'Manifest.json', 10**11)  # sparse
    with pytest.raises(ProgramError, match='has 100000000000 bytes; allowed'):
        read_program(package)


def test_endless_specification(package):
    os.truncate(package / MODEL, 10**11)
    with pytest.raises(ProgramError, match='has 100000000000 bytes'):
        read_program(package)


def test_endless_weights_are_not_read(package):
    """They are mapped, and nothing of the sparse rest is used."""
    os.truncate(package / WEIGHTS, 10**11)
    assert load_program(package).classes is not None


def test_more_files_than_a_package_has(package, monkeypatch):
    from mmpretrain_mobileone_ext.coreml.program import package_files as module

    monkeypatch.setattr(module, '_MAX_ENTRIES', 3)
    with pytest.raises(ProgramError, match='more than 3 files'):
        read_program(package)


@pytest.mark.parametrize(
    'path',
    [
        'a\0b.mlpackage',
        'x' * 300 + '.mlmodel',
        '~no-such-user/x.mlmodel',
        '/dev/null',
        'loop/x.mlmodel',
    ],
)
def test_impossible_paths(tmp_path, path):
    (tmp_path / 'loop').symlink_to('loop')
    given = path if path[0] in '/~' else str(tmp_path / path)
    with pytest.raises(ProgramError) as caught:
        read_program(given)
    assert '\n' not in str(caught.value)


def test_a_pipe_is_no_model(tmp_path):
    os.mkfifo(tmp_path / 'pipe.mlmodel')
    with pytest.raises(ProgramError, match='not a Core ML model'):
        read_program(tmp_path / 'pipe.mlmodel')
