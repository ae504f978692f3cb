"""Command line of ``tools/export_coreml.py``, made from ``ExportOptions``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Optional

from rich.table import Table

from ..errors import ExportError
from ..export.options import OPTIONS, ExportOptions, explained, flag
from ..export.result import ExportResult
from ..exporter import run_export
from ..utils.text import PlainConsole, print_path
from .cli import ToolParser


def parser() -> argparse.ArgumentParser:
    """The arguments; values are checked by ``ExportOptions``."""
    p = ToolParser(
        error_type=ExportError,
        description='Export an image classifier to Core ML: '
        'folded, normalization baked in, and compared with torch before the file gets its name.',
    )
    p.add_argument('config', help='config of mmpretrain or this package')
    p.add_argument('checkpoint', help='branch or deploy checkpoint')
    for name, option in OPTIONS.items():
        argument = dict(option.metadata['argument'])
        if not argument.get('required') and 'action' not in argument:
            argument['default'] = option.default
        p.add_argument(flag(name), help=explained(name).replace('%', '%%'), **argument)
    p.add_cfg_options()
    return p


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
