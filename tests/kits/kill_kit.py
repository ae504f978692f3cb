"""Fork, do something in the child, and kill it there."""

import os
import resource
import signal
import sys

from tqdm import tqdm

#: Audit events of what changes a disk.
_CHANGES = ('os.', 'open', 'shutil.')
_PATIENCE = 300  # seconds, after which a child that waits for ever is ended


def stop_monitor():
    """End the thread of tqdm: a lock that it holds stays shut in a child."""
    tqdm.monitor_interval = 0
    if tqdm.monitor is not None:
        tqdm.monitor.exit()
        tqdm.monitor = None


def killed_at(step, action):
    """Kill the child at its ``step``-th file operation. Whether it was."""

    def child():
        count = iter(range(step))

        def hook(event, args):
            if event.startswith(_CHANGES) and event != 'os.kill' and next(count, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        action()

    return _ended(_forked(child))


def killed_after(seconds, action):
    """Kill the child after so much CPU time. Whether it was.

    Not after a time of the clock: where other processes run, one would not know how far the child
    came.
    """
    alarm, in_child = os.pipe()
    os.set_blocking(in_child, False)

    def child():
        os.close(alarm)
        # Written to by the interpreter's own handler, at once.
        signal.signal(signal.SIGPROF, lambda number, frame: None)
        signal.set_wakeup_fd(in_child)
        signal.setitimer(signal.ITIMER_PROF, seconds)
        action()

    process = _forked(child)
    os.close(in_child)
    os.read(alarm, 1)  # or the end of the child
    os.kill(process, signal.SIGKILL)
    os.close(alarm)
    return _ended(process)


def cpu_seconds(action):
    """CPU time that an action takes in a child, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not _ended(_forked(action))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _forked(action):
    process = os.fork()
    if process:
        return process
    signal.alarm(_PATIENCE)
    try:
        action()
        os._exit(0)
    except BaseException as error:
        print(f'{type(error).__name__}: {error}', file=sys.__stderr__)
    finally:  # nothing of pytest may run twice
        os._exit(1)


def _ended(process):
    _, status = os.waitpid(process, 0)
    assert status in (0, signal.SIGKILL), f'the child ended with {status}'
    return status != 0
