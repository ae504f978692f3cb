"""What the doctor finds, as data: versions read from metadata.

With the standard library only: even ``packaging`` may be missing or broken where the doctor is
needed most.
"""

from __future__ import annotations

import csv
import operator
import os
import platform
import re
import shlex
import shutil
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Tuple

#: 'error' stops the main job, 'warning' may or costs something, 'note' is worth knowing.
LEVELS = ('error', 'warning', 'note')


@dataclass(frozen=True)
class Facts:
    """What can be known without importing anything heavy.

    Attributes:
        python: version.
        system: 'Linux', 'Darwin' or 'Windows'.
        tested: package to its line in the tested matrix, e.g. '==2.14.1'.
        installed: package to its version.
        requires: package to what it needs: name to specifier.
        damaged: package to the first of its files that is missing.
        compiled_ops: whether the installed mmcv brings compiled operators.
        compiler: path of a C++ compiler, None without one.
        swift: path of a Swift compiler, None without one.
    """

    python: str
    system: str
    tested: Mapping[str, str] = field(default_factory=dict)
    installed: Mapping[str, str] = field(default_factory=dict)
    requires: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    damaged: Mapping[str, str] = field(default_factory=dict)
    compiled_ops: bool = False
    compiler: Optional[str] = None
    swift: Optional[str] = None


@dataclass(frozen=True)
class Finding:
    """One trap, in words: what is so, why it matters, what helps."""

    level: str
    what: str
    why: str
    fix: str = ''


@dataclass(frozen=True)
class Step:
    """One step of the rehearsal; ``error`` is its last line, if it failed."""

    title: str
    ok: bool
    seconds: float
    error: str = ''


@dataclass(frozen=True)
class Rehearsal:
    """The main job on a tiny network, up to the first step that failed.

    Attributes:
        steps: as far as they were reached.
        cuda: whether torch finds a GPU.
        hint: what usually helps against the error, if it is a known one.
    """

    steps: Tuple[Step, ...] = ()
    cuda: bool = False
    hint: str = ''

    @property
    def ok(self) -> bool:
        """Whether every step passed."""
        return bool(self.steps) and all(s.ok for s in self.steps)

    def passed(self, title: str) -> bool:
        """Whether the step of this title was reached and passed."""
        return any(s.ok for s in self.steps if s.title == title)


@dataclass(frozen=True)
class Ability:
    """A job and whether it runs here: 'yes', 'no' or 'partly'."""

    job: str
    runs: str
    why: str = ''


@dataclass(frozen=True)
class Diagnosis:
    """Everything the doctor has to say."""

    facts: Facts
    findings: Tuple[Finding, ...]
    rehearsal: Rehearsal
    abilities: Tuple[Ability, ...]

    @property
    def can_run(self) -> bool:
        """Whether the main job (train, fold, export, score) runs here."""
        return self.rehearsal.ok and not any(f.level == 'error' for f in self.findings)

    def to_dict(self) -> Dict[str, Any]:
        """As JSON has it."""
        return dict(can_run=self.can_run, **asdict(self))


_NUMBERS = re.compile(r'\s*v?(\d+(?:\.\d+)*)')
_CLAUSE = re.compile(r'\s*(===|==|~=|!=|<=|>=|<|>)\s*([^,\s]+)\s*$')
_NAME = re.compile(r'\s*([A-Za-z0-9][\w.-]*)(?:\[[^\]]*\])?\s*\(?([^;)]*)\)?')
_COMPARE: Mapping[str, Callable] = {
    '==': operator.eq,
    '===': operator.eq,
    '!=': operator.ne,
    '<': operator.lt,
    '<=': operator.le,
    '>': operator.gt,
    '>=': operator.ge,
}


