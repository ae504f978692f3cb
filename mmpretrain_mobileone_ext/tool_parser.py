"""Command lines that answer a mistake as everything else here: in one line."""
from __future__ import annotations

import argparse
from typing import Any, NoReturn

from .errors import MobileOneExtError


class ToolParser(argparse.ArgumentParser):
    """An ``ArgumentParser`` that raises instead of printing its usage.

    Args:
        error_type: what it raises, for ``launch.guarded`` to show.
        kwargs: as of the parent.
    """

    def __init__(self, *,
                 error_type: type[MobileOneExtError] = MobileOneExtError,
                 **kwargs: Any):
        super().__init__(**kwargs)
        self._error_type = error_type

    def error(self, message: str) -> NoReturn:
        """Raise ``error_type``."""
        raise self._error_type(f'{message}; see --help')
