"""What is installed, which known traps it holds, and what runs here.

Everything in this folder uses the standard library only and imports nothing
from the package around it, so that ``tools/doctor.py`` can load it where
torch, mmpretrain or the package itself are missing or broken. ``rehearsal``
is run in a process of its own.
"""
from __future__ import annotations

import argparse
import json
import sys
from typing import Any, Callable, Optional, Sequence

from .abilities import abilities
from .diagnosis import Diagnosis, Step
from .facts import gather
from .probe import rehearse
from .show import show, steps_on_terminal
from .traps import find_traps

__all__ = ['Diagnosis', 'diagnose', 'main']


def diagnose(
        announce: Callable[[Step], Any] = lambda step: None) -> Diagnosis:
    """Look at what is installed and rehearse the whole path once.

    Takes about as long as importing torch, mmpretrain and coremltools does,
    and a few seconds.

    Args:
        announce: told each finished step of the rehearsal.
    """
    facts = gather()
    rehearsal = rehearse(announce)
    return Diagnosis(
        facts=facts,
        findings=tuple(find_traps(facts)),
        rehearsal=rehearsal,
        abilities=tuple(abilities(facts, rehearsal)))


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Print a diagnosis.

    Returns:
        0 if the main job (train, fold, export, score) can run here, else 1.
    """
    parser = argparse.ArgumentParser(
        description='Compare what is installed with the tested versions, look '
        'for known traps, and rehearse training, folding, exporting and '
        'scoring on a tiny network. The exit code is 0 only if all of that '
        'can run here.')
    parser.add_argument('--json', action='store_true',
                        help='print JSON instead of text')
    given = parser.parse_args(argv)
    if given.json:
        found = diagnose()
        print(json.dumps(found.to_dict(), indent=2))
    else:
        with steps_on_terminal(sys.stdout) as announce:
            found = diagnose(announce)
        show(found, sys.stdout)
    return 0 if found.can_run else 1