def numbers(version: str) -> Tuple[int, ...]:
    """``'2.14.1+cpu'`` -> ``(2, 14, 1)``; () for what is no version.

    What follows the numbers (rc1, +cpu, .dev0) is ignored, and so are zeros at the end.
    """
    found = _NUMBERS.match(version)
    if not found:
        return ()
    parts = [int(p) for p in found.group(1).split('.')]
    while len(parts) > 1 and parts[-1] == 0:
        parts.pop()
    return tuple(parts)


def fits(version: str, specifier: str) -> bool:
    """Whether a version meets ``'>=2.0,<2.4'``; unknown clauses are met."""
    return all(_fits_one(version, clause) for clause in specifier.split(',') if clause.strip())


def _fits_one(version: str, clause: str) -> bool:
    found = _CLAUSE.match(clause)
    if not found:
        return True
    sign, wanted = found.groups()
    if sign == '~=':
        length = len(wanted.split('.')) - 1
        return (
            numbers(version) >= numbers(wanted)
            and numbers(version)[:length] == numbers(wanted)[:length]
        )
    if wanted.endswith('.*'):
        start = numbers(wanted[:-2])
        return (numbers(version)[: len(start)] == start) == (sign == '==')
    return bool(_COMPARE[sign](numbers(version), numbers(wanted)))


def canonical(name: str) -> str:
    """``'mmcv_lite'`` -> ``'mmcv-lite'``."""
    return re.sub(r'[-_.]+', '-', name).lower()


def requirement(line: str) -> Tuple[str, str]:
    """``'torch (>=2.0); extra == "x"'`` -> ``('torch', '>=2.0')``."""
    found = _NAME.match(line)
    if not found:
        return '', ''
    return canonical(found.group(1)), found.group(2).replace(' ', '')


def read_matrix(text: str) -> Dict[str, str]:
    """A constraints file as package to specifier."""
    lines = (line.split('#')[0].strip() for line in text.splitlines())
    return dict(requirement(line) for line in lines if line)


_PACKAGE = Path(__file__).resolve().parents[2]
#: In an install under ``.mim``, as are configs; in a clone, whose ``.mim`` may hold links that are
#: none, in the root.
MATRIX = next(
    (
        home / 'requirements-tested.txt'
        for home in (_PACKAGE / '.mim', _PACKAGE.parent)
        if (home / 'configs').is_dir()
    ),
    _PACKAGE / '.mim/requirements-tested.txt',
)
#: The packages that own a module: OpenMMLab's own, and OneDL's, the maintained fork of them.
OWNERS = {
    'mmcv': ('mmcv', 'mmcv-lite', 'onedl-mmcv'),
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
}
MMCV = OWNERS['mmcv']
_CHECKED = tuple(name for owners in OWNERS.values() for name in owners)


def uses_onedl(facts: Facts) -> bool:
    """Whether something of the maintained fork is installed."""
    return any(name.startswith('onedl-') for name in facts.installed)


def gather(path: Optional[List[str]] = None, matrix: Path = MATRIX) -> Facts:
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
        compiled_ops=any(file.startswith('mmcv/_ext') for d in mmcv for file in _recorded(d)),
        compiler=_compiler(),
        swift=shutil.which('swift'),
    )


def _distributions(path: Optional[List[str]]) -> Dict[str, metadata.Distribution]:
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
        missing = [
            file
            for file in _recorded(found[name])
            if file.endswith('.py') and not Path(str(found[name].locate_file(file))).exists()
        ]
        if missing:
            damaged[name] = missing[0]
    return damaged


def _tested(matrix: Path) -> Dict[str, str]:
    try:
        return read_matrix(matrix.read_text(encoding='utf-8'))
    except OSError:
        return {}


def _compiler() -> Optional[str]:
    """As ``models.online.kernels.compiler`` looks for it."""
    wanted = os.environ.get('CXX', '').strip()
    names = [wanted, *_words(wanted)[:1]] if wanted else ['c++', 'g++', 'clang++']
    return next(filter(None, map(shutil.which, names)), None)


def _words(text: str) -> List[str]:
    try:
        return shlex.split(text)
    except ValueError:  # an open quote
        return []
