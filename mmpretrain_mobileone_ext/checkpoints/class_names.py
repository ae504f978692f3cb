"""Names of classes, compared: the same name has to mean the same label.

mmpretrain numbers the folders of a split in sorted order, whatever names its ``metainfo`` gives. A
checkpoint, a Core ML file and two splits each have their own list. Where two lists share names that
stand for other labels, all figures look fine and every image gets a wrong name, so that is an
error. Names are equal when they are equal in Unicode's normal form C: folders of macOS are often
written in another form than configs.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Optional

from ..utils.text import shown

#: ImageNet's folders, which say nothing to a reader.
_WORDNET = re.compile(r'n\d{8}')
_SHOWN = 10
_ADVICE = (
    '. mmpretrain numbers the folders of a split in sorted order: give names in that order, all '
    'classes a folder, an empty one if need be, or the split an ann_file'
)


@dataclass(frozen=True)
class ClassNames:
    """Names of classes in the order of their labels, and whose they are.

    Attributes:
        names: the name of label 0, of label 1, ...
        origin: words for messages, e.g. 'the checkpoint'.
        are_folders: whether they are the folders a split is labelled by.
    """

    names: tuple[str, ...]
    origin: str
    are_folders: bool = False

    def __str__(self) -> str:
        return f'{shown(self.origin)} ({_some(self.names, _SHOWN)})'


def normalized(name: str) -> str:
    """The name by which equal ones are recognized."""
    return unicodedata.normalize('NFC', name)


def names_of(found: Any) -> Optional[tuple[str, ...]]:
    """Names as text, or None: some data sets answer with a number."""
    if not isinstance(found, (list, tuple)) or not found:
        return None
    return tuple(str(name) for name in found)


def checkpoint_names(meta: Any) -> Optional[tuple[str, ...]]:
    """Names in a checkpoint's ``meta``, in any of their places, or None."""
    meta = meta if isinstance(meta, Mapping) else {}
    known = meta.get('dataset_meta')
    found = known.get('classes') if isinstance(known, Mapping) else None
    return names_of(found or meta.get('CLASSES'))


def data_set_names(data_set: Any, title: str) -> list[ClassNames]:
    """What a built data set calls its classes, each different list once.

    Args:
        data_set: one of mmpretrain, or a wrapper around one or several.
        title: words for messages, e.g. 'the test split'.

    Returns:
        Those of ``metainfo`` come first, the folders that the images were labelled by after them.
    """
    found: dict[tuple[str, ...], ClassNames] = {}
    for inner in _innermost(data_set):
        meta = names_of((getattr(inner, 'metainfo', None) or {}).get('classes'))
        if meta:
            found.setdefault(meta, ClassNames(meta, f'the metainfo of {title}'))
        folders = getattr(inner, 'folder_to_idx', None) or {}
        by_label = tuple(sorted(folders, key=folders.__getitem__))
        if by_label:
            found[by_label] = ClassNames(by_label, f'the folders of {title}', are_folders=True)
    return list(found.values())


def _innermost(data_set: Any) -> Iterator[Any]:
    inner = getattr(data_set, 'dataset', None)
    several = [inner] if inner is not None else getattr(data_set, 'datasets', None)
    if not several:
        yield data_set
        return
    for one in several:
        yield from _innermost(one)


def check_consistent(known: Sequence[ClassNames], error: type[Exception]) -> None:
    """Every name has to stand for the same label in all lists.

    Lists that share no name are taken for two ways to call the same classes: ImageNet's folders are
    numbers of WordNet, its classes words.

    Raises:
        error: names two lists that share names, but in another order, or of which one lacks classes
            of the other; or a list whose names differ by their Unicode form only.
    """
    for one in known:
        check_distinct(one, error)
    for one, other in combinations(known, 2):
        _check_pair(one, other, error)


def check_distinct(given: ClassNames, error: type[Exception]) -> None:
    """Refuse different names that are equal in Unicode's normal form.

    A name that occurs twice is none: ImageNet has two cranes.

    Raises:
        error: names both.
    """
    forms: dict[str, str] = {}
    for name in given.names:
        first = forms.setdefault(normalized(name), name)
        if first != name:
            raise error(
                f'{shown(given.origin)}: the classes {first!a} and {name!a} are the same text in '
                'two Unicode forms; rename one of them'
            )


def _check_pair(one: ClassNames, other: ClassNames, error: type[Exception]) -> None:
    places, others = _places(one.names), _places(other.names)
    shared = [name for name in places if name in others]
    moved = [name for name in shared if not places[name] & others[name]]
    if not moved and (len(one.names) == len(other.names) or not shared):
        return
    if len(one.names) != len(other.names):
        few, many = sorted((one, other), key=lambda c: len(c.names))
        found = _places(few.names)
        lacking = [n for n in many.names if normalized(n) not in found]
        fault = f'{_some(lacking, 3)} missing in {shown(few.origin)}'
    elif places.keys() == others.keys():
        fault = 'the same names in another order'
    else:
        fault = 'the same name for different labels'
    if moved:
        fault += (
            f"; '{shown(moved[0])}' is label {min(places[moved[0]])} "
            f'there and {min(others[moved[0]])} here'
        )
    raise error(f'{one} and {other} do not agree: {fault}{_ADVICE}')


def _places(names: Iterable[str]) -> dict[str, set[int]]:
    found: defaultdict[str, set[int]] = defaultdict(set)
    for label, name in enumerate(names):
        found[normalized(name)].add(label)
    return dict(found)


def _some(names: Sequence[str], limit: int) -> str:
    rest = len(names) - limit
    more = f' and {rest} more' if rest > 0 else ''
    return ', '.join(f"'{shown(n)}'" for n in names[:limit]) + more


def are_other_classes(one: Sequence[str], other: Sequence[str]) -> bool:
    """Whether the names of two lists say that their classes differ.

    They differ where one has a name that the other lacks. Numbers of WordNet on one side only
    cannot be compared: as many are the same classes.
    """
    if len(one) == len(other) and _are_wordnet(one) != _are_wordnet(other):
        return False
    return {normalized(n) for n in one} != {normalized(n) for n in other}


def check_related(own: ClassNames, others: Sequence[ClassNames], error: type[Exception]) -> None:
    """Refuse to judge by classes that the network does not know at all.

    Args:
        own: those of the network.
        others: all lists of the split that it is to be judged on.

    Raises:
        error: names ``own`` and the first of ``others``.
    """
    if others and all(_share_none(own.names, o.names) for o in others):
        raise error(
            f'{own} and {others[0]} are other classes; where both mean the same, give the data set '
            'the names of the former: metainfo=dict(classes=[...])'
        )


def _share_none(one: Sequence[str], other: Sequence[str]) -> bool:
    return are_other_classes(one, other) and not (
        {normalized(n) for n in one} & {normalized(n) for n in other}
    )


def _are_wordnet(names: Sequence[str]) -> bool:
    return all(_WORDNET.fullmatch(name) for name in names)
