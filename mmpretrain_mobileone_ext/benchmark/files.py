"""Result files: refused before the work, written whole or not at all."""
from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, Optional

from ..errors import MobileOneExtError


def check_writable(path: Optional[Path]) -> None:
    """Refuse a path to which nothing could be written later.

    Raises:
        MobileOneExtError: it is a folder, or its folder is missing or
            read-only.
    """
    if path is None:
        return
    if path.is_dir():
        raise MobileOneExtError(f'{path} is a folder, not a file to write')
    try:
        with tempfile.TemporaryFile(dir=path.absolute().parent):
            pass
    except OSError as error:
        raise MobileOneExtError(f'{path} cannot be written: '
                                f'{error.strerror}') from error


def write_whole(path: Path, write: Callable[[Path], Any]) -> Path:
    """Let ``write`` make a file beside ``path``, then give it that name.

    Raises:
        MobileOneExtError: the disk refuses; an old file is then in place.
    """
    try:
        with tempfile.TemporaryDirectory(
                prefix=f'.{path.name}.', dir=path.absolute().parent) as folder:
            made = Path(folder) / path.name
            write(made)
            os.replace(made, path)
    except OSError as error:
        raise MobileOneExtError(f'{path} cannot be written: '
                                f'{error}') from error
    return path


def write_json(path: Path, document: dict[str, Any]) -> Path:
    """Write a document, indented, through :func:`write_whole`."""
    text = json.dumps(document, indent=2) + '\n'
    return write_whole(path, lambda made: made.write_text(text))
