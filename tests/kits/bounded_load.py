"""Loads checkpoints one after the other, each with little memory to spare.

Usage: bounded_load.py FOLDER. Each file may take 128 MiB and 256 times its own size on top of what
the process has; the reply is a line of JSON a file: its name, the message (none if it loads) and
the seconds of CPU.
"""

import json
import resource
import signal
import sys
import time
from pathlib import Path

import torch

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import CheckpointError

LIMIT_S = 20


def main():
    torch.set_num_threads(1)
    signal.signal(signal.SIGVTALRM, too_slow)
    for path in sorted(Path(sys.argv[1]).iterdir()):
        print(json.dumps(attempt(path)), flush=True)


def too_slow(*_):
    raise TimeoutError(f'not done after {LIMIT_S} s')


def attempt(path):
    pages = int(Path('/proc/self/statm').read_text().split()[0])
    budget = (128 << 20) + 256 * path.stat().st_size
    free = resource.RLIM_INFINITY
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + budget, free))
    signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)
    start, message = time.process_time(), ''
    try:
        load_checkpoint_file(path)
    except (CheckpointError, TimeoutError, MemoryError) as error:
        message = f'{type(error).__name__}: {error}'[:2000]
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        resource.setrlimit(resource.RLIMIT_AS, (free, free))
    return path.name, message, time.process_time() - start


if __name__ == '__main__':
    main()
