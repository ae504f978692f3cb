"""Command line of ``tools/deploy_mmdeploy.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from rich.table import Table

from ...errors import ExportError
from ...utils.files import check_apart, check_writable
from ...utils.text import PlainConsole, Steps, print_path
from ..cli import ToolParser
from .compare import ExporterRow, compare_exporters, comparison_table, write_comparison
from .deploy import DeployResult, run_deploy
from .deploy_config import DeployOptions, read_deploy_config


def parser() -> argparse.ArgumentParser:
    """The arguments; values are checked by ``DeployOptions``."""
    p = ToolParser(
        error_type=ExportError,
        description="Convert a classifier with mmdeploy's own API "
        'to Core ML, ONNX Runtime or ncnn, on any OS, and compare '
        'the file with torch before it gets its name.',
    )
    p.add_argument('deploy_cfg', help='deploy config, configs/mmdeploy/...')
    p.add_argument('config', help='config of mmpretrain or this package')
    p.add_argument('checkpoint', help='branch or deploy checkpoint')
    p.add_argument(
        '--out', required=True, help='.mlpackage or .mlmodel, .onnx, or .ncnn (a folder)'
    )
    p.add_argument(
        '--image-size',
        nargs='+',
        type=int,
        metavar='N',
        help="H or H W (default: the deploy config's)",
    )
    p.add_argument(
        '--verify-data',
        default='100',
        metavar='test|N|none',
        help='whole test split, N of its images, or seeded noise (default: 100)',
    )
    p.add_argument('--force', action='store_true', help='replace an existing file')
    p.add_argument(
        '--compare', action='store_true', help='export with this package too, and show both'
    )
    p.add_argument('--json', type=Path, metavar='FILE', help='write what --compare shows')
    p.add_cfg_options()
    return p


def run(argv: Optional[Sequence[str]] = None) -> None:
    """Deploy as the command line says; print tables and the path.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    args = parser().parse_args(argv)
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
