"""Result files: refused early, whole or not at all."""

import json

import pytest

from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.utils.files import (
    check_folder,
    check_writable,
    write_json,
    write_whole,
)


def test_a_writable_path_is_left_alone(tmp_path):
    check_writable(None)
    check_writable(tmp_path / 'new.json')
    (tmp_path / 'old.json').write_text('old')
    check_writable(tmp_path / 'old.json')
    assert (tmp_path / 'old.json').read_text() == 'old'
    assert len(list(tmp_path.iterdir())) == 1


def test_paths_that_cannot_be_written(tmp_path):
    with pytest.raises(MobileOneExtError, match='is a folder'):
        check_writable(tmp_path)
    with pytest.raises(MobileOneExtError, match='No such file'):
        check_writable(tmp_path / 'absent/new.json')
    (tmp_path / 'file').touch()
    with pytest.raises(MobileOneExtError, match='cannot be written'):
        check_writable(tmp_path / 'file/new.json')


def test_a_folder_that_can_be_made_is_not_made_yet(tmp_path):
    check_folder(None)
    check_folder(tmp_path)
    check_folder(tmp_path / 'new/below')
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name', ['file', 'file/below', 'file/below/more'])
def test_folders_that_cannot_be_made(tmp_path, name):
    (tmp_path / 'file').touch()
    with pytest.raises(MobileOneExtError, match=f'{name} cannot be written'):
        check_folder(tmp_path / name)


def test_json_replaces_the_old_file(tmp_path):
    path = tmp_path / 'found.json'
    path.write_text('old')
    assert write_json(path, dict(a=[1.5])) == path
    assert json.loads(path.read_text()) == dict(a=[1.5])
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_the_old_file(tmp_path):
    path = tmp_path / 'found.json'
    path.write_text('old')

    def write(made):
        made.write_text('half')
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_whole(path, write)
    assert path.read_text() == 'old'
    assert list(tmp_path.iterdir()) == [path]


def test_a_lost_folder_is_a_clear_error(tmp_path):
    with pytest.raises(MobileOneExtError, match='cannot be written'):
        write_json(tmp_path / 'gone/found.json', {})
