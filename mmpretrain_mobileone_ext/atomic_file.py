"""A file or package that appears under its name whole, or not at all.

That holds for a process that is killed at any point: what it made so far is
in a hidden folder beside the target, ``.<name>.<random>.partial``, that the
next process with the same target removes. A folder belongs to a process as
long as that holds a lock on it, which the system takes back when it ends.
The lock is on the folder itself, so that it leaves no file of its own:
``filelock`` would need one inside, and some of its versions make a folder
that another process has just removed again.
"""
from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Optional

from .errors import MobileOneExtError

try:
    import fcntl
except ImportError:  # Windows: abandoned folders stay
    fcntl = None  # type: ignore[assignment]

#: Suffix of an old target in a workspace, until the new one has its name.
OLD = '.old'
_RANDOM = '[0-9a-f]' * 32


def write_whole(path: Path,
                write: Callable[[Path], Any],
                error: type[MobileOneExtError] = MobileOneExtError) -> Path:
    """Let ``write`` make a file, then give it the name ``path``.

    The file is made in a :func:`workspace`, under its own name, because
    writers choose a format by it.

    Args:
        path: target; its folder must exist.
        write: called with the path of the file to make.
        error: raised where the disk refuses.

    Returns:
        ``path``.

    Raises:
        MobileOneExtError: the disk refuses; an old file is then in place.
    """
    with workspace(path, error) as folder:
        made = folder / path.name
        try:
            write(made)
            _flush(made)
            os.replace(made, path)
        except OSError as reason:
            raise error(f'{path} cannot be written: {reason}') from reason
    return path


@contextlib.contextmanager
def workspace(target: Path,
              error: type[MobileOneExtError] = MobileOneExtError,
              ) -> Iterator[Path]:
    """A hidden folder beside ``target``, removed however the block ends.

    Beside it, because a rename is atomic on one disk only. Folders that
    killed processes left for the same target are removed first.

    Args:
        target: what is made in the folder; its own folder must exist.
        error: raised where the disk refuses the folder.

    Raises:
        MobileOneExtError: the disk refuses.
    """
    try:
        _clear_abandoned(target)
        folder, lock = _claimed_folder(target)
    except OSError as reason:
        raise error(f'{target} cannot be written: {reason}') from reason
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _release(lock)


def take_back(aside: Path, target: Path) -> None:
    """Give an old target its name back, if nothing else has it."""
    if os.path.lexists(aside) and not os.path.lexists(target):
        os.rename(aside, target)


def _flush(made: Path) -> None:
    """A rename may reach the disk before the content does."""
    with open(made, 'rb+') as handle:
        os.fsync(handle.fileno())


def _claimed_folder(target: Path) -> tuple[Path, Optional[int]]:
    """A new folder and the lock that makes it ours."""
    while True:
        folder = target.with_name(
            f'.{target.name}.{uuid.uuid4().hex}.partial')
        folder.mkdir()
        try:
            lock = _claim(folder)
        except (BlockingIOError, FileNotFoundError):
            continue  # another process took it for abandoned
        if folder.is_dir():
            return folder, lock
        _release(lock)


def _clear_abandoned(target: Path) -> None:
    """Remove folders of processes that are gone."""
    pattern = f'.{glob.escape(target.name)}.{_RANDOM}.partial'
    for folder in target.parent.glob(pattern):
        try:
            lock = _claim(folder)
        except OSError:
            continue  # its process lives, or another one removes it
        if lock is not None:
            take_back(folder / (target.name + OLD), target)
            shutil.rmtree(folder, ignore_errors=True)
            _release(lock)


def _claim(folder: Path) -> Optional[int]:
    """Lock a folder until the descriptor is closed or the process ends.

    Returns:
        None where the system or the disk (NFS) has no such locks.

    Raises:
        BlockingIOError: another one has it.
    """
    if fcntl is None:
        return None
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise
    except OSError:
        os.close(descriptor)
        return None
    return descriptor


def _release(lock: Optional[int]) -> None:
    if lock is not None:
        os.close(lock)
