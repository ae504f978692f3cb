"""Command line of ``tools/export_coreml.py``, made from ``ExportOptions``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from rich.table import Table

from ..export.options import ExportOptions
from ..export.result import ExportResult
from ..exporter import run_export
from ..utils.explain import check_not_swapped
from ..utils.text import PlainConsole, print_path
from .console.exporting import export_parser


def run(argv: Optional[Sequence[str]] = None) -> ExportResult:
    """Export as the command line says, with progress on stderr.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = vars(export_parser().parse_args(argv))
    config, checkpoint = given.pop('config'), given.pop('checkpoint')
    cfg_options = given.pop('cfg_options')
    check_not_swapped(config)
    return run_export(config, checkpoint, ExportOptions(**given), cfg_options, progress=True)


def main(argv: Optional[Sequence[str]] = None) -> None:
    """Export as the command line says, and print what was made."""
    print_summary(run(argv))


def print_summary(result: ExportResult) -> None:
    """One table, and the path on a line of its own."""
    table = Table(title=f'{result.options.format.title} export', show_header=False)
    table.add_column(style='bold', no_wrap=True)
    table.add_column(overflow='fold')
    for row in result.rows():
        table.add_row(*row)
    PlainConsole().print(table)
    print_path(result.path)
