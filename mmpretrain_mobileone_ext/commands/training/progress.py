"""How far a training has come, read from the lines that mmengine logs.

A terminal sees one live line, and so does a notebook that has ipywidgets: epoch of how many, loss,
time left, and the last validation's score. Elsewhere a start line and one line an epoch are
printed. The log itself is left as it is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from importlib.util import find_spec
from types import TracebackType
from typing import Optional

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from ...utils.text import counted

#: ``Epoch(train) [3][10/20]``, ``Iter(train) [10/200]``, ``Epoch(val) [3][5/5]``.
_LINE = re.compile(
    r'(?:Epoch|Iter)\((?P<stage>train|val|test)\) +(?:\[ *(?P<epoch>\d+)\])?'
    r'\[ *(?P<step>\d+)/ *(?P<steps>\d+)\](?P<figures>.*)'
)
_LOSS = re.compile(r'\bloss: ([\w.+-]+)')
_ETA = re.compile(r'\beta: ((?:\d+ days?, )?[\d:]+)')
#: The first figure of a validation that is a score and no time.
_SCORE = re.compile(r'(\S+): ([\d.]+)')
_NO_SCORES = ('data_time', 'time')
_SHARE = 20  # lines that a run without epochs prints


@dataclass(frozen=True)
class Progressed:
    """Where a run is.

    Attributes:
        stage: 'train', 'val' or 'test'; '' before the first line.
        epoch: that is trained, from 1; 0 in a run that counts iterations.
        step, steps: iterations done and to do: of the epoch, of a run without epochs, or of a
            split that is scored.
        loss: as logged last, '' where none was.
        eta: time left, h:mm:ss, as logged last.
        score: of the last validation, in words, with its epoch.
    """

    stage: str = ''
    epoch: int = 0
    step: int = 0
    steps: int = 0
    loss: str = ''
    eta: str = ''
    score: str = ''

    def after(self, line: str) -> Optional[Progressed]:
        """What a line of the log makes of it; None where the line says nothing of it."""
        found = _LINE.search(line)
        if found is None:
            return None
        figures, stage = found['figures'], found['stage']
        now = replace(self, stage=stage, step=int(found['step']), steps=int(found['steps']))
        if stage == 'train':
            loss, eta = _LOSS.search(figures), _ETA.search(figures)
            return replace(
                now,
                epoch=int(found['epoch'] or 0),
                loss=loss[1] if loss else now.loss,
                eta=eta[1] if eta else now.eta,
            )
        score = _score(figures)
        if stage == 'val' and score:
            where = f' (epoch {found["epoch"]})' if found['epoch'] else ''
            return replace(now, score=f'{score}{where}')
        return now


def _score(figures: str) -> str:
    """``accuracy/top1: 91.2`` as ``top1 91.20``."""
    for name, value in _SCORE.findall(figures):
        if name not in _NO_SCORES:
            return f'{name.rpartition("/")[2]} {float(value):.2f}'
    return ''


class TrainingProgress:
    """Shows where a run is while its log is read; a context manager.

    Args:
        title: of the step, such as 'train'.
        console: what it is shown on.
        epochs: of the whole run; None where it counts iterations, or scores.
    """

    def __init__(self, title: str, console: Console, epochs: Optional[int] = None):
        self._title, self._console, self._epochs = title, console, epochs
        self._now = Progressed()
        self._printed = -1  # the last epoch, or share of the iterations, that has a line
        self._is_live = _is_live(console)
        columns = (
            TextColumn('{task.description}', markup=False),
            BarColumn(bar_width=20),
            TextColumn('{task.fields[words]}', markup=False),
            TimeElapsedColumn(),
        )
        self._bar = Progress(*columns, console=console, transient=True, disable=not self._is_live)
        self._task = self._bar.add_task(title, total=None, words='')

    def __enter__(self) -> TrainingProgress:
        self._bar.start()
        if not self._is_live and self._epochs:
            self._console.print(f'{self._title}: {counted(self._epochs, "epoch")}')
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        trace: Optional[TracebackType],
    ) -> None:
        self._bar.stop()
        self._print_once(self._now)

    def read(self, line: str) -> None:
        """Show what a line of the log says."""
        before, now = self._now, self._now.after(line)
        if now is None:
            return
        self._now = now
        if self._is_live:
            self._bar.update(
                self._task, total=self._total(), completed=self._done(), words=self.words(now)
            )
        # The epoch before is complete, its validation too.
        elif self._unit(before) != self._unit(now):
            self._print_once(before)

    def words(self, now: Progressed) -> str:
        """A state on one line."""
        of = f'/{self._epochs}' if self._epochs else ''
        parts = [f'epoch {now.epoch}{of}'] if now.epoch else []
        if now.stage != 'train' or not now.epoch:
            kind = 'iteration' if now.stage == 'train' else now.stage
            parts.append(f'{kind} {now.step}/{now.steps}')
        parts += [f'loss {now.loss}'] if now.loss else []
        parts += [now.score] if now.score else []
        parts += [f'{now.eta} left'] if now.eta else []
        return ', '.join(parts)

    def _unit(self, now: Progressed) -> int:
        """What has one line: an epoch, else a share of the iterations."""
        if now.epoch:
            return now.epoch
        return _SHARE * now.step // now.steps if now.stage == 'train' and now.steps else 0

    def _print_once(self, now: Progressed) -> None:
        trains = bool(now.epoch or now.stage == 'train')
        if self._is_live or not trains or self._unit(now) <= self._printed:
            return
        self._printed = self._unit(now)
        self._console.print(f'{self._title}: {self.words(replace(now, stage="train"))}')

    def _total(self) -> Optional[float]:
        return self._epochs if self._epochs and self._now.epoch else self._now.steps or None

    def _done(self) -> float:
        now = self._now
        if not (self._epochs and now.epoch):
            return now.step
        return now.epoch - 1 + (now.step / now.steps if now.stage == 'train' else 1)


def _is_live(console: Console) -> bool:
    """Whether a line can be drawn again in place."""
    if console.is_jupyter:
        return find_spec('ipywidgets') is not None
    return console.is_terminal
