"""One user at a time; what is there is gone on with only if it fits."""

import io
import os
import signal
import zipfile

import pytest
from rich.console import Console

from mmpretrain_mobileone_ext.commands.training import to_phone as work_dir
from mmpretrain_mobileone_ext.commands.training.to_phone import (
    RunRecord,
    last_checkpoint,
    resume_option,
    sole_use,
)
from mmpretrain_mobileone_ext.errors import MobileOneExtError

QUIET = Console(quiet=True)


def test_a_folder_has_one_user(tmp_path):
    folder = tmp_path / 'a/b'
    with sole_use(folder, QUIET):
        with pytest.raises(MobileOneExtError, match=f'is in use by process {os.getpid()} on .*20'):
            sole_use(folder, QUIET).__enter__()
        with sole_use(tmp_path / 'other', QUIET):
            pass
    with sole_use(folder, QUIET):
        pass


@pytest.mark.skipif(not hasattr(os, 'fork'), reason='a fork is killed')
def test_the_lock_ends_with_its_process(tmp_path):
    ready, tell = os.pipe()
    holder = os.fork()
    if holder == 0:
        with sole_use(tmp_path, QUIET):
            os.write(tell, b'x')
            signal.pause()
    os.read(ready, 1)
    with pytest.raises(MobileOneExtError, match=f'process {holder} on'):
        sole_use(tmp_path, QUIET).__enter__()
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    with sole_use(tmp_path, QUIET):
        pass


def test_a_folder_that_cannot_be_made_is_told(tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(MobileOneExtError, match='file cannot be written'):
        sole_use(tmp_path / 'file', QUIET).__enter__()


def test_a_disk_without_locks_is_told(tmp_path, monkeypatch):
    def refuse(self, *args, **options):
        raise NotImplementedError

    monkeypatch.setattr(work_dir.FileLock, 'acquire', refuse)
    console = Console(record=True, file=io.StringIO())
    with sole_use(tmp_path, console):
        pass
    assert 'no locks' in ' '.join(console.export_text().split())


def test_a_record_says_what_is_done(tmp_path):
    assert RunRecord.read(tmp_path) is None
    asked = dict(epochs='3', images='abc')
    begun = RunRecord.begin(tmp_path, asked)
    assert begun == RunRecord.read(tmp_path)
    begun.with_step('train').with_step('export')
    found = RunRecord.read(tmp_path)
    assert found.done == ('train', 'export')
    assert found.goes_on(asked)
    other = dict(asked, epochs='4')
    assert not found.goes_on(other)
    assert found.differs_by(other) == ['epochs']
    assert not found.as_finished().goes_on(asked)
    assert RunRecord.read(tmp_path).finished


@pytest.mark.parametrize('text', ['', '{', '[]', '{"asked": {}}', 'null'])
def test_what_is_no_record_is_none(tmp_path, text):
    (tmp_path / 'run.json').write_text(text)
    assert RunRecord.read(tmp_path) is None


def test_a_new_run_forgets_the_old_ones_checkpoint(tmp_path):
    note(tmp_path, checkpoint(tmp_path, 'epoch_2.pth'))
    RunRecord.begin(tmp_path, {})
    assert not (tmp_path / 'last_checkpoint').exists()
    assert last_checkpoint(tmp_path) is None


def checkpoint(folder, name, time=0):
    with zipfile.ZipFile(folder / name, 'w') as file:
        file.writestr('data.pkl', b'x' * 100)
    os.utime(folder / name, (time, time))
    return folder / name


def note(folder, path):
    (folder / 'last_checkpoint').write_text(str(path))


def test_training_goes_on_from_the_last_checkpoint(tmp_path):
    assert resume_option(last_checkpoint(tmp_path)) == []
    checkpoint(tmp_path, 'epoch_1.pth', time=9)
    last = checkpoint(tmp_path, 'epoch_2.pth')
    note(tmp_path, last)
    assert resume_option(last_checkpoint(tmp_path)) == ['--resume', str(last)]


def test_a_note_that_was_not_written_yet(tmp_path):
    # The clock was set back, and 10 is more than 9.
    checkpoint(tmp_path, 'epoch_9.pth', time=9)
    last = checkpoint(tmp_path, 'epoch_10.pth', time=2)
    checkpoint(tmp_path, 'epoch_11_deploy.pth', time=8)
    note(tmp_path, '')
    assert last_checkpoint(tmp_path) == last


@pytest.mark.parametrize('text', ['epoch_3.pth', 'gone.pth', '../x.pth'])
def test_a_note_that_names_nothing_whole(tmp_path, text):
    folder = tmp_path / 'run'
    folder.mkdir()
    whole = checkpoint(folder, 'epoch_2.pth')
    checkpoint(tmp_path, 'x.pth')
    (folder / 'epoch_3.pth').write_bytes(whole.read_bytes()[:80])
    note(folder, text)
    assert last_checkpoint(folder) is None


def test_what_is_asked_anew_has_its_steps_done_again(tmp_path):
    record = RunRecord.begin(tmp_path, {'lr': '1', 'compress': 'None'})
    record = record.with_step('train').with_step('export')
    found = record.asked_anew({'lr': '1', 'compress': 'int8'}, ('export', 'report'))
    assert found == RunRecord.read(tmp_path)
    assert (found.done, found.asked['compress']) == (('train',), 'int8')
