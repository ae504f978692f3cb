"""What helps where a package that this one needs cannot be imported.

Uses the standard library only, and the doctor, which does too: the import of the package itself may
be what failed.

The words about each package that may be missing or not fit are in ``traps``.
"""

from __future__ import annotations

import os
import sys
from types import TracebackType
from typing import TYPE_CHECKING, NoReturn, Optional

if TYPE_CHECKING:
    from .facts import Finding

#: Environment variable that keeps tracebacks.
TRACEBACK = 'MOBILEONE_EXT_TRACEBACK'


_DOCTOR = 'mobileone-ext doctor tells what is wrong with the installation'


class BrokenInstallError(ImportError):
    """A package that this one needs is missing, or does not fit."""


def known_trap(error: BaseException) -> str:
    """What the doctor says to just this error, '' if nothing."""
    missing = getattr(error, 'name', None)
    if not missing:
        return ''
    return _line(error, [f for f in _errors() if missing in f'{f.what} {f.why}'])


def import_advice(error: BaseException) -> str:
    """One line: what cannot be imported, and what the doctor says to it."""
    return known_trap(error) or _line(error, _errors()) or f'{_said(error)}; {_DOCTOR}'


def _errors() -> list[Finding]:
    from .facts import gather
    from .traps import find_traps

    return [f for f in find_traps(gather()) if f.level == 'error']


def _line(error: BaseException, findings: list[Finding]) -> str:
    fixes = [f'{f.what}: {f.fix}' for f in findings]
    return '; '.join([_said(error), *fixes]) if fixes else ''


def _said(error: BaseException) -> str:
    return ' '.join(f'{type(error).__name__}: {error}'.split())


def stop_import(error: Exception) -> NoReturn:
    """Raise what stops the import of the package, with advice.

    A program that does not catch it ends with that one line, because the answer is not in the code
    that the traceback shows.
    """
    if not os.environ.get(TRACEBACK):
        _show_in_one_line()
    raise BrokenInstallError(
        f'mmpretrain_mobileone_ext cannot be imported: {import_advice(error)}'
    ) from error


def _show_in_one_line() -> None:
    before = sys.excepthook

    def show(
        kind: type[BaseException], error: BaseException, trace: Optional[TracebackType]
    ) -> None:
        if isinstance(error, BrokenInstallError):
            print(f'error: {error}', file=sys.stderr)
        else:
            before(kind, error, trace)

    sys.excepthook = show
