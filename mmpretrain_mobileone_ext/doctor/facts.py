"""What is installed, read from metadata; nothing is imported."""
from __future__ import annotations

import csv
import os
import platform
import shlex
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Any, Dict, Iterable, List, Optional

from .diagnosis import Facts
from .versions import canonical, read_matrix, requirement

_PACKAGE = Path(__file__).resolve().parents[1]
#: In an install under ``.mim``, as are configs; in a clone, whose ``.mim`` may
#: hold links that are none, in the root.
MATRIX = next(
    (home / 'requirements-tested.txt'
     for home in (_PACKAGE / '.mim', _PACKAGE.parent)
     if (home / 'configs').is_dir()),
    _PACKAGE / '.mim/requirements-tested.txt')
#: Both own the module ``mmcv``.
MMCV = ('mmcv', 'mmcv-lite')
_CHECKED = (*MMCV, 'mmengine', 'mmpretrain')


def gather(path: Optional[List[str]] = None,
           matrix: Path = MATRIX) -> Facts:
    """Read the metadata of everything installed.

    Args:
        path: where distributions are looked for; None: ``sys.path``.
        matrix: the tested versions; none where the file is missing.
    """
    found = _distributions(path)
    mmcv = [found[name] for name in MMCV if name in found]
    return Facts(
        python=platform.python_version(),
        system=platform.system(),
        tested=_tested(matrix),
        installed={name: d.version for name, d in found.items()},
        requires={name: _requires(d) for name, d in found.items()},
        damaged=_damaged(found),
        compiled_ops=any(file.startswith('mmcv/_ext')
                         for d in mmcv for file in _recorded(d)),
        compiler=_compiler(),
        swift=shutil.which('swift'))


def _distributions(
        path: Optional[List[str]]) -> Dict[str, metadata.Distribution]:
    """By canonical name; the first on the path is the one that is used."""
    found: Dict[str, metadata.Distribution] = {}
    for one in metadata.distributions(path=sys.path if path is None else path):
        name = _name(one)
        if name:
            found.setdefault(canonical(name), one)
    return found


def _name(one: metadata.Distribution) -> str:
    """'' for what a half removed package leaves."""
    try:
        told: Any = one.metadata or {}
    except FileNotFoundError:  # newer Pythons, and the backport
        return ''
    return told['Name'] if 'Name' in told and 'Version' in told else ''


def _requires(one: metadata.Distribution) -> Dict[str, str]:
    lines: Iterable[str] = one.requires or ()
    return dict(requirement(line) for line in lines if ';' not in line)


def _recorded(one: metadata.Distribution) -> List[str]:
    """Files as installed; ``files`` leaves out those that are missing."""
    lines = (one.read_text('RECORD') or '').splitlines()
    return [row[0] for row in csv.reader(lines) if row]


def _damaged(found: Dict[str, metadata.Distribution]) -> Dict[str, str]:
    """Packages that lack a Python file they were installed with."""
    damaged = {}
    for name in (n for n in _CHECKED if n in found):
        # Two packages in one folder remove each other's files.
        missing = [file for file in _recorded(found[name])
                   if file.endswith('.py') and
                   not Path(str(found[name].locate_file(file))).exists()]
        if missing:
            damaged[name] = missing[0]
    return damaged


def _tested(matrix: Path) -> Dict[str, str]:
    try:
        return read_matrix(matrix.read_text(encoding='utf-8'))
    except OSError:
        return {}


def _compiler() -> Optional[str]:
    """As ``models.online.compiler`` looks for it."""
    wanted = os.environ.get('CXX', '').strip()
    names = [wanted, *_words(wanted)[:1]] if wanted else [
        'c++', 'g++', 'clang++']
    return next(filter(None, map(shutil.which, names)), None)


def _words(text: str) -> List[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an open quote
        return []
