"""Give a package, made in a workspace, its name in one step."""
from __future__ import annotations

import os
import shutil
from pathlib import Path

from ..atomic_file import OLD, take_back
from ..errors import ExportError
from .exchange import exchange
from .export_options import check_free


def install(made: Path, target: Path, force: bool) -> None:
    """Rename ``made`` to ``target``; an old target goes after that.

    A process that is killed meanwhile leaves the old or the new one whole.
    Where the system cannot swap two names at once, it may leave none; the
    next ``atomic_file.workspace`` then gives the old one its name back.

    Args:
        made: complete file or package in a workspace.
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
    aside = made.with_name(target.name + OLD)
    try:
        os.rename(target, aside)
        os.rename(made, target)
    except BaseException:
        take_back(aside, target)
        raise
    return aside


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
