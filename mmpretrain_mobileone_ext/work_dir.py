"""A run's folder: who uses it, what was asked for, and what is done.

A killed run is gone on with by the same command, so its folder has to say
what it was asked for (``RunRecord``), where its training can go on
(``last_checkpoint``), and that nobody else is at it (``sole_use``).
"""
from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import time
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

from filelock import FileLock, Timeout
from rich.console import Console

from .atomic_file import write_whole
from .errors import MobileOneExtError

_LOCK, _HOLDER = '.lock', '.lock-holder'
_RECORD = 'run.json'
#: mmengine's note of the checkpoint that was saved last.
_LAST = 'last_checkpoint'
_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')


@contextlib.contextmanager
def sole_use(folder: Path, console: Console) -> Iterator[None]:
    """Hold a run's folder, which is made if missing, for a block.

    The system takes the lock back when the process ends, however it ends.

    Args:
        folder: what is held.
        console: told if the disk has no locks, so that a second run cannot
            be kept out.

    Raises:
        MobileOneExtError: another process holds it, or it cannot be written.
    """
    lock = FileLock(str(folder / _LOCK))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        (folder / _HOLDER).write_text(
            f'process {os.getpid()} on {platform.node()}, since '
            f'{time.strftime("%Y-%m-%d %H:%M:%S")}', 'utf-8')
    except Timeout:
        raise MobileOneExtError(
            f'{folder} is in use by {_holder(folder)}; wait for its end or '
            'choose another folder') from None
    except NotImplementedError:
        console.print(f'{folder}: its disk has no locks; start no second run '
                      'there')
    except OSError as error:
        raise MobileOneExtError(
            f'{folder} cannot be written: {error}') from error
    try:
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text(
            'utf-8', errors='replace') or 'another run'
    except OSError:
        return 'another run'


@dataclass(frozen=True)
class RunRecord:
    """What a run in a folder was asked for, and which steps are done.

    Attributes:
        folder: of the run; the record is its ``run.json``.
        asked: name to value of all that makes the run what it is.
        done: steps that are finished.
        finished: whether all are.
    """
    folder: Path
    asked: Mapping[str, str]
    done: tuple[str, ...] = field(default=())
    finished: bool = False

    @classmethod
    def begin(cls, folder: Path, asked: Mapping[str, str]) -> RunRecord:
        """Record a new run; what an earlier one left is gone on with no more.

        Raises:
            MobileOneExtError: the disk refuses.
        """
        # In this order: a kill in between leaves nothing to mix up.
        for name in (_RECORD, _LAST):
            (folder / name).unlink(missing_ok=True)
        return cls(folder, dict(asked))._written()

    @classmethod
    def read(cls, folder: Path) -> Optional[RunRecord]:
        """The record in a folder; None where there is none of this kind."""
        try:
            content = json.loads((folder / _RECORD).read_text('utf-8'))
            return cls(folder, content['asked'], tuple(content['done']),
                       content['finished'])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def goes_on(self, asked: Mapping[str, str]) -> bool:
        """Whether this is an unfinished run of what is asked for."""
        return not self.finished and self.asked == asked

    def differs_by(self, asked: Mapping[str, str]) -> str:
        """Names what is asked for otherwise; empty if nothing is."""
        others = [name for name in {**self.asked, **asked}
                  if self.asked.get(name) != asked.get(name)]
        return f' with other {", ".join(others)}' if others else ''

    def with_step(self, step: str) -> RunRecord:
        """Note that a step is done."""
        return dataclasses.replace(
            self, done=(*self.done, step))._written()

    def as_finished(self) -> RunRecord:
        """Note that all steps are done."""
        return dataclasses.replace(self, finished=True)._written()

    def _written(self) -> RunRecord:
        text = json.dumps(dict(asked=dict(self.asked), done=self.done,
                               finished=self.finished), indent=2)
        write_whole(self.folder / _RECORD,
                    lambda made: made.write_text(text + '\n', 'utf-8'))
        return self


def text_hash(text: str) -> str:
    """SHA-256 of a text, to tell whether it is another one."""
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()


def last_checkpoint(folder: Path) -> Optional[Path]:
    """The checkpoint that a training in ``folder`` can go on from, or None.

    A run that was killed while it wrote mmengine's note left that empty: the
    newest checkpoint is taken then. Without the note there is none, because
    what lies there may be of another run.
    """
    try:
        # Its folder's name may be in another encoding, its own is ASCII.
        noted = Path((folder / _LAST).read_text(
            'utf-8', errors='replace').strip()).name
    except (OSError, ValueError):
        return None
    found = folder / noted if noted else _newest_checkpoint(folder)
    # The directory of a zip file is its end: half a file has none.
    return found if found and zipfile.is_zipfile(found) else None


def _newest_checkpoint(folder: Path) -> Optional[Path]:
    """By epoch or iteration: a clock may have been set back."""
    numbers = {path: int(match[1]) for path in folder.iterdir()
               if (match := _NUMBERED.fullmatch(path.name))}
    return max(numbers, key=lambda path: numbers[path], default=None)


def resume_option(checkpoint: Optional[Path]) -> list[str]:
    """What makes ``tools/train.py`` go on from a checkpoint.

    Nothing where there is none: ``--resume`` would make it forget the
    weights that the config starts from.
    """
    return ['--resume', str(checkpoint.resolve())] if checkpoint else []
