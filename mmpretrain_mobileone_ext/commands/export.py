"""Command line of ``tools/export_coreml.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Optional

from mmengine.config import DictAction
from rich.table import Table

from ..coreml.targets import COMPUTE_UNITS, TARGETS
from ..errors import ExportError
from ..export.job import ExportResult
from ..export.options import DEFAULT_TARGET, INPUTS, OUTPUTS, PRECISIONS, ExportOptions
from ..exporter import run_export
from ..utils.text import PlainConsole, print_path
from .cli import ToolParser


def parser() -> argparse.ArgumentParser:
    """The arguments; values are checked by ``ExportOptions``."""
    p = ToolParser(
        error_type=ExportError,
        description='Export an image classifier to Core ML: '
        'folded, normalization baked in, and compared with torch '
        'before the file gets its name.',
    )
    p.add_argument('config', help='config of mmpretrain or this package')
    p.add_argument('checkpoint', help='branch or deploy checkpoint')
    p.add_argument(
        '--out', required=True, help='.mlpackage (mlprogram) or .mlmodel (neuralnetwork)'
    )
    for name, allowed, default in (
        ('--precision', PRECISIONS, 'fp16'),
        ('--deployment-target', TARGETS, DEFAULT_TARGET),
        ('--compute-units', COMPUTE_UNITS, 'ALL'),
        ('--input', INPUTS, 'image'),
        ('--outputs', OUTPUTS, 'class'),
    ):
        p.add_argument(
            name, default=default, metavar='X', help=f'{", ".join(allowed)} (default: {default})'
        )
    p.add_argument(
        '--classes',
        metavar='FILE',
        help="one label a line (default: the checkpoint's or the data set's)",
    )
    p.add_argument(
        '--image-size', nargs='+', metavar='N', help="H or H W (default: the test pipeline's)"
    )
    p.add_argument(
        '--verify-data',
        metavar='test|N|none',
        help='whole test split, N of its images, or seeded noise '
        '(default: 100; test with --compress auto)',
    )
    _add_compression(p)
    _add_shapes(p)
    p.add_argument('--swift', metavar='DIR', help='write a Swift package with the model in it')
    p.add_argument('--report', metavar='DIR', help='write a page that shows every form tried')
    p.add_argument('--force', action='store_true', help='replace an existing file')
    p.add_argument('--author', default='', help='for the metadata')
    p.add_argument('--license', default='', help='for the metadata')
    p.add_argument(
        '--cfg-options',
        nargs='+',
        action=DictAction,
        help='key=value pairs, merged into the config',
    )
    return p


def _add_compression(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--compress',
        default='none',
        metavar='SCHEME',
        help='none, int8, palettize8, 6, 4 or 2, prune<percent>, '
        'joint, or auto: the smallest file within --max-drop '
        '(default: none)',
    )
    p.add_argument(
        '--max-drop',
        type=float,
        metavar='P',
        help='percentage points of top-1 that compression may '
        "cost (default: of auto 0.5, else the scheme's own)",
    )


def _add_shapes(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        '--extra-sizes',
        nargs='+',
        default=(),
        metavar='HxW',
        help='further image sizes that the program accepts',
    )
    p.add_argument(
        '--batch-sizes',
        nargs='+',
        default=(1,),
        metavar='N',
        help='numbers of images that it accepts at a time; needs --input tensor',
    )


def run(argv: Optional[Sequence[str]] = None) -> ExportResult:
    """Export as the command line says, with progress on stderr.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = vars(parser().parse_args(argv))
    config, checkpoint = given.pop('config'), given.pop('checkpoint')
    cfg_options = given.pop('cfg_options')
    return run_export(config, checkpoint, ExportOptions(**given), cfg_options, progress=True)


def print_summary(result: ExportResult) -> None:
    """One table, and the path on a line of its own."""
    table = Table(title='Core ML export', show_header=False)
    table.add_column(style='bold', no_wrap=True)
    table.add_column(overflow='fold')
    for row in result.rows():
        table.add_row(*row)
    PlainConsole().print(table)
    print_path(result.path)
