"""``mobileone-ext``, and what the tools in ``tools/`` call; everything else is in the package.

Importing ``mmpretrain_mobileone_ext`` registers its modules, for which it imports torch and
MMPretrain: seconds, of which ``--help`` and a typing error need none. So the package is only put in
its place here, and imported when the command line is known to be right.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec
from typing import Optional

_PACKAGE = 'mmpretrain_mobileone_ext'


def main(name: Optional[str] = None) -> int:
    """Run the command that the command line names, or ``name`` with its words.

    Returns:
        Exit code: 0, 2 after a mistake or an error of this package, 1 after one of another library,
        130 after Ctrl-C; of ``test``, ``doctor`` and the like their own.
    """
    _put_in_place()
    from mmpretrain_mobileone_ext.commands.console.table import COMMANDS

    words = sys.argv[1:]
    chosen = COMMANDS.get(name or next(iter(words), ''))
    if chosen and chosen.is_bare:
        sys.argv[0] = f'mobileone-ext {chosen.name}'
        return chosen(words if name else words[1:])
    from mmpretrain_mobileone_ext.commands.console.launch import launch

    return launch(words, _register, name)


def _put_in_place() -> None:
    """Let modules of the package be found, without running its ``__init__``."""
    if _PACKAGE not in sys.modules:
        spec = find_spec(_PACKAGE)
        if spec is None:
            raise ModuleNotFoundError(f'No module named {_PACKAGE!r}', name=_PACKAGE)
        sys.modules[_PACKAGE] = module_from_spec(spec)


def _register() -> None:
    """Import the package, as ``import`` does."""
    package = sys.modules[_PACKAGE]
    if not hasattr(package, '__all__') and package.__spec__ and package.__spec__.loader:
        package.__spec__.loader.exec_module(package)


if __name__ == '__main__':
    sys.exit(main())
