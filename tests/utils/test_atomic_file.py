"""One file: the old one or the whole new one, whatever happens."""

import errno
import os
import signal

import pytest

from mmpretrain_mobileone_ext.errors import CheckpointError, MobileOneExtError
from mmpretrain_mobileone_ext.utils import files as atomic_file
from mmpretrain_mobileone_ext.utils.files import write_whole


@pytest.fixture
def path(tmp_path):
    """A file that exists already."""
    (tmp_path / 'plot.png').write_text('old')
    return tmp_path / 'plot.png'


def test_the_file_is_replaced(path):
    assert write_whole(path, lambda made: made.write_text('new')) == path
    assert path.read_text() == 'new'
    assert os.listdir(path.parent) == [path.name]


def test_the_writer_sees_the_name_and_the_old_file(path):
    """A format is chosen by the suffix, and the old file stays until then."""
    seen = []

    def write(made):
        seen.extend([made.name, path.read_text()])
        made.write_text('new')

    write_whole(path, write)
    assert seen == ['plot.png', 'old']


@pytest.mark.parametrize('error', [KeyboardInterrupt, ValueError])
def test_an_interruption_leaves_the_old_file(path, error):
    def write(made):
        made.write_text('half')
        raise error

    with pytest.raises(error):
        write_whole(path, write)
    assert path.read_text() == 'old'
    assert os.listdir(path.parent) == [path.name]


@pytest.mark.parametrize('call', ['fsync', 'replace'])
@pytest.mark.parametrize('kind', [MobileOneExtError, CheckpointError])
def test_a_full_disk_is_an_error_of_the_callers_kind(path, call, kind, monkeypatch):
    def full(*args):
        raise OSError(errno.ENOSPC, 'No space left on device')

    monkeypatch.setattr(atomic_file.os, call, full)
    with pytest.raises(kind, match=r'plot\.png cannot be written.*No space'):
        write_whole(path, lambda made: made.write_text('new'), kind)
    assert path.read_text() == 'old'
    assert os.listdir(path.parent) == [path.name]


def test_a_writer_that_makes_nothing_is_an_error(path):
    with pytest.raises(MobileOneExtError, match='No such file'):
        write_whole(path, lambda made: None)
    assert path.read_text() == 'old'


def test_a_missing_folder_is_not_made(tmp_path):
    with pytest.raises(MobileOneExtError, match='cannot be written'):
        write_whole(tmp_path / 'gone/plot.png', lambda made: made.touch())
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='a fork is killed')
@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_a_killed_process_leaves_the_old_file_and_nothing_for_ever(path, number):
    def write(made):
        made.write_text('half')
        os.kill(os.getpid(), number)

    child = os.fork()
    if child == 0:
        write_whole(path, write)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == number
    assert path.read_text() == 'old'
    left = [name for name in os.listdir(path.parent) if name != path.name]
    assert [name[:10] for name in left] == ['.plot.png.']
    write_whole(path, lambda made: made.write_text('new'))
    assert path.read_text() == 'new'
    assert os.listdir(path.parent) == [path.name]


def test_a_file_that_is_being_written_is_not_swept(path):
    def write(made):
        write_whole(path, lambda other: other.write_text('theirs'))
        made.write_text('ours')

    write_whole(path, write)
    assert path.read_text() == 'ours'
