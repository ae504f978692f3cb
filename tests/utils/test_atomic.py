"""Killed at any step, a process leaves the old or the new thing whole."""

import os
import shutil
import signal
import sys

import pytest
from export_kit import snapshot
from kill_kit import killed_at, stop_monitor

from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.utils import files as atomic
from mmpretrain_mobileone_ext.utils import files as atomic_file
from mmpretrain_mobileone_ext.utils.files import exchange, install, workspace

pytestmark = pytest.mark.skipif(not hasattr(os, 'fork'), reason='processes are forked and killed')
NAMES = pytest.mark.parametrize('name', ['m.mlpackage', 'm.mlmodel'])


@pytest.fixture(autouse=True, scope='module')
def _one_thread():
    stop_monitor()


def make(path, text):
    """A package of three files, or one file."""
    if path.suffix == '.mlmodel':
        path.write_text(text)
        return path
    (path / 'Data/weights').mkdir(parents=True)
    for name in ('Manifest.json', 'Data/model', 'Data/weights/w'):
        (path / name).write_text(text)
    return path


def content(path):
    """'old', 'new' or None; fails for anything that is neither."""
    if not path.exists():
        return None
    files = (
        [path]
        if path.is_file()
        else [path / n for n in ('Manifest.json', 'Data/model', 'Data/weights/w')]
    )
    (text,) = {f.read_text() for f in files}
    return text


def abandoned(name):
    return f'.{name}.{"0" * 32}.partial'


def replace(target, text='new'):
    with workspace(target) as folder:
        install(make(folder / target.name, text), target, force=True)


@pytest.mark.parametrize('swaps', [True, pytest.param(False, marks=pytest.mark.slow)])
@NAMES
def test_killed_at_every_step(tmp_path, name, swaps, monkeypatch):
    target = tmp_path / name
    if not swaps:
        monkeypatch.setattr(atomic, 'exchange', lambda one, other: False)
    seen, step, missing = [], 0, 0
    while True:
        make(target, 'old')
        if not killed_at(step, lambda: replace(target)):
            break
        left = content(target)
        missing += left is None
        # Removing what was abandoned gives an old target its name back.
        with workspace(target):
            seen.append(content(target))
        assert left in (seen[-1], None)
        assert os.listdir(tmp_path) == [name]
        shutil.rmtree(target) if target.is_dir() else target.unlink()
        step += 1
    assert content(target) == 'new'
    assert os.listdir(tmp_path) == [name]
    assert step > (15 if name == 'm.mlpackage' else 4)
    # Once new, never old again; both were seen.
    assert seen == sorted(seen, reverse=True)
    assert set(seen) == {'old', 'new'}
    # Two renames one after another can be told from a swap.
    assert missing == (0 if swaps or name == 'm.mlmodel' else 1)


@NAMES
def test_killed_at_every_step_of_a_first_time(tmp_path, name):
    step, seen = 0, []
    target = tmp_path / name
    while killed_at(step, lambda: replace(target)):
        seen.append(content(target))
        with workspace(target):  # what was abandoned takes steps as well
            assert content(target) == seen[-1]
        if target.exists():
            shutil.rmtree(target) if target.is_dir() else target.unlink()
        step += 1
    assert seen == sorted(seen, key=str)  # None, then 'new'
    assert set(seen) == {None, 'new'}


def test_old_package_comes_back_if_the_new_cannot_move(tmp_path, monkeypatch):
    target = make(tmp_path / 'm.mlpackage', 'old')
    made = make(tmp_path / 'w/m.mlpackage', 'new')
    rename = os.rename

    def fail(source, to):
        if source == made:
            raise OSError('disk full')
        rename(source, to)

    monkeypatch.setattr(atomic.os, 'rename', fail)
    monkeypatch.setattr(atomic, 'exchange', lambda one, other: False)
    before = snapshot(target)
    with pytest.raises(ExportError, match='disk full'):
        install(made, target, force=True)
    assert snapshot(target) == before
    assert sorted(os.listdir(tmp_path)) == ['m.mlpackage', 'w']


@pytest.mark.skipif(sys.platform not in ('linux', 'darwin'), reason='the system swaps no names')
def test_exchange(tmp_path):
    one, other = make(tmp_path / 'a.mlpackage', 'a'), tmp_path / 'b'
    other.write_text('b')
    assert exchange(one, other)
    assert one.read_text() == 'b'
    assert content(other / '..' / 'b') == 'a'
    before = snapshot(tmp_path)
    assert not exchange(one, tmp_path / 'absent')
    assert snapshot(tmp_path) == before


def test_a_folder_is_left_alone_while_its_process_lives(tmp_path):
    target = tmp_path / 'm.mlpackage'
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        with workspace(target):
            os.write(tell, b'x')
            signal.pause()
    os.read(ready, 1)
    (theirs,) = tmp_path.iterdir()
    with workspace(target) as ours:
        assert set(tmp_path.iterdir()) == {theirs, ours}
        with workspace(target) as also:
            assert set(tmp_path.iterdir()) == {theirs, ours, also}
        assert set(tmp_path.iterdir()) == {theirs, ours}
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    assert list(tmp_path.iterdir()) == [theirs]
    with workspace(tmp_path / 'n.mlpackage') as other:
        assert set(tmp_path.iterdir()) == {theirs, other}
    with workspace(target) as ours:
        assert list(tmp_path.iterdir()) == [ours]
    assert list(tmp_path.iterdir()) == []


def test_a_name_is_no_pattern(tmp_path):
    (tmp_path / abandoned('ab.mlpackage')).mkdir()
    with workspace(tmp_path / '[a]b.mlpackage') as ours:
        assert ours.is_dir()
    assert os.listdir(tmp_path) == [abandoned('ab.mlpackage')]


def test_a_name_that_begins_another_is_another(tmp_path):
    """What is put aside in the other's folder would be lost."""
    theirs = tmp_path / abandoned('m.mlpackage')
    make(theirs / 'm.mlpackage.old', 'old')
    with workspace(tmp_path / 'm') as ours:
        assert set(tmp_path.iterdir()) == {theirs, ours}
    with workspace(tmp_path / 'm.mlpackage'):
        assert content(tmp_path / 'm.mlpackage') == 'old'
    assert os.listdir(tmp_path) == ['m.mlpackage']


def test_a_folder_taken_for_abandoned_is_made_again(tmp_path, monkeypatch):
    claim, taken = atomic_file._claim, []

    def slow(folder):
        if not taken:  # another process was faster
            taken.append(folder)
            folder.rmdir()
        return claim(folder)

    monkeypatch.setattr(atomic_file, '_claim', slow)
    with workspace(tmp_path / 'm.mlmodel') as folder:
        assert folder.is_dir()
        assert folder != taken[0]


def test_disks_without_locks(tmp_path, monkeypatch):
    def refuse(*args):
        raise OSError('no locks available')

    stale = tmp_path / abandoned('m.mlmodel')
    stale.mkdir()
    monkeypatch.setattr(atomic_file.fcntl, 'flock', refuse)
    replace(tmp_path / 'm.mlmodel')
    assert content(tmp_path / 'm.mlmodel') == 'new'
    # Whether its process lives is unknown.
    assert stale.is_dir()
