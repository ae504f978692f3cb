"""Command line of ``tools/deploy_mmdeploy.py``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Optional

from rich.table import Table

from ...errors import ExportError
from ...utils.files import check_apart, check_writable
from ...utils.text import PlainConsole, Steps, print_path
from ..console.exporting import deploy_parser
from .compare import ExporterRow, compare_exporters, comparison_table, write_comparison
from .deploy import DeployResult, run_deploy
from .deploy_config import DeployOptions, read_deploy_config


def run(argv: Optional[Sequence[str]] = None) -> None:
    """Deploy as the command line says; print tables and the path.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    args = deploy_parser().parse_args(argv)
    if args.json is not None and not args.compare:
        raise ExportError('--json writes what --compare shows; give both')
    check_writable(args.json)
    options = DeployOptions(args.out, args.image_size, args.verify_data, args.force)
    check_apart(
        {'out': options.out, '--json': args.json},
        {'deploy_cfg': args.deploy_cfg, 'config': args.config, 'checkpoint': args.checkpoint},
        ExportError,
        package='out',
    )
    deploy = read_deploy_config(args.deploy_cfg)
    rows: list[ExporterRow] = []
    if args.compare:
        result, rows = compare_exporters(
            deploy, args.config, args.checkpoint, options, args.cfg_options, progress=True
        )
    else:
        result = run_deploy(
            deploy, args.config, args.checkpoint, options, args.cfg_options, Steps(True)
        )
    if args.json is not None:
        write_comparison(rows, args.json)
    _print(result, rows)


def _print(result: DeployResult, rows: Sequence[ExporterRow]) -> None:
    table = Table(title='mmdeploy', show_header=False)
    table.add_column(style='bold', no_wrap=True)
    table.add_column(overflow='fold')
    for row in result.rows():
        table.add_row(*row)
    console = PlainConsole()
    console.print(table)
    if rows:
        console.print(comparison_table(rows))
    print_path(result.path)
