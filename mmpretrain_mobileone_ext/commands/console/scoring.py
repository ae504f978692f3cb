"""Parsers of the commands that score and compare."""

from __future__ import annotations

import argparse
from pathlib import Path

from ...errors import SpecError
from ...utils.accuracy import DEFAULT_DROP
from ..cli import ToolParser


def report_parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(
        description='Score every form of a network that a work dir '
        'holds (branches, folded, Core ML files) on the test split, '
        'and show all of it on one page.'
    )
    p.add_argument('work_dir', type=Path, help='folder of a training')
    p.add_argument(
        '--out',
        type=Path,
        metavar='DIR',
        help='folder for report.html and report.json (default: WORK_DIR/report)',
    )
    p.add_argument('--config', type=Path, help='default: the *.py of the work dir')
    p.add_argument('--checkpoint', type=Path, help='default: the last one of the work dir')
    p.add_argument(
        '--images',
        default='test',
        metavar='test|N',
        help='whole test split, or N of its images (default: test)',
    )
    p.add_argument(
        '--max-drop',
        type=float,
        default=DEFAULT_DROP,
        metavar='P',
        help='percentage points of top-1 that the '
        f'recommended file may lose (default: {DEFAULT_DROP:g})',
    )
    p.add_cfg_options()
    return p


def compare_parser() -> ToolParser:
    """The arguments; values are checked by ``run_comparison``."""
    p = ToolParser(
        error_type=SpecError,
        description='Compare classifiers with random weights: '
        'parameters, FLOPs, latency of the folded network on this '
        'CPU, size and operations of a real Core ML file, and '
        'accuracy as published.',
    )
    p.add_argument(
        'models',
        nargs='*',
        metavar='MODEL',
        help='names of mmpretrain.list_models() or config files '
        '(default: MobileOne S0-S4 and six peers)',
    )
    p.add_argument('--out', type=Path, metavar='DIR', help='write compare.md, .csv, .json and .png')
    p.add_argument(
        '--bench',
        type=Path,
        nargs='+',
        default=[],
        metavar='FILE',
        help="JSON of a Swift package's bench; its model has the name of one of the models",
    )
    for name, default, text in (
        ('--size', 224, 'pixels'),
        ('--threads', 1, "torch's threads"),
        ('--rounds', 30, 'timed runs of each'),
    ):
        p.add_argument(
            name, type=int, default=default, metavar='N', help=f'{text} (default: {default})'
        )
    p.add_argument(
        '--coreml',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='convert to Core ML (default: yes)',
    )
    p.add_argument(
        '--onnx',
        action=argparse.BooleanOptionalAction,
        default=True,
        help='time ONNX Runtime, where it is installed (default: yes)',
    )
    return p
