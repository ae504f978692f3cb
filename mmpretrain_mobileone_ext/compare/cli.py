"""Command line of ``tools/compare.py``."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ..benchmark.files import check_folder
from ..errors import MobileOneExtError, SpecError
from ..outside_text import PlainConsole
from ..tool_parser import ToolParser

_LOG_WIDTH = 120


def parser() -> argparse.ArgumentParser:
    """The arguments; values are checked by ``run_comparison``."""
    p = ToolParser(error_type=SpecError,
                   description='Compare classifiers with random weights: '
                   'parameters, FLOPs, latency of the folded network on this '
                   'CPU, size and operations of a real Core ML file, and '
                   'accuracy as published.')
    p.add_argument('models', nargs='*', metavar='MODEL',
                   help='names of mmpretrain.list_models() or config files '
                   '(default: MobileOne S0-S4 and six peers)')
    p.add_argument('--out', type=Path, metavar='DIR',
                   help='write compare.md, .csv, .json and .png')
    p.add_argument('--bench', type=Path, nargs='+', default=[],
                   metavar='FILE', help="JSON of a Swift package's bench; its "
                   'model has the name of one of the models')
    for name, default, text in (('--size', 224, 'pixels'),
                                ('--threads', 1, "torch's threads"),
                                ('--rounds', 30, 'timed runs of each')):
        p.add_argument(name, type=int, default=default, metavar='N',
                       help=f'{text} (default: {default})')
    p.add_argument('--coreml', action=argparse.BooleanOptionalAction,
                   default=True, help='convert to Core ML (default: yes)')
    p.add_argument('--onnx', action=argparse.BooleanOptionalAction,
                   default=True, help='time ONNX Runtime, where it is '
                   'installed (default: yes)')
    return p


def run(argv: Optional[Sequence[str]] = None) -> None:
    """Compare as the command line says; print a table.

    Raises:
        MobileOneExtError: a wrong argument; or, after everything is written,
            models that failed.
    """
    given = vars(parser().parse_args(argv))
    out, names = given.pop('out'), given.pop('models')
    check_folder(out)
    from .entries import DEFAULT
    from .present import WEIGHTS_NOTE, comparison_table, write_comparison
    from .run import run_comparison
    found = run_comparison(names or DEFAULT, **given)
    console = PlainConsole()
    if not console.is_terminal:  # a log is not 80 columns wide
        console = PlainConsole(width=_LOG_WIDTH)
    console.print(comparison_table(found))
    for note in (WEIGHTS_NOTE, *found.notes):
        console.print(note, highlight=False)
    for path in [] if out is None else write_comparison(found, out):
        console.print(str(path), highlight=False)
    if found.failed:
        raise MobileOneExtError(
            f'{len(found.failed)} of {len(found.rows)} models failed: '
            + '; '.join(f'{r.label}: {r.failure}' for r in found.failed))
