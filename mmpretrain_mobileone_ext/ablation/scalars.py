"""Read the scalars that mmengine's LocalVisBackend leaves in a work dir.

Each start of a run has a folder of its own, named by date and time. A clock
may be set back between two starts, so what counts is the epoch (the
iteration, where a run counts those) that a record states.
"""
from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Optional

from ..errors import MobileOneExtError


class _Validation(NamedTuple):
    """The last one of a start: how far it had trained, and the score."""
    step: float
    score: float
    file: Path


def last_score(work_dir: Path, metric: str) -> float:
    """A validation metric at the end of the training.

    Raises:
        MobileOneExtError: the runs logged none (names what they logged), the
            training went on after it, or two runs that ended there differ.
    """
    starts = [(path, list(_records(path))) for path in _files(work_dir)]
    records = [record for _, start in starts for record in start]
    found = [v for path, start in starts
             if (v := _last_validation(start, metric, path)) is not None]
    if not found:
        scored = sorted({name for r in records for name in r if '/' in name})
        raise MobileOneExtError(f'{work_dir}: no validation logged {metric!r};'
                                f' there are {scored or "no metrics"}')
    trained = max((r.get('epoch', 0) for r in records
                   if 'loss' in r and metric not in r), default=0)
    return _agreed(found, trained, work_dir)


def _last_validation(start: list[dict[str, Any]], metric: str,
                     path: Path) -> Optional[_Validation]:
    found = [_Validation(r.get('step', 0), float(r[metric]), path)
             for r in start if metric in r]
    # Of equal steps the later line.
    return max(reversed(found), key=lambda v: v.step, default=None)


def _agreed(found: list[_Validation], trained: float, work_dir: Path) -> float:
    end = max(v.step for v in found)
    if end < trained:
        raise MobileOneExtError(
            f'{work_dir}: the last validation is of epoch {end:g}, but '
            f'epoch {trained:g} was trained; remove the folder to train again')
    last = {str(v.score): v for v in found if v.step == end}
    if len(last) > 1:
        listed = ', '.join(f'{score} in {v.file}' for score, v in last.items())
        raise MobileOneExtError(
            f'{work_dir} holds several runs that ended at {end:g} with '
            f'different scores: {listed}; remove those that do not count')
    return found[[v.step for v in found].index(end)].score


def scored_steps(work_dir: Path, metric: str) -> set[int]:
    """The epochs (or iterations) that were validated."""
    return {int(r['step']) for path in _files(work_dir)
            for r in _records(path) if metric in r and 'step' in r}


def median_step(work_dir: Path) -> float:
    """Median of the logged seconds a training step; NaN without any."""
    times = [float(r['time']) for path in _files(work_dir)
             for r in _records(path) if 'time' in r and 'loss' in r]
    return statistics.median(times) if times else float('nan')


def _files(work_dir: Path) -> list[Path]:
    return sorted(work_dir.glob('*/vis_data/scalars.json'))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """All records of one start, in the order in which they were written."""
    for line in path.read_text('utf-8', errors='replace').splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the line during which a run was killed
        if isinstance(record, dict):
            yield record
