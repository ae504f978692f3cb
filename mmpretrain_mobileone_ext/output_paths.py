"""Outputs of a tool that would overwrite each other, or what it reads."""
from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from itertools import permutations
from pathlib import Path
from typing import Any, Optional, Union

from .errors import MobileOneExtError

PathLike = Union[str, os.PathLike[str]]
_PACKAGE = '.mlpackage'


def check_apart(outputs: Mapping[str, Optional[PathLike]],
                inputs: Mapping[str, Any],
                error: type[MobileOneExtError] = MobileOneExtError,
                package: str = '',
                shared: Collection[str] = ()) -> None:
    """Refuse paths that do not stay apart, before any work is done.

    Args:
        outputs: option to what is written there; None is left out.
        inputs: option to what is read; anything but a path is left out.
        error: to raise.
        package: the output that may be a ``.mlpackage``. All others stay out
            of packages: those hold what was verified, and nothing else.
        shared: outputs that are folders to which files are added; other
            things may lie in them.

    Raises:
        MobileOneExtError: two outputs are the same or one lies in the other,
            an output is an input or holds it, or lies in a package.
    """
    given = {name: _real(path) for name, path in outputs.items()
             if path is not None}
    for (one, a), (other, b) in permutations(given.items(), 2):
        if a == b or (a in b.parents and one not in shared):
            raise error(f'{one} is {a} and {other} is {b}; neither may be '
                        'the other or lie in it')
    for name, path in given.items():
        _check_package(name, path, name == package, error)
        for source, read in inputs.items():
            if isinstance(read, (str, os.PathLike)):
                _check_input(name, path, source, _real(read), error,
                             name in shared)


def _real(path: PathLike) -> Path:
    try:
        return Path(os.path.normcase(
            os.path.realpath(Path(path).expanduser())))
    # A NUL, or no such user: whoever opens it says so.
    except (OSError, RuntimeError, ValueError):
        return Path(path)


def _check_package(name: str, path: Path, may_be: bool,
                   error: type[MobileOneExtError]) -> None:
    candidates = path.parents if may_be else (path, *path.parents)
    for folder in candidates:
        if folder.suffix == _PACKAGE:
            raise error(f'{name} is {path}, but {folder.name} is a Core ML '
                        'package; nothing else is written into one')


def _check_input(name: str, path: Path, source: str, read: Path,
                 error: type[MobileOneExtError], shared: bool) -> None:
    # What does not exist is a name, not a file, or is refused when read.
    holds = path in read.parents and not shared
    if os.path.lexists(read) and (path == read or holds):
        raise error(f'{name} is {path} and {source} is {read}; an output '
                    'may neither replace nor hold what is read')
