"""Run in a process of its own: many files, and what each of them takes.

Reads one JSON object a line, {"path": ...}, and answers with one: what came of it, seconds of the
processor, and the growth of the process's peak memory in bytes. Memory beyond the limit in argv
ends in MemoryError or torch's own error, not in the machine's.
"""

import json
import resource
import sys
import time

import torch

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.errors import ProgramError


def outcome(case):
    """'refused: ...' or the outputs, exactly."""
    try:
        loaded = load_program(case['path'], 'fp16')
        generator = torch.Generator().manual_seed(0)
        inputs = {
            f.name: 255 * torch.rand(f.shape, generator=generator) for f in loaded.program.inputs
        }
        found = loaded.predict(inputs)
        return {k: repr(v) for k, v in found.items()}
    except ProgramError as error:
        return f'refused: {error}'
    except Exception as error:
        return f'{type(error).__name__}: {error}'


def peak():
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main(limit):
    with open('/proc/self/statm') as stream:
        now = int(stream.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + limit, now + limit))
    for line in sys.stdin:
        before, start = peak(), time.process_time()
        found = outcome(json.loads(line))
        print(json.dumps([found, time.process_time() - start, peak() - before]), flush=True)


if __name__ == '__main__':
    main(int(sys.argv[1]))
