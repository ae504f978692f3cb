"""Compilers that fail, hang, or are several words."""

import contextlib
import os
import subprocess
from pathlib import Path

import pytest
from native_kit import CXX, IS_POSIX, count, fake_compiler, load

from mmpretrain_mobileone_ext.errors import KernelError
from mmpretrain_mobileone_ext.models.online import kernels as native
from mmpretrain_mobileone_ext.models.online.kernels import compiler

pytestmark = pytest.mark.skipif(CXX is None or not IS_POSIX, reason='no C++ compiler')

COMPILERS = {
    'fails': ('echo "x.cpp: fatal error: no" >&2; exit 1', 'no'),
    'error after notes': ('echo note >&2; echo "error: why" >&2; exit 1', 'why'),
    'latin-1': (r"printf 'x.cpp:1: error: caf\351 \200\n' >&2; exit 1", 'caf'),
    'nothing said': ('exit 3', 'exit code 3'),
    'killed': ('kill -9 $$', 'signal 9'),
    'makes nothing': ('exit 0', 'no library'),
    'makes a folder': ('mkdir -p "$out"', 'no library'),
    'makes junk': ('echo junk > "$out"', ''),
    'makes nothing of use': (f'echo | {CXX} -x c++ -shared -fPIC -o "$out" -', 'without'),
    'says much': ('yes error | head -c 3000000 >&2; exit 1', 'error'),
}


@pytest.mark.parametrize('name', COMPILERS)
def test_a_bad_compiler_is_one_line(name, cache, said, tmp_path, monkeypatch):
    script, fragment = COMPILERS[name]
    fake_compiler(tmp_path, monkeypatch, script)
    assert load() is None
    (line,) = said
    assert 'without the compiled kernels' in line
    assert fragment in line
    assert '\n' not in line
    assert len(line) < 1500
    assert not list(cache.glob('*.so'))


def test_a_compiler_that_cannot_be_started(cache, said, tmp_path, monkeypatch):
    path = tmp_path / 'c++'
    path.write_text('#!/no/such/shell\n')
    path.chmod(0o755)
    monkeypatch.setenv('CXX', str(path))
    assert load() is None
    assert len(said) == 1


@pytest.mark.parametrize('value', ['"g++', 'no-such-compiler', ' '])
def test_cxx_that_names_no_compiler(value, monkeypatch):
    monkeypatch.setenv('CXX', value)
    if value == ' ':
        assert compiler.find_compiler()
        return
    with pytest.raises(KernelError, match=r'g\+\+|no-such-compiler'):
        compiler.find_compiler()


def test_cxx_of_several_words(cache, said, tmp_path, monkeypatch, stub):
    calls = fake_compiler(tmp_path, monkeypatch, f'cp {stub} "$out"')
    wrapped = tmp_path / 'wrap'
    wrapped.write_text(
        f'#!/bin/sh\necho "$2" > {tmp_path / "word"}\nprogram=$1; shift 2; exec "$program" "$@"\n'
    )
    wrapped.chmod(0o755)
    monkeypatch.setenv('CXX', f'{wrapped} {os.environ["CXX"]} "two words"')
    assert load()
    assert count(calls) == 1
    assert (tmp_path / 'word').read_text() == 'two words\n'


def test_cxx_whose_path_has_a_blank(cache, tmp_path, monkeypatch, stub):
    folder = tmp_path / 'my tools'
    folder.mkdir()
    fake_compiler(tmp_path, monkeypatch, f'cp {stub} "$out"')
    (tmp_path / 'fake-c++').rename(folder / 'c++')
    monkeypatch.setenv('CXX', str(folder / 'c++'))
    assert load()


def is_alive(pid):
    """Whether a process runs: one that nobody waited for does not."""
    try:
        return Path(f'/proc/{pid}/stat').read_text().rsplit(')')[-1].split()[0] != 'Z'
    except FileNotFoundError:
        return False


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='no /proc')
def test_a_compiler_that_hangs_ends_with_its_children(cache, said, tmp_path, monkeypatch):
    calls = fake_compiler(
        tmp_path,
        monkeypatch,
        f'sleep 1000 & echo $! > {tmp_path / "child"}; echo $$ > {tmp_path / "parent"}; wait',
    )
    monkeypatch.setattr(native, '_SECONDS', 0.5)
    assert load() is None
    assert count(calls) == 1, 'one time-out in all'
    (line,) = said
    assert 'gave no result' in line
    for name in ('parent', 'child'):
        pid = int((tmp_path / name).read_text())
        # SIGKILL is sent; the kernel ends the child in its own time.
        with contextlib.suppress(ProcessLookupError):
            for _ in range(10**6):
                if not is_alive(pid):
                    break
                os.sched_yield()
        assert not is_alive(pid)


@pytest.mark.skipif(not Path('/proc/self/stat').exists(), reason='no /proc')
def test_an_interrupt_ends_the_compiler(cache, tmp_path, monkeypatch):
    fake_compiler(tmp_path, monkeypatch, 'exec sleep 1000')
    wait, asked = subprocess.Popen.wait, []

    def interrupted(process, *args):
        asked.append(process.pid)
        if len(asked) == 1:
            raise KeyboardInterrupt
        return wait(process, *args)

    monkeypatch.setattr(subprocess.Popen, 'wait', interrupted)
    with pytest.raises(KeyboardInterrupt):
        load()
    assert not is_alive(asked[0])
