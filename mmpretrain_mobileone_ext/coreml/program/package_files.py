"""The files of a Core ML model: none outside of it, none but plain ones."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Union

from ...errors import ProgramError
from ...utils.text import one_line

MANIFEST = 'Manifest.json'
_MAX_ENTRIES = 10_000
_MAX_DEPTH = 16
_MAX_MANIFEST = 2**20
#: protobuf reads no message of 2 GiB or more.
_MAX_SPECIFICATION = 2**31 - 1


def specification_file(source: Path) -> Path:
    """Locate the specification: the file itself, or inside the package.

    ``source`` may be a link, which the user chose; links inside a package came with it and must
    stay inside.

    Raises:
        ProgramError: there is none, or the package holds something that is neither a folder nor a
            plain file inside of it.
    """
    if not source.exists():
        raise ProgramError(f'no such file or package: {source}')
    if source.is_dir():
        for _ in package_files(source):  # refuses what leads outside
            pass
        return _checked_size(_root_model(source))
    if source.suffix != '.mlmodel' or not source.is_file():
        raise ProgramError(
            f'{source} is not a Core ML model: expected a .mlpackage folder or a .mlmodel file'
        )
    return _checked_size(source)


def package_files(package: Union[str, os.PathLike[str]]) -> Iterator[Path]:
    """The plain files of a package, sorted; a file's path alone.

    Raises:
        ProgramError: a link leads outside or nowhere, or something is neither a folder nor a plain
            file (a device, a pipe), or there are more than a package holds.
    """
    root = Path(package)
    if not root.is_dir():
        yield root
        return
    try:
        yield from sorted(_walk(root))
    except OSError as error:
        raise ProgramError(f'{root}: cannot read the package: {one_line(error)}') from error


def _walk(root: Path) -> Iterator[Path]:
    """Every plain file; folders are entered once, links to them never."""
    real, pending, count = root.resolve(), [(root, 0)], 0
    while pending:
        folder, depth = pending.pop()
        for entry in os.scandir(folder):
            path, count = Path(entry.path), count + 1
            if count > _MAX_ENTRIES or depth > _MAX_DEPTH:
                raise ProgramError(
                    f'{root} holds more than {_MAX_ENTRIES} files and '
                    f'folders, or deeper than {_MAX_DEPTH} folders'
                )
            mode = _mode_inside(path, real)
            if stat.S_ISDIR(mode):
                pending.append((path, depth + 1))
            else:
                yield path


def _mode_inside(path: Path, root: Path) -> int:
    """Type of one entry; refuses what is not the package's own."""
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        try:
            target = path.resolve(strict=True)
        except (OSError, RuntimeError) as error:  # RuntimeError: a loop
            raise ProgramError(
                f'{path} is a link that leads nowhere ({one_line(error)})'
            ) from error
        mode = target.lstat().st_mode
        if root not in target.parents or stat.S_ISDIR(mode):
            raise ProgramError(
                f'{path} is a link to {target}; a package holds its own files: links may lead to '
                'files inside of it only (copy it with "cp -rL" if you trust them)'
            )
    if not stat.S_ISDIR(mode) and not stat.S_ISREG(mode):
        raise ProgramError(f'{path} is neither a folder nor a plain file')
    return mode


def _root_model(package: Path) -> Path:
    """Find a package's root model through its manifest."""
    manifest = package / MANIFEST
    if not manifest.is_file():
        raise ProgramError(f'{package} is not a Core ML package: it has no {MANIFEST}')
    relative = _named_in(manifest)
    data = package / 'Data'
    file = inside(data, relative) if isinstance(relative, str) else None
    if file is None:
        raise ProgramError(
            f'{manifest} is damaged: its root model '
            f'{shortened(repr(relative))} is not a file inside the package'
        )
    if not file.is_file():
        raise ProgramError(f'{package} is incomplete: its model {file} is missing')
    return file


def _named_in(manifest: Path) -> Any:
    """The path that a manifest gives its root model."""
    size = manifest.stat().st_size
    if size > _MAX_MANIFEST:
        raise ProgramError(f'{manifest} has {size} bytes; allowed: {_MAX_MANIFEST}')
    try:
        content = json.loads(manifest.read_text(encoding='utf-8'))
        root = content['rootModelIdentifier']
        return content['itemInfoEntries'][root]['path']
    # RecursionError: JSON that is nested without end.
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise ProgramError(f'{manifest} is damaged: it names no root model') from error


def inside(folder: Path, name: str) -> Union[Path, None]:
    """``folder / name``, None unless that is below ``folder``."""
    try:
        found = (folder / name).resolve()
        found.exists()  # a name that is too long resolves, but cannot be
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, a loop
        return None
    return folder / name if folder.resolve() in found.parents else None


def _checked_size(file: Path) -> Path:
    size = file.stat().st_size
    if size > _MAX_SPECIFICATION:
        raise ProgramError(
            f'{file.name} has {size} bytes; a specification has {_MAX_SPECIFICATION} at most'
        )
    return file


def shortened(text: str, limit: int = 300) -> str:
    """At most ``limit`` characters of a text that came out of a file."""
    return text if len(text) <= limit else f'{text[:limit]}...'
