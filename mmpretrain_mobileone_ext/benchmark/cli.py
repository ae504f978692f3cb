"""Command line of ``tools/benchmark_training.py``."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Optional

from ..errors import SpecError
from ..output_paths import check_apart
from ..tool_parser import ToolParser
from .options import AMP_DTYPES, DEVICES, FORMS, BenchmarkOptions
from .results import Report

_FORMS_HELP = '; '.join(f'{name}: {what}' for name, what in FORMS.items())


def parser() -> argparse.ArgumentParser:
    """The arguments; values are checked by ``BenchmarkOptions``."""
    p = ToolParser(error_type=SpecError,
                   description='What a training step (forward, loss, '
                   'backward) costs in every form of MobileOne, step by step '
                   'in turns in one process, and how exactly the forms agree.')
    several: dict[str, Any] = dict(nargs='+', metavar='X')
    p.add_argument('--arch', **several,
                   help='s0 ... s4 (default: s0; in a sweep all)')
    p.add_argument('--batch', type=int, **several,
                   help='images a step (default: 32; in a sweep 1 8 32)')
    p.add_argument('--size', type=int, **several,
                   help='pixels (default: 224; in a sweep 64 128 224)')
    p.add_argument('--forms', **several,
                   help=f'which are compared (default: all). {_FORMS_HELP}')
    for name, default, text in (('--threads', 2, "torch's threads"),
                                ('--steps', 5, 'timed steps of each form; '
                                 'in a sweep small inputs take more'),
                                ('--warmup', 2, 'steps before them'),
                                ('--seeds', 3, 'weights that are checked'),
                                ('--check-batch', 4, 'images of the check'),
                                ('--check-size', 64, 'their pixels')):
        p.add_argument(name, type=int, default=default, metavar='N',
                       help=f'{text} (default: {default})')
    p.add_argument('--amp', metavar='DTYPE',
                   help=f'autocast to {" or ".join(AMP_DTYPES)}')
    p.add_argument('--device', default='cpu', metavar='X',
                   help=f'{" or ".join(DEVICES)} (default: cpu)')
    p.add_argument('--check', action=argparse.BooleanOptionalAction,
                   help='measure exactness (default: yes; in a sweep no)')
    p.add_argument('--sweep', action='store_true',
                   help='compare two forms (default: branches auto) over '
                   'architectures, batches and sizes')
    p.add_argument('--json', type=Path, metavar='FILE',
                   help='write everything that was measured')
    p.add_argument('--plot', type=Path, metavar='FILE.png',
                   help='draw times and memory; in a sweep the ratios')
    return p


def run(argv: Optional[Sequence[str]] = None) -> Report:
    """Measure as the command line says, with progress on stderr.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = vars(parser().parse_args(argv))
    check_apart({'--json': given['json'], '--plot': given['plot']}, {})
    for name in ('arch', 'batch', 'size', 'forms'):
        given[name] = None if given[name] is None else tuple(given[name])
    options = BenchmarkOptions(**given)
    from .run import run_benchmark
    return run_benchmark(options)
