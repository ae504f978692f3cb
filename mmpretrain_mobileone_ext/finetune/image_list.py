"""The text file that lists images with their labels for CustomDataset.

mmpretrain reads it as UTF-8, a sample a line, strips each line and takes what
follows the last space for the label. A carriage return ends a line too.
"""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import MobileOneExtError

#: A path that begins with a blank would lose it.
_HERE = './'


def check_name(path: str, root: Path) -> str:
    """Refuse a name that no list can hold; returns it.

    Args:
        path: of an image or a class, relative to ``root``.
        root: for the error.

    Raises:
        MobileOneExtError: it has a line end or is no Unicode.
    """
    if any(end in path for end in '\n\r'):
        raise MobileOneExtError(
            f'{str(root)!r} holds {path!r}, whose name has a line end, which '
            'no list of images can hold; rename it')
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise MobileOneExtError(
            f'{str(root)!r} holds {path!r}, whose name is no UTF-8; rename '
            'it') from error
    return path


def image_list(samples: Iterable[tuple[str, int]]) -> bytes:
    """The content of a list that CustomDataset reads as ``samples``.

    Args:
        samples: paths that passed :func:`check_name`, with their labels.
    """
    return ''.join(
        f'{"" if path == path.lstrip() else _HERE}{path} {label}\n'
        for path, label in samples).encode()
