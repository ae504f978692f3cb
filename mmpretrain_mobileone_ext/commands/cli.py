"""What the command lines share: parsing, registration, one-line errors."""

from __future__ import annotations

import argparse
import codecs
import contextlib
import difflib
import locale
import os
import runpy
import signal
import sys
import warnings
from collections.abc import Callable, Collection
from dataclasses import field, fields
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NoReturn, Optional

from ..errors import MobileOneExtError, SpecError
from ..utils.doctor.failed_import import TRACEBACK
from ..utils.explain import Explanation, explain, where
from ..utils.files import MIM


class _Help(argparse.HelpFormatter):
    """Adds defaults that the words do not tell; keeps the lines of examples and lists."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if '\n' in text:
            return text
        return super()._fill_text(text, width, indent)

    def _get_help_string(self, action: argparse.Action) -> str:
        words = action.help or ''
        is_given = action.default not in (None, False, '', [], (), argparse.SUPPRESS)
        if not action.option_strings or not is_given or 'default' in words:
            return words
        if isinstance(action.default, (list, tuple)):
            return f'{words} (default: {" ".join(map(str, action.default))})'
        return f'{words} (default: %(default)s)'


class _Pairs(argparse.Action):
    """mmengine's ``DictAction``, which is imported when there are pairs to read."""

    def __call__(self, *given: Any, **more: Any) -> None:
        from mmengine.config import DictAction

        DictAction(self.option_strings, self.dest, nargs='+')(*given, **more)


class ToolParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises instead of printing its usage.

    Args:
        error_type: what it raises, for :func:`guarded` to show.
        kwargs: as of the parent.
    """

    def __init__(self, *, error_type: type[MobileOneExtError] = MobileOneExtError, **kwargs: Any):
        super().__init__(formatter_class=_Help, allow_abbrev=False, **kwargs)
        self._error_type = error_type

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As the parent's; an unknown option is told with those that look like it."""
        found, unknown = self.parse_known_args(args, namespace)
        if unknown:
            near = [n for word in unknown for n in self._near(word)]
            meant = f'; did you mean {" or ".join(near)}?' if near else ''
            self.error(f'unrecognized arguments: {" ".join(unknown)}{meant}')
        return found

    def _near(self, word: str) -> list[str]:
        name = word.partition('=')[0]
        if not name.startswith('--'):
            return []
        known = [o for o in self._option_string_actions if o.startswith('--')]
        begun = [o for o in known if o.startswith(name)]
        return begun or difflib.get_close_matches(name, known, 1)

    def error(self, message: str) -> NoReturn:
        """Raise ``error_type``."""
        raise self._error_type(f'{message}; see --help')

    def add_fields(self, record: type) -> None:
        """An argument for every :func:`option` of a dataclass."""
        for f in fields(record):
            given = dict(f.metadata['argument'])
            if type(f.default) is int:
                given = {'type': int, 'metavar': 'N', **given}
                given['help'] += f' (default: {f.default})'
            self.add_argument(f'--{f.name.replace("_", "-")}', default=f.default, **given)

    def add_cfg_options(self, what: str = 'key=value pairs, merged into the config') -> None:
        """mmengine's ``--cfg-options``."""
        self.add_argument('--cfg-options', nargs='+', action=_Pairs, metavar='KEY=VALUE', help=what)


def option(
    default: Any,
    help: str,
    *,
    least: Optional[int] = None,
    allowed: Collection[str] = (),
    called: str = '',
    **argument: Any,
) -> Any:
    """A field of a dataclass that is an option of a tool: all about it in one place.

    Args:
        default: None is nothing given.
        help: what ``--help`` says.
        least: the smallest value.
        allowed: values; none for any.
        called: in the error; the field's name by default.
        argument: of ``add_argument``.
    """
    return field(
        default=default,
        metadata=dict(
            argument=dict(argument, help=help), least=least, allowed=allowed, called=called
        ),
    )


def check_fields(record: Any) -> None:
    """Hold every :func:`option` of a record, one by one where it has several values.

    Raises:
        SpecError: a value that is not allowed.
    """
    for f in fields(record):
        value, known = getattr(record, f.name), f.metadata
        for one in value if isinstance(value, tuple) else () if value is None else (value,):
            if known['allowed'] and one not in known['allowed']:
                name, allowed = known['called'] or f.name, list(known['allowed'])
                raise SpecError(f'{name} {one!r} is not one of {allowed}')
            if known['least'] is not None and one < known['least']:
                raise SpecError(f'{f.name}={one}; at least {known["least"]} is needed')


