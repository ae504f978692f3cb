"""The text file that lists images with their labels for CustomDataset.

mmpretrain reads it as UTF-8, a sample a line, strips each line and takes what
follows the last space for the label. A carriage return ends a line too.
"""
from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import MobileOneExtError
from .folder import Sample

#: A path that begins with a blank would lose it.
_HERE = './'


def image_list(samples: Sequence[Sample], root: Path) -> bytes:
    """The content of a list that CustomDataset reads as ``samples``.

    Args:
        samples: paths relative to ``root`` with their labels.
        root: for an error.

    Raises:
        MobileOneExtError: a name that such a list cannot hold: one with a
            line end, or one that is no Unicode.
    """
    return b''.join(_line(path, label, root) for path, label in samples)


def _line(path: str, label: int, root: Path) -> bytes:
    prefix = _HERE if path != path.lstrip() else ''
    try:
        line = f'{prefix}{path} {label}\n'.encode()
    except UnicodeEncodeError as error:
        raise MobileOneExtError(
            f'{str(root)!r} holds {path!r}, whose name is no UTF-8; rename '
            'it') from error
    if any(end in path for end in '\n\r'):
        raise MobileOneExtError(
            f'{str(root)!r} holds {path!r}, whose name has a line end, which '
            'no list of images can hold; rename it')
    return line
