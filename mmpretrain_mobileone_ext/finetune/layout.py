"""Whether a folder holds classes, or splits that hold them."""
from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..errors import MobileOneExtError
from .walk import Skipped, has_images, subfolders

_AFFIX = '(?:images?|imgs?|data|dataset|set|split|seg)'
_SPLIT = re.compile(
    rf'{_AFFIX}?[-_. ]?(?:(train|training|trainval)|(test|testing)|'
    r'(val|valid|validation|dev|eval|evaluation))'
    rf'[-_. ]?{_AFFIX}?[-_. ]?\d*', re.IGNORECASE)
_ROLES = ('train', 'test', 'val')


@dataclass(frozen=True)
class Layout:
    """Where the class folders are.

    Attributes:
        train: folder that holds a folder for each class.
        test: likewise; None where nothing is set aside for the test.
        beside: folders that are not used.
    """
    train: Path
    test: Optional[Path] = None
    beside: tuple[Skipped, ...] = ()


def find_layout(root: Path) -> Layout:
    """Tell splits from classes, by name and by what is in them.

    A folder named as a split (``train``, ``Testing``, ``val_images``, ...)
    is one if it holds class folders; with images in it, beside folders that
    are no splits, it is a class.

    Raises:
        MobileOneExtError: it can be taken for either, or a split is missing.
    """
    names = subfolders(root)
    roles = {name: role for name in names if (role := _role(name))}
    splits = {name: classes for name in roles
              if (classes := _class_folders(root / name))}
    others = [name for name in names if name not in roles
              and has_images(root / name)]
    if not splits:
        if roles and not others:
            raise MobileOneExtError(
                f'{root} holds {_listed(roles)}, named as splits, without a '
                'folder for each class in them; sort the images into class '
                'folders, or rename folders that are classes themselves')
        return Layout(root)
    train, test = _pair(root, {n: roles[n] for n in splits}, bool(others))
    if others and not (train and test and
                       set(splits[train]) & set(splits[test])):
        raise MobileOneExtError(
            f'{root} holds {_listed(splits)}, which can be splits, beside '
            f'{_listed(others)}, which can be classes; move one kind '
            'elsewhere')
    return Layout(root / train, root / test, tuple(
        Skipped(f'{name}/', f'beside {train} and {test}, which are used')
        for name in names if name not in (train, test)))


def _role(name: str) -> Optional[str]:
    found = _SPLIT.fullmatch(name)
    return _ROLES[found.lastindex - 1] if found and found.lastindex else None


def _class_folders(folder: Path) -> list[str]:
    return [name for name in subfolders(folder)
            if has_images(folder / name)]


def _pair(root: Path, roles: Mapping[str, str],
          may_lack: bool) -> tuple[str, str]:
    """Names of the folders to train and to test on; '' for none."""
    by_role = {role: [n for n in roles if roles[n] == role]
               for role in _ROLES}
    train, test = by_role['train'], by_role['test'] or by_role['val']
    for found in (train, test):
        if len(found) > 1:
            raise MobileOneExtError(f'{root} holds {_listed(found)} for one '
                                    'split; leave one of them there')
    if not may_lack and not (train and test):
        lacks = 'neither test nor val' if train else 'no folder train'
        raise MobileOneExtError(
            f'{root} has a folder {_listed(roles)} but {lacks} with a '
            'folder for each class in it')
    return train[0] if train else '', test[0] if test else ''


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = f' and {len(shown) - 5} more' if len(shown) > 5 else ''
    return f'{", ".join(map(repr, shown[:5]))}{more}'
