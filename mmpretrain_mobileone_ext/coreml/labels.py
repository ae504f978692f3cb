"""Class labels of an export: one a logit, unique, in training order."""
from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Optional, Union

from ..class_names import ClassNames, check_consistent, check_related
from ..errors import ExportError

#: Controls and separators of lines, paragraphs and pages.
_NO_TEXT = ('Cc', 'Zl', 'Zp')


@dataclass(frozen=True)
class Labels:
    """Class labels and where they came from.

    Attributes:
        names: in the order of the logits.
        origin: words for the summary, e.g. 'checkpoint'.
    """
    names: tuple[str, ...]
    origin: str


def choose_labels(given: Union[str, os.PathLike[str], Sequence[str], None],
                  known: Sequence[tuple[str, Optional[Sequence[str]]]],
                  num_logits: int) -> Labels:
    """Take the given labels, else the first known ones, else numbers.

    Args:
        given: file with one label a line, or the labels.
        known: (origin, labels or None), best first. Labels that occur
            twice (ImageNet has two cranes) get their index appended. All
            are compared, with given ones too.
        num_logits: outputs of the network.

    Raises:
        ExportError: unreadable, empty, duplicate or too few labels, or lists
            in which a name stands for different labels.
    """
    found = [Labels(tuple(map(str, names)), origin)
             for origin, names in known if names]
    if given is not None:
        labels = _given(given)
    elif found:
        labels = _distinct(found[0])
    else:
        return Labels(tuple(map(str, range(num_logits))), 'unknown: numbered')
    if len(labels.names) != num_logits:
        raise ExportError(
            f'{len(labels.names)} classes ({labels.origin}) do not fit the '
            f'{num_logits} outputs of the network')
    if given is None:
        check_labels(known)
    else:
        check_labels([(labels.origin, labels.names), *known], may_rename=True)
    return labels


def check_labels(known: Sequence[tuple[str, Optional[Sequence[str]]]],
                 may_rename: bool = False) -> None:
    """Refuse lists in which a name stands for different labels.

    Args:
        known: (origin, labels or None); a checkpoint's first.
        may_rename: whether the first may share no name with the others.

    Raises:
        ExportError: names two lists.
    """
    lists = [ClassNames(tuple(map(str, names)), f'classes from {origin}')
             for origin, names in known if names]
    check_consistent(lists, ExportError)
    # A data set may call its own folders as it likes.
    if known and known[0][1] and not may_rename:
        check_related(lists[0], lists[1:], ExportError)


def _given(given: Union[str, os.PathLike[str], Sequence[str]]) -> Labels:
    if isinstance(given, (str, os.PathLike)):
        labels = Labels(_read(Path(given)), Path(given).name)
    else:
        labels = Labels(tuple(given), 'given')
    for index, name in enumerate(labels.names, start=1):
        if not isinstance(name, str) or not name.strip():
            raise ExportError(f'{labels.origin}: label {index} is {name!r}; '
                              'a label must be text, one a line, not empty')
    return _unique(labels)


def _unique(labels: Labels) -> Labels:
    twice = [n for n, count in Counter(labels.names).items() if count > 1]
    if twice:
        raise ExportError(f'{labels.origin}: {len(twice)} labels occur more '
                          f'than once, such as {twice[0]!r}')
    return labels


def _read(path: Path) -> tuple[str, ...]:
    try:
        # Line ends become one; nothing else ends a line, as in editors.
        text = path.expanduser().read_text(encoding='utf-8-sig')
    except (OSError, UnicodeDecodeError) as error:
        reason = ' '.join(str(error).split())
        raise ExportError(f'{path}: cannot read class labels as UTF-8: '
                          f'{reason}') from error
    if not text:
        raise ExportError(f'{path}: the file of class labels is empty')
    lines = text.removesuffix('\n').split('\n')
    for number, line in enumerate(lines, start=1):
        _check_characters(line, f'{path}: line {number}')
    return tuple(line.strip() for line in lines)


def _check_characters(line: str, where: str) -> None:
    if '\0' in line:
        raise ExportError(f'{where} holds NUL; save the class labels as UTF-8 '
                          'text, this may be UTF-16')
    wrong = [c for c in line
             if c != '\t' and unicodedata.category(c) in _NO_TEXT]
    if wrong:
        raise ExportError(f'{where} holds {wrong[0]!r}, which is no character '
                          'of a class label')


def _distinct(labels: Labels) -> Labels:
    """Core ML maps labels to probabilities: equal ones would merge."""
    counts = Counter(labels.names)
    names = tuple(name if counts[name] == 1 else f'{name} ({index})'
                  for index, name in enumerate(labels.names))
    return _unique(Labels(names, labels.origin))
