"""Command line of ``tools/report.py``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Optional, Union

from ..errors import MobileOneExtError
from ..report.collect import collect
from ..report.page import write_report
from ..utils.checks import refuse
from ..utils.files import check_apart
from .console.scoring import report_parser


def run(argv: Optional[Sequence[str]] = None) -> Path:
    """Write the report that the command line asks for; returns the page.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    given = report_parser().parse_args(argv)
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
