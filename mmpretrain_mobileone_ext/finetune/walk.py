"""Files below a folder: what may be an image, and why the rest is none."""
from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple, NoReturn, Optional

from ..engine.heic_loading import HEIC_SUFFIXES
from .image_list import check_name

#: Of formats that OpenCV or Pillow reads; which of them this machine can
#: read is found out by reading.
SUFFIXES = ('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.dib', '.webp',
            '.tif', '.tiff', '.ppm', '.pgm', '.pbm', '.pnm', '.gif', '.jp2',
            '.avif', *HEIC_SUFFIXES)
#: What macOS adds to archives.
_NO_FOLDERS = ('__MACOSX', )


class Skipped(NamedTuple):
    """A file or folder that is not used.

    Attributes:
        path: relative to the folder of images; a folder ends with ``/``.
        reason: in words.
    """
    path: str
    reason: str


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    return sorted(p.name for p in folder.iterdir()
                  if p.is_dir() and not _is_hidden(p.name))


def walk(root: Path, folder: Path) -> tuple[list[str], list[Skipped]]:
    """What lies below ``folder``, by path relative to ``root``.

    Returns:
        Images by their names, sorted, and what is none.

    Raises:
        MobileOneExtError: an image has a name that no list can hold.
        OSError: a folder cannot be read.
    """
    images, skipped = [], []
    for path, reason in _entries(folder):
        name = path.relative_to(root).as_posix()
        if reason is None:
            images.append(check_name(name, root))
        else:
            skipped.append(Skipped(name + '/' * path.is_dir(), reason))
    return sorted(images), sorted(skipped)


def strays(root: Path, folder: Path) -> list[Skipped]:
    """Files directly in a folder of class folders, and hidden folders."""
    return [
        Skipped(p.relative_to(root).as_posix() + '/' * p.is_dir(),
                'hidden' if _is_hidden(p.name) else 'in no class folder')
        for p in sorted(folder.iterdir())
        if not p.is_dir() or _is_hidden(p.name)]


def has_images(folder: Path) -> bool:
    """Whether files with names of images lie below a folder."""
    return any(reason is None for _, reason in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[Path, Optional[str]]]:
    """Files and folders that end here, with the reason if no image."""
    for where, folders, files in os.walk(folder, onerror=_refuse):
        here = Path(where)
        for name in files:
            yield here / name, _no_image(here / name)
        for name in list(folders):
            reason = _no_folder(here / name)
            if reason:
                folders.remove(name)
                yield here / name, reason


def _refuse(error: OSError) -> NoReturn:
    raise error


def _no_folder(path: Path) -> Optional[str]:
    if _is_hidden(path.name):
        return 'hidden'
    return 'a link to a folder' if path.is_symlink() else None


def _no_image(path: Path) -> Optional[str]:
    if path.name.startswith('._'):
        return 'data of macOS about another file'
    if _is_hidden(path.name):
        return 'hidden'
    if path.suffix.lower() not in SUFFIXES:
        return f'no image by its name ({path.suffix or "no suffix"})'
    return None if path.is_file() else 'no file that can be read'


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in _NO_FOLDERS
