"""No child, and no child's child, lives on when its parent has ended."""

import os
import signal
import subprocess
import sys

import pytest
from child_kit import assert_gone, living, marked_env, start

from mmpretrain_mobileone_ext.utils import processes as child_process
from mmpretrain_mobileone_ext.utils.processes import ChildProcess, run_child

pytestmark = pytest.mark.skipif(
    not os.path.isdir('/proc/self'), reason='processes are found in /proc'
)
#: The issue's bound, in seconds.
SOON = 2.0
#: A child with a child of its own and a forked one.
TREE = """
import os, signal, subprocess, sys
say = lambda: os.write(1, b'up\\n')
if sys.argv[1:] == ['deaf']:
    for name in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(name, signal.SIG_IGN)
child = subprocess.Popen(
    [sys.executable, '-c', 'import os, signal;'
     'os.write(1, b"up\\\\n"); signal.pause()'])
if os.fork() == 0:
    say()
    while True:
        signal.pause()
say()
while True:
    signal.pause()
"""
#: Without the package, which takes seconds to import.
IMPORT = f"""
import os, signal, subprocess, sys
sys.path.append({os.path.dirname(child_process.__file__)!r})
from processes import ChildProcess
"""
PARENT = (
    IMPORT
    + """
with ChildProcess([sys.executable, '-c', sys.argv[1], *sys.argv[2:]],
                  stdout=subprocess.PIPE, text=True) as child:
    for line in child.stdout:
        os.write(1, line.encode())
"""
)
#: Guards within guards.
NESTED = f"""
import sys
sys.argv[1:] = [{TREE!r}]
{PARENT}
"""


@pytest.mark.parametrize('number', [signal.SIGKILL, signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize('argv', [[TREE], [TREE, 'deaf'], [NESTED]], ids=['tree', 'deaf', 'nested'])
def test_all_end_with_the_parent(number, argv):
    env = marked_env()
    parent = start([sys.executable, '-c', PARENT, *argv], env)
    for _ in range(3):
        assert parent.stdout.readline() == 'up\n'
    assert len(living(env)) >= 5
    parent.send_signal(number)
    assert_gone(env, SOON)
    parent.communicate()


def test_the_kit_sees_who_lives_on():
    """Without a guard the parent's end is not the child's."""
    env = marked_env()
    plain = PARENT.replace('ChildProcess([', 'subprocess.Popen([')
    parent = start([sys.executable, '-c', plain, TREE], env)
    for _ in range(3):
        parent.stdout.readline()
    parent.kill()
    parent.wait()
    left = living(env)
    assert len(left) == 3
    for process in left:
        os.kill(process, signal.SIGKILL)
    parent.communicate()


def test_a_parent_killed_while_it_starts_a_child():
    env = marked_env()
    code = IMPORT + (
        f'child = ChildProcess([sys.executable, "-c", {TREE!r}])\n'
        'os.kill(os.getpid(), signal.SIGKILL)'
    )
    subprocess.run([sys.executable, '-c', code], env=env, check=False)
    assert_gone(env, SOON)


def test_an_error_in_the_block_lets_the_child_clean_up(tmp_path):
    code = (
        'import signal, sys\ntry:\n    print("up", flush=True)\n    signal.pause()\nfinally:\n    '
        'open(sys.argv[1], "w").close()'
    )
    env = marked_env()
    command = [sys.executable, '-c', code, str(tmp_path / 'cleaned')]

    def fail():
        with ChildProcess(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        ) as child:
            child.stdout.readline()
            raise ValueError('mine')

    with pytest.raises(ValueError, match='mine'):
        fail()
    assert (tmp_path / 'cleaned').exists()
    assert not living(env)


@pytest.mark.parametrize('end', ['sys.exit(3)', 'os.kill(os.getpid(), 11)'])
def test_what_a_child_leaves_behind_ends_with_it(end):
    env = marked_env()
    code = f'import os, signal, sys\nif os.fork(): {end}\nsignal.pause()'
    done = run_child([sys.executable, '-c', code], env=env)
    assert done.returncode == (3 if 'exit' in end else -signal.SIGSEGV)
    assert not living(env)


def test_a_guard_that_is_ended_takes_its_child_along():
    env = marked_env()
    with ChildProcess([sys.executable, '-c', TREE], stdout=subprocess.PIPE, env=env) as child:
        child.stdout.readline()
        os.kill(child.pid, signal.SIGTERM)
        assert child.wait() == -signal.SIGKILL
    assert not living(env)


def test_a_run_in_full():
    code = 'import sys; print("out"); sys.stderr.buffer.write(b"\\xff")'
    done = run_child([sys.executable, '-c', code])
    assert (done.returncode, done.stdout, done.stderr) == (0, 'out\n', '\N{REPLACEMENT CHARACTER}')


def test_a_child_that_takes_too_long_is_ended():
    env = marked_env()
    with pytest.raises(subprocess.TimeoutExpired):
        run_child([sys.executable, '-c', TREE, 'deaf'], seconds=0.2, env=env)
    assert not living(env)


def test_what_is_no_program_is_told(tmp_path):
    done = run_child([str(tmp_path / 'absent')])
    assert done.returncode == 127
    assert 'error: cannot run' in done.stderr
    assert 'absent' in done.stderr


def test_a_child_does_not_read_the_pipe():
    done = run_child([sys.executable, '-c', 'import sys; print(repr(sys.stdin.read()))'])
    assert done.stdout == "''\n"
