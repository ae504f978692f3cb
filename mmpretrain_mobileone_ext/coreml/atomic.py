"""A file or package that appears under its name whole, or not at all."""
from __future__ import annotations

import contextlib
import os
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path

from ..errors import ExportError
from .export_options import check_free


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A hidden folder beside ``target``, removed however the block ends.

    Beside it, because a rename is atomic on one disk only. A killed process
    leaves a folder ``.<name>.<random>.partial`` that nothing mistakes for
    the target.

    Raises:
        ExportError: the disk refuses.
    """
    folder = target.with_name(f'.{target.name}.{uuid.uuid4().hex}.partial')
    try:
        folder.mkdir()
    except OSError as error:
        raise ExportError(f'{target}: cannot write beside it: '
                          f'{error}') from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def install(made: Path, target: Path, force: bool) -> None:
    """Rename ``made`` to ``target``; an old target goes after that.

    Args:
        made: complete file or package on the same disk.
        force: replace an existing target.

    Raises:
        ExportError: the target appeared meanwhile, or the disk refuses; an
            old target is then in place.
    """
    check_free(target, force)
    _give_usual_modes(made)
    aside = target.with_name(f'.{target.name}.{uuid.uuid4().hex}.old')
    try:
        _swap(made, target, aside)
    except OSError as error:
        raise ExportError(f'{target}: cannot write: {error}') from error
    _remove(aside)


def _give_usual_modes(made: Path) -> None:
    """What other users may read: coremltools saves private files."""
    mode = made.parent.stat().st_mode & 0o777
    for path in (made, *made.rglob('*')):
        path.chmod(mode if path.is_dir() else mode & 0o666)


def _swap(made: Path, target: Path, aside: Path) -> None:
    if made.is_file() and not target.is_symlink():
        os.replace(made, target)
        return
    try:
        if os.path.lexists(target):
            os.rename(target, aside)
        os.rename(made, target)
    except BaseException:
        if os.path.lexists(aside) and not os.path.lexists(target):
            os.rename(aside, target)
        raise


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
