"""Result files: refused before the work, written whole or not at all."""
from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any, Optional

from ..atomic_file import write_whole
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
    _try_to_write(path.absolute().parent, path)


def check_folder(path: Optional[Path]) -> None:
    """Refuse a folder, made later if missing, that would take no file.

    Raises:
        MobileOneExtError: it, or what it would be made in, is a file or
            read-only.
    """
    if path is None:
        return
    whole = path.absolute()
    _try_to_write(next(p for p in (whole, *whole.parents) if p.exists()),
                  path)


def _try_to_write(folder: Path, given: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise MobileOneExtError(f'{given} cannot be written: '
                                f'{error.strerror}') from error


def write_json(path: Path, document: dict[str, Any]) -> Path:
    """Write a document, indented; see :func:`write_whole`.

    Raises:
        MobileOneExtError: the disk refuses; an old file is then in place.
    """
    text = json.dumps(document, indent=2) + '\n'
    return write_whole(path, lambda made: made.write_text(text, 'utf-8'))
