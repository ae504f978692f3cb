"""The kernels' library on disk: damaged, planted, or with no place to be."""

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading

import pytest
from native_kit import CXX, IS_POSIX, IS_ROOT, OTHER_USER, compiled, count, load, only_library

from mmpretrain_mobileone_ext.models.online import kernels as native

pytestmark = pytest.mark.skipif(CXX is None or not IS_POSIX, reason='no C++ compiler')


def test_it_is_compiled_once_and_private(cache, calls, said):
    assert load()
    assert load()
    assert count(calls) == 1
    assert said == []
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert stat.S_IMODE(only_library(cache).stat().st_mode) == 0o600


def machine(data, number):
    """An ELF file of another processor."""
    return data[:18] + bytes([number]) + data[19:]


DAMAGES = {
    'empty': lambda data: b'',
    'one byte': lambda data: data[:1],
    'header': lambda data: data[:64],
    'half': lambda data: data[: len(data) // 2],
    'all but the last byte': lambda data: data[:-1],
    'one byte more': lambda data: data + b'\0',
    'zeros': lambda data: bytes(len(data)),
    'zeros from the middle': lambda data: data[: len(data) // 2].ljust(len(data), b'\0'),
    'junk': lambda data: bytes(range(256)) * 64,
    'text': lambda data: b'no library\n',
    'a bit': lambda data: data[:5000] + bytes([data[5000] ^ 1]) + data[5001:],
    'another machine': lambda data: machine(data, 183),
}


@pytest.mark.parametrize('name', DAMAGES)
def test_damage_is_mended(name, cache, calls):
    load()
    library = only_library(cache)
    whole = library.read_bytes()
    library.write_bytes(DAMAGES[name](whole))
    assert survives(load)
    assert only_library(cache).read_bytes() == whole
    assert count(calls) == 2


def survives(action):
    """Whether it succeeds in a child, where it may crash."""
    child = os.fork()
    if child == 0:
        code = 2
        with contextlib.suppress(BaseException):
            code = 0 if action() else 1
        os._exit(code)
    return os.waitpid(child, 0)[1] == 0


def test_a_crash_is_seen():
    assert survives(lambda: True)
    assert not survives(lambda: False)
    assert not survives(lambda: os.kill(os.getpid(), signal.SIGKILL))


def link_to(target):
    def replace(library):
        library.unlink()
        library.symlink_to(target)

    return replace


def as_fifo(library):
    library.unlink()
    os.mkfifo(library)


def as_folder(library):
    library.unlink()
    (library / 'x').mkdir(parents=True)


def as_link_to_itself_elsewhere(library):
    library.rename(library.with_name('elsewhere'))
    library.symlink_to(library.with_name('elsewhere'))


KINDS = {
    'dangling link': link_to('nowhere'),
    'link in a circle': lambda library: link_to(library)(library),
    'link to the whole one': as_link_to_itself_elsewhere,
    'named pipe': as_fifo,
    'unreadable': lambda library: library.chmod(0),
    'group may write': lambda library: library.chmod(0o660),
    'all may write': lambda library: library.chmod(0o602),
}
if IS_ROOT:
    KINDS['of another user'] = lambda library: os.chown(library, OTHER_USER, -1)


@pytest.mark.parametrize('name', KINDS)
def test_what_is_no_private_file_is_replaced(name, cache, calls, said):
    load()
    library = only_library(cache)
    KINDS[name](library)
    assert load()
    status = library.lstat()
    assert stat.S_ISREG(status.st_mode)
    assert status.st_uid == os.geteuid()
    # Root reads files of any mode, and so needs no other one.
    if not (IS_ROOT and name == 'unreadable'):
        assert count(calls) == 2
        assert stat.S_IMODE(status.st_mode) == 0o600
    assert said == []


def test_a_folder_in_its_place(cache, calls, said):
    load()
    as_folder(only_library(cache))
    assert load()
    assert len(said) == 1
    assert 'each start' in said[0]


def test_a_whole_library_that_does_not_load(cache, calls, stub, said):
    """As from a machine that shares the home directory."""
    load()
    only_library(cache).unlink()
    with native.LibraryCache.locked(0) as opened:
        key = native._key([*native.find_compiler(), *native.FLAGS])
        opened.keep(key, machine(stub.read_bytes(), 183))
    assert load()
    assert count(calls) == 2


def plant(cache, pwned, folder):
    """A library with the right name, whose loading leaves a file."""
    planted = compiled(
        folder,
        f"""
        #include <cstdio>
        __attribute__((constructor)) static void run() {{
          std::fclose(std::fopen("{pwned}", "w")); }}
        """,
    )
    with native.LibraryCache.locked(0) as opened:
        opened.keep(native._key([*native.find_compiler(), *native.FLAGS]), planted.read_bytes())


FOLDERS = {
    'all may write': lambda folder: folder.chmod(0o777),
    'group may write': lambda folder: folder.chmod(0o770),
    'sticky': lambda folder: folder.chmod(0o1777),
}
if IS_ROOT:
    FOLDERS['of another user'] = lambda folder: os.chown(folder, OTHER_USER, -1)


@pytest.mark.parametrize('name', FOLDERS)
def test_a_planted_library_is_not_loaded(name, cache, calls, said, tmp_path):
    pwned = tmp_path / 'pwned'
    plant(cache, pwned, tmp_path)
    FOLDERS[name](cache)
    assert load()
    assert not pwned.exists()
    assert count(calls) == 1
    (line,) = said
    assert str(cache) in line
    assert 'others' in line or 'belongs to' in line


def test_the_plant_would_run(cache, calls, said, tmp_path):
    """The test above fails for its reason."""
    plant(cache, tmp_path / 'pwned', tmp_path)
    assert load()
    assert (tmp_path / 'pwned').exists()


def a_file(path):
    path.touch()


def a_link(path):
    path.symlink_to('nowhere')


PLACES = {
    'cache': a_file,
    'cache/mmpretrain_mobileone_ext': a_file,
    'a/../cache/mmpretrain_mobileone_ext': a_link,
}


@pytest.mark.parametrize('name', PLACES)
def test_no_place_to_keep_it(name, cache, calls, said, tmp_path):
    (tmp_path / 'a').mkdir()
    (tmp_path / name).parent.mkdir(exist_ok=True)
    PLACES[name](tmp_path / name)
    assert load()
    (line,) = said
    assert 'not kept' in line


@pytest.mark.parametrize('value', ['', 'relative', './x', '~'])
def test_a_cache_that_is_no_absolute_path_is_at_home(value, calls, tmp_path, monkeypatch, said):
    monkeypatch.setenv('XDG_CACHE_HOME', value)
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    monkeypatch.chdir(tmp_path)
    assert load()
    assert only_library(tmp_path / 'home/.cache/mmpretrain_mobileone_ext')
    assert said == []
    assert sorted(p.name for p in tmp_path.iterdir()) == ['calls', 'fake-c++', 'home']


@pytest.mark.parametrize('home', [None, 'relative'])
def test_no_home(home, calls, tmp_path, monkeypatch, said):
    def no_entry(uid):
        raise KeyError(uid)

    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    monkeypatch.delenv('HOME')
    monkeypatch.setattr('pwd.getpwuid', no_entry)
    if home:
        monkeypatch.setenv('HOME', home)
    monkeypatch.chdir(tmp_path)
    assert load()
    assert 'home' in said[0]
    assert not (tmp_path / 'relative').exists()


def test_a_full_disk(cache, calls, said, monkeypatch):
    def full(file):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    assert load()
    assert 'No space left' in said[0]
    assert [p.name for p in cache.iterdir()] == ['lock']


def test_what_a_killed_process_left_goes(cache, calls, stub):
    cache.mkdir(parents=True, mode=0o700)
    key = native._key([*native.find_compiler(), *native.FLAGS])
    left = cache / f'{key}-0123.partial'
    left.write_bytes(stub.read_bytes()[:100])
    assert load()
    assert not left.exists()


def test_several_at_once_compile_once(cache, calls, said):
    found = []
    threads = [threading.Thread(target=lambda: found.append(native._library())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert count(calls) == 1


def test_waiting_for_another_has_an_end(cache, calls, said, monkeypatch):
    load()
    monkeypatch.setattr(native, '_SECONDS', 0.1)
    with open(cache / 'lock', 'rb+') as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        assert load() is None
    assert 'another process' in said[0]
    assert load()


def test_a_disk_without_locks(cache, calls, said, monkeypatch):
    def none(file, operation):
        raise OSError(37, 'No locks available')

    monkeypatch.setattr(fcntl, 'flock', none)
    assert load()
    assert load()
    assert count(calls) == 1


_TRAIN = """
import torch
from mmpretrain_mobileone_ext.models.online import kernels as native
assert native.compiled_kernels() is not None
print('trained')
"""


@pytest.mark.slow
def test_training_after_the_library_was_cut(tmp_path):
    """With the real compiler and library, in a process that may crash."""
    env = {**os.environ, 'XDG_CACHE_HOME': str(tmp_path)}

    def start():
        return subprocess.run(
            [sys.executable, '-c', _TRAIN], env=env, capture_output=True, text=True, check=False
        )

    assert start().returncode == 0
    (library,) = tmp_path.glob('mmpretrain_mobileone_ext/*.so')
    whole = library.stat().st_size
    os.truncate(library, whole // 2)
    done = start()
    assert done.returncode == 0, done.stderr[-500:]
    assert done.stdout.endswith('trained\n')
    assert library.stat().st_size == whole