#: Known-harmless warnings of the OpenMMLab stack on current Python, by the beginning of their text.
_NOISE = (
    r'pkg_resources is deprecated as an API',
    # mmpretrain reads MNIST's files so, and only reads them.
    r'The given NumPy array is not writable',
    r"'pin_memory' argument is set as true but no accelerator is found",
)


def silence_known_noise() -> None:
    """Ignore warnings that are known to mean nothing here, no others."""
    for start in _NOISE:
        warnings.filterwarnings('ignore', message=start)


def guarded(main: Callable[[], Any], stopped: str = 'stopped') -> int:
    """Run a tool; turn mistakes into one line on stderr.

    With ``MOBILEONE_EXT_TRACEBACK`` set in the environment, errors of other libraries keep their
    traceback. So does what no argument, file, disk or machine is known to cause (see ``explain``):
    that is a bug.

    Args:
        main: the tool.
        stopped: what is said after Ctrl-C: how to go on.

    Returns:
        Exit code: 0, 2 after an error of this package, or one that is known
        to come from outside, 1 after one of another library that a wrong argument or file may
        cause, 130 after Ctrl-C.
    """
    _use_utf8()
    silence_known_noise()
    try:
        main()
        # While it can still be told that nobody reads it.
        sys.stdout.flush()
    except MobileOneExtError as error:
        return _fail(error)
    except KeyboardInterrupt:
        print(stopped, file=sys.stderr)
        return 128 + signal.SIGINT
    except Exception as error:
        explained = None if os.environ.get(TRACEBACK) else explain(error)
        if explained is None:
            raise
        return _fail_outside(explained, error)
    return 0


def _use_utf8() -> None:
    """Start a tool again in Python's UTF-8 mode where the locale is another.

    mmengine writes logs and notes in the locale's encoding, so that a folder or a class with a name
    in another script would end the run. What is printed keeps the terminal's encoding; what that
    lacks is escaped.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, 'reconfigure'):
            stream.reconfigure(errors='backslashreplace')
    known = codecs.lookup(locale.getpreferredencoding(False)).name
    # Where only a part of a program runs there is nothing to start again.
    if known == 'utf-8' or os.name != 'posix' or not _is_tool():
        return
    encoding = sys.stdout.encoding or 'ascii'
    # With Python's own options, which 3.9 does not know.
    words = getattr(sys, 'orig_argv', ['', *sys.argv])[1:]
    os.execve(
        sys.executable,
        [sys.executable, *words],
        {**os.environ, 'PYTHONUTF8': '1', 'PYTHONIOENCODING': f'{encoding}:backslashreplace'},
    )


def _is_tool() -> bool:
    """Whether the program is one of ours: a file of ``tools/``, or the console script."""
    file = Path(getattr(sys.modules['__main__'], '__file__', None) or '')
    is_script = file.stem.replace('-', '_') == 'mobileone_ext'
    return is_script or file.resolve().parent == (MIM / 'tools').resolve()


def _fail(error: object, code: int = 2) -> int:
    from ..utils.text import shown

    print(f'error: {shown(" ".join(str(error).split()))}', file=sys.stderr)
    return code


def _fail_outside(explained: Explanation, error: Exception) -> int:
    if isinstance(error, BrokenPipeError):
        # Else Python complains once more, when it flushes at its end.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if explained.is_certain:
        return _fail(explained.line)
    return _fail(f'{explained.line} ({where(error)}; set {TRACEBACK}=1 for the traceback)', code=1)


def mmpretrain_tool(name: str) -> Path:
    """Path of a tool that mmpretrain installs (``train.py``, ``test.py``).

    Raises:
        MobileOneExtError: mmpretrain is missing or was installed without it.
    """
    spec = find_spec('mmpretrain')
    if spec is None or spec.origin is None:
        raise MobileOneExtError('mmpretrain is not installed')
    root = Path(spec.origin).parent
    # An editable install keeps its tools beside the package.
    for path in (root / '.mim/tools' / name, root.parent / 'tools' / name):
        if path.is_file():
            return path
    raise MobileOneExtError(f'mmpretrain in {root} has no tools/{name}')


def run_mmpretrain_tool(name: str) -> None:
    """Run mmpretrain's own tool; its arguments are those on the command line."""
    runpy.run_path(str(mmpretrain_tool(name)), run_name='__main__')
