"""Which jobs run on this machine, and what the others would need."""
from __future__ import annotations

from typing import Iterator

from .diagnosis import Ability, Facts, Rehearsal

_MAC = 'Darwin'


def abilities(facts: Facts, rehearsal: Rehearsal) -> Iterator[Ability]:
    """Every job, with what it lacks."""
    for job, step in (('train', 'train'), ('fold branches', 'fold'),
                      ('export to Core ML', 'export'),
                      ('score a Core ML file in the reference runtime',
                       'score')):
        done = rehearsal.passed(step)
        yield Ability(job, 'yes' if done else 'no',
                      'rehearsed' if done else _stopped(rehearsal))
    yield _kernels(facts)
    yield _gpu(rehearsal)
    yield _deploy(facts)
    done = rehearsal.passed('export')
    yield Ability('write a Swift package', 'yes' if done else 'no',
                  '' if done else _stopped(rehearsal))
    yield from _apple(facts)


def _stopped(rehearsal: Rehearsal) -> str:
    broken = [s for s in rehearsal.steps if not s.ok]
    return f'stopped at: {broken[0].title}' if broken else 'not reached'


def _kernels(facts: Facts) -> Ability:
    if facts.compiler:
        return Ability('compile the kernels for depthwise units', 'yes',
                       facts.compiler)
    return Ability('compile the kernels for depthwise units', 'no',
                   'no C++ compiler; training is slower without them')


def _gpu(rehearsal: Rehearsal) -> Ability:
    if not rehearsal.passed('import torch'):
        return Ability('train on a GPU', 'no', _stopped(rehearsal))
    return Ability('train on a GPU', 'yes' if rehearsal.cuda else 'no',
                   'torch finds CUDA' if rehearsal.cuda else
                   'torch finds no CUDA device')


def _deploy(facts: Facts) -> Ability:
    version = facts.installed.get('mmdeploy')
    return Ability('export through mmdeploy', 'yes' if version else 'no',
                   f'mmdeploy {version}' if version else
                   'mmdeploy is not installed (optional)')


def _apple(facts: Facts) -> Iterator[Ability]:
    """What needs a Mac: not the numbers, but Apple's own software."""
    mac = facts.system == _MAC
    lacking = 'macOS only; the reference runtime gives the same numbers ' \
        'anywhere'
    yield Ability("run a file in Apple's Core ML runtime",
                  'yes' if mac else 'no', '' if mac else lacking)
    yield Ability('measure latency, memory and the compute units used',
                  'yes' if mac else 'no',
                  '' if mac else 'needs a Mac or a phone: run bench of the '
                  'Swift package there')
    builds = mac and facts.swift is not None
    yield Ability('compile the Swift package', 'yes' if builds else 'no',
                  str(facts.swift) if builds else
                  'CoreML.framework is part of macOS and Xcode')
