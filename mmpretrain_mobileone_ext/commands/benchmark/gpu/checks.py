"""The two parts that compare.

Each is a process of its own: a kernel that spoils a GPU's state, or never ends, spoils nothing
else.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Optional, Union

from ....utils.files import write_json
from ....utils.text import PlainConsole, Steps
from ...cli import ToolParser, check_fields, option
from ..training.options import DEVICES
from .operators import OperatorFinding, compiled_units, operator_checks
from .units import Finding, findings_table, unit_cases

Check = Callable[[], Iterable[Union[Finding, OperatorFinding]]]
#: What is printed of what failed; all of it is in the file.
_LINES = 20
#: Seconds between two versions of the file.
_REST = 2.0


def _units(device: str) -> list[Check]:
    return [case.findings for case in unit_cases(device)]


def _operators(device: str) -> list[Check]:
    return [*operator_checks(device), *compiled_units(device)]


PARTS: dict[str, Callable[[str], list[Check]]] = {'units': _units, 'operators': _operators}


@dataclass(frozen=True)
class CheckOptions:
    """Arguments of a part.

    Raises:
        SpecError: a value that cannot be run.
    """

    part: str = option('units', 'which part', allowed=PARTS)
    device: str = option('cuda', 'where', allowed=DEVICES)
    seconds: int = option(120, 'after which no further check begins', least=1)
    json: Optional[Path] = option(None, 'what was found', type=Path)  # noqa: RUF009

    def __post_init__(self):
        check_fields(self)


@dataclass
class Checked:
    """What was found so far.

    Attributes:
        total: how many checks there are.
        done: how many have been made.
        findings: of the units.
        operators: of the operators.
    """

    total: int
    done: int = 0
    findings: list[Finding] = field(default_factory=list)
    operators: list[OperatorFinding] = field(default_factory=list)

    def take(self, found: Iterable[Union[Finding, OperatorFinding]]) -> None:
        """Add what one check found."""
        for one in found:
            if isinstance(one, Finding):
                self.findings.append(one)
            else:
                self.operators.append(one)
        self.done += 1

    @property
    def failures(self) -> list[str]:
        """A line for everything that failed."""
        of_units = [f.line for f in self.findings if not f.passed]
        return of_units + [f.line for f in self.operators if not f.passed]

    def document(self) -> dict[str, Any]:
        return dict(
            total=self.total,
            done=self.done,
            findings=[f.document() for f in self.findings],
            operators=[f.document() for f in self.operators],
        )


def run_checks(options: CheckOptions, progress: bool = True) -> Checked:
    """Make a part's checks until they or the seconds end; print and write what was found."""
    checks = PARTS[options.part](options.device)
    found, start = Checked(len(checks)), time.monotonic()
    written = start
    with Steps(progress).step(options.part, len(checks)) as advance:
        for check in checks:
            now = time.monotonic()
            if now - start > options.seconds:
                break
            found.take(check())
            advance(1)
            if options.json and now - written > _REST:
                write_json(options.json, found.document())
                written = now
    if options.json:
        write_json(options.json, found.document())
    _show(options.part, found)
    return found


def _show(part: str, found: Checked) -> None:
    console = PlainConsole(highlight=False)
    if found.findings:
        console.print(findings_table(found.findings))
    failures = found.failures
    for line in failures[:_LINES]:
        console.print(line, soft_wrap=True)
    if len(failures) > _LINES:
        console.print(f'and {len(failures) - _LINES} more')
    compared = len(found.findings) + len(found.operators)
    console.print(
        f'{part}: {found.done} of {found.total} checks, {compared} comparisons, '
        f'{len(failures)} failed'
    )


def run(argv: Optional[Sequence[str]] = None) -> Checked:
    """A part as the command line says.

    Raises:
        MobileOneExtError: one line that says what is wrong.
    """
    parser = ToolParser()
    parser.add_fields(CheckOptions)
    return run_checks(CheckOptions(**vars(parser.parse_args(argv))))
