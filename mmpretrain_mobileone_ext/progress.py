"""Steps of a long job: a moving bar on a terminal, else a line a step."""
from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Optional

from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
)

from .outside_text import PlainConsole, shown


class Steps:
    """Report steps on stderr.

    Args:
        show: False reports nothing.
    """

    def __init__(self, show: bool):
        self._console = PlainConsole(
            stderr=True, quiet=not show, highlight=False)

    @contextmanager
    def step(self, title: str,
             total: Optional[int] = None) -> Iterator[Callable[[int], None]]:
        """Run a block as one step; yields a function to advance a count."""
        columns = [SpinnerColumn(),
                   TextColumn('{task.description}', markup=False)]
        if total is not None:
            columns += [BarColumn(), MofNCompleteColumn()]
        start = time.monotonic()
        with Progress(
                *columns,
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
                disable=not self._console.is_terminal) as bar:
            task = bar.add_task(shown(title), total=total)
            yield lambda count: bar.advance(task, count)
        self._console.print(f'{title}: {time.monotonic() - start:.1f} s')
