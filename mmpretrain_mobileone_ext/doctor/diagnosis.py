"""What the doctor found, as data."""
from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Dict, Mapping, Optional, Tuple

#: 'error' stops the main job, 'warning' may or costs something, 'note' is
#: worth knowing.
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
        return self.rehearsal.ok and not any(
            f.level == 'error' for f in self.findings)

    def to_dict(self) -> Dict[str, Any]:
        """As JSON has it."""
        return dict(can_run=self.can_run, **asdict(self))
