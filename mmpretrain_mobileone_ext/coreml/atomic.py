"""A file or package that appears under its name whole, or not at all.

That holds for a process that is killed at any point: what it made so far is
in a hidden folder beside the target, ``.<name>.<random>.partial``, that the
next process with the same target removes. A folder belongs to a process as
long as that holds a lock on it, which the system takes back when it ends.
"""
from __future__ import annotations

import contextlib
import glob
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Optional

from ..errors import ExportError
from .exchange import exchange
from .export_options import check_free

try:
    import fcntl
except ImportError:  # Windows: abandoned folders stay
    fcntl = None  # type: ignore[assignment]

_OLD = '.old'


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target``, removed however the block ends.

    Beside it, because a rename is atomic on one disk only. Folders that
    killed processes left for the same target are removed first.

    Raises:
        ExportError: the disk refuses.
    """
    try:
        _clear_abandoned(target)
        folder, lock = _claimed_folder(target)
    except OSError as error:
        raise ExportError(f'{target}: cannot write beside it: '
                          f'{error}') from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _release(lock)


def install(made: Path, target: Path, force: bool) -> None:
    """Rename ``made`` to ``target``; an old target goes after that.

    A process that is killed meanwhile leaves the old or the new one whole.
    Where the system cannot swap two names at once, it may leave none; the
    next :func:`workspace` then gives the old one its name back.

    Args:
        made: complete file or package in a :func:`workspace`.
        force: replace an existing target.

    Raises:
        ExportError: the target appeared meanwhile, or the disk refuses; an
            old target is then in place.
    """
    check_free(target, force)
    try:
        _give_usual_modes(made)
        old = _swap(made, target)
    except OSError as error:
        raise ExportError(f'{target}: cannot write: {error}') from error
    _remove(old)


def _give_usual_modes(made: Path) -> None:
    """What other users may read: coremltools saves private files."""
    mode = made.parent.stat().st_mode & 0o777
    for path in (made, *made.rglob('*')):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def _swap(made: Path, target: Path) -> Path:
    """Give ``made`` its name; returns where an old target is now."""
    if made.is_file():
        os.replace(made, target)
        return made
    if not os.path.lexists(target):
        os.rename(made, target)
        return made
    if exchange(made, target):
        return made
    aside = made.with_name(target.name + _OLD)
    try:
        os.rename(target, aside)
        os.rename(made, target)
    except BaseException:
        _take_back(aside, target)
        raise
    return aside


def _take_back(aside: Path, target: Path) -> None:
    if os.path.lexists(aside) and not os.path.lexists(target):
        os.rename(aside, target)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)


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
    pattern = f'.{glob.escape(target.name)}.*.partial'
    for folder in target.parent.glob(pattern):
        try:
            lock = _claim(folder)
        except OSError:
            continue  # its process lives, or another one removes it
        if lock is not None:
            _take_back(folder / (target.name + _OLD), target)
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
