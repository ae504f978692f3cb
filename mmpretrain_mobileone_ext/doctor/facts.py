"""What is installed, read from metadata; nothing is imported."""
from __future__ import annotations

import os
import platform
import shutil
import sys
from importlib import metadata
from pathlib import Path
from typing import Dict, Iterable, List, Optional

from .diagnosis import Facts
from .versions import canonical, read_matrix, requirement

MATRIX = Path(__file__).resolve().parents[1] / '.mim/requirements-tested.txt'
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
        compiled_ops=any('mmcv/_ext' in str(f).replace(os.sep, '/')
                         for d in mmcv for f in d.files or ()),
        compiler=_compiler(),
        swift=shutil.which('swift'))


def _distributions(
        path: Optional[List[str]]) -> Dict[str, metadata.Distribution]:
    """By canonical name; the first on the path is the one that is used."""
    found: Dict[str, metadata.Distribution] = {}
    for one in metadata.distributions(path=sys.path if path is None else path):
        # A half removed package leaves metadata without a name.
        name = one.metadata['Name'] if one.metadata else None
        if name and one.version:
            found.setdefault(canonical(name), one)
    return found


def _requires(one: metadata.Distribution) -> Dict[str, str]:
    lines: Iterable[str] = one.requires or ()
    return dict(requirement(line) for line in lines if ';' not in line)


def _damaged(found: Dict[str, metadata.Distribution]) -> Dict[str, str]:
    """Packages that lack a Python file they were installed with."""
    damaged = {}
    for name in (n for n in _CHECKED if n in found):
        # Two packages in one folder remove each other's files.
        missing = [str(f) for f in found[name].files or ()
                   if str(f).endswith('.py') and
                   not Path(str(f.locate())).exists()]
        if missing:
            damaged[name] = missing[0]
    return damaged


def _tested(matrix: Path) -> Dict[str, str]:
    try:
        return read_matrix(matrix.read_text(encoding='utf-8'))
    except OSError:
        return {}


def _compiler() -> Optional[str]:
    """As ``models.online.native`` looks for it."""
    wanted = os.environ.get('CXX')
    names = [wanted] if wanted else ['c++', 'g++', 'clang++']
    return next(filter(None, map(shutil.which, names)), None)
