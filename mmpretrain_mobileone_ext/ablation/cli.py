"""Command line of ``tools/ablate.py``."""
from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmengine.config import DictAction

from ..config_file import read_config
from ..outside_text import PlainConsole
from ..tool_parser import ToolParser
from .grid import grid_from
from .present import summary_table, write_results
from .results import TrialResult, summarize
from .run import run_grid


def parser() -> argparse.ArgumentParser:
    """The arguments; their values are checked by ``grid_from``."""
    p = ToolParser(
        description='Train variants of one config with several seeds, one '
        'after another, and compare them: a table, CSV and a plot. Run it '
        'again to go on: what is done is skipped, what was interrupted '
        'resumes.')
    p.add_argument('config', help='what the variants share; its '
                   "ablation = dict(variants={name: options}, seeds=...) "
                   'says what differs')
    p.add_argument('--vary', action='append', default=[],
                   metavar='KEY=V,V', help='values of an option, as YAML; '
                   'several make a product')
    p.add_argument('--seeds', nargs='+', type=int, metavar='N',
                   help="default: the config's, or 0")
    p.add_argument('--out', type=Path, metavar='DIR',
                   help='default: work_dirs/ablate-<config>')
    p.add_argument('--metric', default='accuracy/top1',
                   help='validation metric (default: %(default)s)')
    p.add_argument('--cfg-options', nargs='+', action=DictAction,
                   help='options that all variants share, as of train.py')
    return p


def run(argv: Optional[Sequence[str]] = None) -> Path:
    """Train and compare as the command line says.

    Returns:
        The folder with the results.

    Raises:
        MobileOneExtError: see ``grid_from`` and ``run_grid``.
    """
    args = parser().parse_args(argv)
    config = read_config(args.config)
    grid = grid_from(config.get('ablation'), args.vary, args.seeds)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    out = args.out or Path('work_dirs') / f'ablate-{Path(args.config).stem}'
    console = PlainConsole(stderr=True, highlight=False)

    def keep(results: list[TrialResult]) -> None:
        write_results(results, out)

    results = run_grid(config, grid, out, metric=args.metric,
                       console=console, each=keep)
    PlainConsole().print(summary_table(summarize(results)))
    return out
