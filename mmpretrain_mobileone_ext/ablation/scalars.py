"""Read the scalars that mmengine's LocalVisBackend leaves in a work dir."""
from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import MobileOneExtError


def last_score(work_dir: Path, metric: str) -> float:
    """The newest value of a validation metric.

    Raises:
        MobileOneExtError: the runs logged none; names what they logged.
    """
    found: list[float] = []
    names: set[str] = set()
    for record in _records(work_dir):
        names.update(record)
        if metric in record:
            found.append(float(record[metric]))
    if not found:
        scores = sorted(name for name in names if '/' in name)
        raise MobileOneExtError(f'{work_dir}: no validation logged {metric!r};'
                                f' there are {scores or "no metrics"}')
    return found[-1]


def median_step(work_dir: Path) -> float:
    """Median of the logged seconds a training step; NaN without any."""
    times = [float(r['time']) for r in _records(work_dir)
             if 'time' in r and 'loss' in r]
    return statistics.median(times) if times else float('nan')


def _records(work_dir: Path) -> Iterator[dict[str, Any]]:
    """All records, in the order in which they were written.

    Each start of a run has a folder of its own, named by date and time.
    """
    for path in sorted(work_dir.glob('*/vis_data/scalars.json')):
        for line in path.read_text().splitlines():
            try:
                yield json.loads(line)
            except ValueError:
                continue  # the line during which a run was killed
