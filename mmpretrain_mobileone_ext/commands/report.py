"""Command line of ``tools/report.py``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from ..errors import MobileOneExtError
from ..report.collect import collect
from ..report.page import write_report
from ..utils.accuracy import DEFAULT_DROP
from ..utils.checks import refuse
from ..utils.files import check_apart
from .cli import ToolParser


def parser() -> argparse.ArgumentParser:
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


def run(argv: Optional[Sequence[str]] = None) -> Path:
    """Write the report that the command line asks for; returns the page.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = parser().parse_args(argv)
    out = given.out or given.work_dir / 'report'
    check_apart({'--out': out}, {})
    data = collect(
        given.work_dir,
        config=given.config,
        checkpoint=given.checkpoint,
        images=_images(given.images),
        cfg_options=given.cfg_options,
        max_drop=given.max_drop,
        progress=True,
    )
    return write_report(data, out)


def _images(value: str) -> Union[int, str]:
    if value == 'test':
        return value
    if not value.isdecimal() or int(value) < 1:
        refuse('--images', value, "'test' or a number of images, at least 1", MobileOneExtError)
    return int(value)
