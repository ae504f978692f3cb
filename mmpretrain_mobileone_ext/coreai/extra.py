"""Apple's packages for Core AI, which are betas and an extra."""

from __future__ import annotations

import sys
import warnings
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from ..errors import ExportError, ProgramError

#: Module to package; what each is for decides which are asked for.
RUN = {'coreai': 'coreai-core'}
CONVERT = {**RUN, 'coreai_torch': 'coreai-torch'}


def require(purpose: str, packages: dict[str, str] = RUN, error: Any = ProgramError) -> None:
    """Refuse where a package is missing.

    Args:
        purpose: what it is needed for, in words.
        packages: module to package.
        error: type of what is raised.

    Raises:
        ProgramError: names the extra.
    """
    missing = [name for module, name in packages.items() if find_spec(module) is None]
    if not missing:
        return
    old = sys.version_info < (3, 11)
    how = 'Python 3.11 or later and ' if old else ''
    raise error(
        f'{", ".join(missing)} is missing; {purpose} takes {how}'
        "pip install 'mmpretrain-mobileone-ext[coreai]'"
    )


def converter() -> Any:
    """The module ``coreai_torch``.

    Raises:
        ExportError: it is missing; names the extra.
    """
    require('to write an .aimodel', CONVERT, ExportError)
    with warnings.catch_warnings():
        # Every file is compared with its network, whatever torch made it.
        warnings.filterwarnings('ignore', 'coreai-torch has only been validated')
        return import_module('coreai_torch')
