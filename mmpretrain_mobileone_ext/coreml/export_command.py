"""An export written as a call of ``tools/export_coreml.py``."""
from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Optional

from ..outside_text import shell_command

_TOOL = 'python tools/export_coreml.py'
#: Stands for a file that holds the labels: they are no argument of the tool.
LABELS_FILE = 'LABELS.txt'


def export_command(config: Path, checkpoint: Path, out: Path,
                   options: Mapping[str, Any],
                   cfg_options: Optional[Mapping[str, Any]] = None) -> str:
    """Write down the command that exports ``checkpoint`` by hand.

    Args:
        config: config file.
        out: target.
        options: of ``ExportOptions``, by name, as a user gives them. Labels
            become the file :data:`LABELS_FILE`, which has to be made.
        cfg_options: dotted keys to values, merged into the config.

    Returns:
        str: one line for a POSIX shell.
    """
    words = [str(config), str(checkpoint), '--out', str(out)]
    for name, value in options.items():
        words += _option(name, value)
    if cfg_options:
        words += ['--cfg-options', *(f'{key}={_spelled(value)}'
                                     for key, value in cfg_options.items())]
    return f'{_TOOL} {shell_command(words)}'


def _option(name: str, value: Any) -> list[str]:
    flag = f'--{name.replace("_", "-")}'
    if value is None or value is False:
        return []
    if value is True:
        return [flag]
    if name == 'classes' and not isinstance(value, (str, Path)):
        return [flag, LABELS_FILE]
    if isinstance(value, (list, tuple)):
        return [flag, *_items(name, value)] if value else []
    return [flag, str(value)]


def _items(name: str, values: Sequence[Any]) -> Iterator[str]:
    for value in values:
        pair = name == 'extra_sizes' and isinstance(value, (list, tuple))
        yield 'x'.join(map(str, value)) if pair else str(value)


def _spelled(value: Any) -> str:
    """As mmengine's ``DictAction`` reads it: no quotes inside lists."""
    if isinstance(value, (list, tuple)):
        inner = ','.join(map(_spelled, value))
        return f'[{inner}]' if isinstance(value, list) else f'({inner})'
    return str(value)
