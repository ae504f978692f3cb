"""Methods side by side, scheme by scheme: top-1 with its spread, and size."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from rich.box import SIMPLE_HEAD
from rich.table import Table

from ....errors import MobileOneExtError
from ....utils.text import figures_table
from .options import METHODS

_ABSENT = '\u2013'
HEADS = ('top-1 %, mean', 'std', 'min to max', 'seeds', 'size KiB')


@dataclass(frozen=True)
class CellResult:
    """One scored file.

    Attributes:
        method, scheme, seed: which.
        top1: of the file on the test split, in %; None: it differs from its network, and is not
            written.
        size_bytes: of the file.
    """

    method: str
    scheme: str
    seed: int
    top1: Optional[float]
    size_bytes: int

    @classmethod
    def read(cls, path: Path) -> CellResult:
        """Read what was kept.

        Raises:
            MobileOneExtError: it is something else.
        """
        try:
            return cls(**json.loads(path.read_text('utf-8')))
        except (ValueError, TypeError) as error:
            raise MobileOneExtError(f'{path} holds no result of a file: {error}') from error


def rows(results: Sequence[CellResult], words: Mapping[str, str] = METHODS) -> Iterator[list[str]]:
    """Scheme, method and figures, by scheme; the float network comes first."""
    groups: dict[tuple[str, str], list[CellResult]] = {}
    for result in results:
        groups.setdefault((result.scheme, result.method), []).append(result)
    order = list(dict.fromkeys(result.scheme for result in results))
    for scheme, method in sorted(groups, key=lambda pair: order.index(pair[0])):
        found = groups[scheme, method]
        yield [scheme, words[method], *_figures(found)]


def _figures(found: Sequence[CellResult]) -> list[str]:
    scores = [result.top1 for result in found if result.top1 is not None]
    seeds = str(len(found)) if len(scores) == len(found) else f'{len(scores)} of {len(found)}'
    if not scores:
        return [_ABSENT] * 3 + [seeds, _ABSENT]
    std = f'{statistics.stdev(scores):.2f}' if len(scores) > 1 else _ABSENT
    size = statistics.fmean(result.size_bytes for result in found if result.top1 is not None)
    return [
        f'{statistics.fmean(scores):.2f}',
        std,
        f'{min(scores):.2f} to {max(scores):.2f}',
        seeds,
        f'{size / 1024:.1f}',
    ]


def results_table(results: Sequence[CellResult]) -> Table:
    """One row a scheme and method, for a terminal or a log."""
    # Seven columns leave room for words in a window of 80 only without lines between them.
    table = figures_table(
        ['scheme', 'method'],
        HEADS,
        title='exported files, on the test split',
        box=SIMPLE_HEAD,
        show_edge=False,
        padding=0,
    )
    for row in rows(results, {name: name for name in METHODS}):
        table.add_row(*row)
    return table
