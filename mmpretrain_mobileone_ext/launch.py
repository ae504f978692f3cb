"""What the command-line tools share: registration, quiet, one-line errors."""
from __future__ import annotations

import os
import runpy
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from .errors import MobileOneExtError

#: Environment variable that keeps tracebacks.
TRACEBACK = 'MOBILEONE_EXT_TRACEBACK'

#: Known-harmless warnings of the OpenMMLab stack on current Python, by the
#: beginning of their text.
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


def guarded(main: Callable[[], Any]) -> int:
    """Run a tool; turn mistakes into one line on stderr.

    With ``MOBILEONE_EXT_TRACEBACK`` set in the environment, errors of other
    libraries keep their traceback.

    Returns:
        Exit code: 0, 2 after an error of this package or an unreadable
        config, 1 after one of another library that a wrong argument or file
        may cause, 130 after Ctrl-C.
    """
    silence_known_noise()
    try:
        main()
    except (MobileOneExtError, FileNotFoundError) as error:
        return _fail(error)
    except SyntaxError as error:
        # mmengine parses configs without their name.
        return _fail(f'a config in `{" ".join(sys.argv[1:])}` is not valid '
                     f'Python: {error}')
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        # How OpenMMLab's code answers a wrong key, file or option.
        if os.environ.get(TRACEBACK):
            raise
        return _fail(_foreign(error), code=1)
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return 0


def _fail(error: object, code: int = 2) -> int:
    text = ' '.join(str(error).split())
    print(f'error: {text}', file=sys.stderr)
    return code


def _foreign(error: Exception) -> str:
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return (f'{type(error).__name__}: {error} ({Path(frame.filename).name}:'
            f'{frame.lineno}; set {TRACEBACK}=1 for the traceback)')


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


def run_mmpretrain_tool(name: str) -> int:
    """Run mmpretrain's own tool with this package registered.

    Arguments are those on the command line.

    Returns:
        Exit code.
    """

    def main() -> None:
        import mmpretrain_mobileone_ext  # noqa: F401  (registers)
        runpy.run_path(str(mmpretrain_tool(name)), run_name='__main__')

    return guarded(main)
