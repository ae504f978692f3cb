"""A file that appears under its name whole, or not at all."""
from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .errors import MobileOneExtError


def write_whole(path: Path,
                write: Callable[[Path], Any],
                error: type[MobileOneExtError] = MobileOneExtError) -> Path:
    """Let ``write`` make a file, then give it the name ``path``.

    The file is made in a hidden folder beside ``path``, because a rename is
    atomic on one disk only, and under its own name, because writers choose
    a format by it. A killed process leaves a folder
    ``.<name>.<random>.partial`` that nothing mistakes for the file.

    Args:
        path: target; its folder must exist.
        write: called with the path of the file to make.
        error: raised where the disk refuses.

    Returns:
        ``path``.

    Raises:
        MobileOneExtError: the disk refuses; an old file is then in place.
    """
    folder = path.with_name(f'.{path.name}.{uuid.uuid4().hex}.partial')
    try:
        folder.mkdir()
        made = folder / path.name
        write(made)
        _flush(made)
        os.replace(made, path)
    except OSError as reason:
        raise error(f'{path} cannot be written: {reason}') from reason
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return path


def _flush(made: Path) -> None:
    """A rename may reach the disk before the content does."""
    with open(made, 'rb+') as handle:
        os.fsync(handle.fileno())
