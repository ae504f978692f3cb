"""What an image folder holds: classes, and images to train and test on.

The list of images that is written from it is read by mmpretrain as UTF-8, a sample a line: each
line is stripped, and what follows its last space is the label. A carriage return ends a line too.
"""

from __future__ import annotations

import os
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, NamedTuple, NoReturn, Optional

from ....errors import MobileOneExtError
from ....models.preprocessing import HEIC_SUFFIXES
from ....utils.text import counted

#: The list of what is not used, in the work dir.
SKIPPED = 'skipped.csv'
Sample = tuple[str, int]
#: Paths of images to the reasons why some cannot be read.
Check = Callable[[Sequence[str]], Mapping[str, str]]
#: Of formats that OpenCV or Pillow reads; which of them this machine can read is found out by
#: reading.
SUFFIXES = (
    *('.jpg', '.jpeg', '.jpe', '.jfif', '.png', '.bmp', '.dib', '.webp', '.tif', '.tiff'),
    *('.ppm', '.pgm', '.pbm', '.pnm', '.gif', '.jp2', '.avif'),
    *HEIC_SUFFIXES,
)
#: What macOS adds to archives.
_NO_FOLDERS = ('__MACOSX',)
_AFFIX = '(?:images?|imgs?|data|dataset|set|split|seg)'
_SPLIT = re.compile(
    rf'{_AFFIX}?[-_. ]?(?:(?P<train>train|training|trainval)|(?P<test>test|testing)|'
    r'(?P<val>val|valid|validation|dev|eval|evaluation))'
    rf'[-_. ]?{_AFFIX}?[-_. ]?\d*',
    re.IGNORECASE,
)
_ROLES = ('train', 'test', 'val')
#: A path that begins with a blank would lose it.
_HERE = './'


class Skipped(NamedTuple):
    """A file or folder that is not used.

    Attributes:
        path: relative to the folder of images; a folder ends with ``/``.
        reason: in words.
    """

    path: str
    reason: str


@dataclass(frozen=True)
class ImageFolder:
    """An image folder, read once.

    Attributes:
        root: the folder.
        classes: class names, sorted; a label is an index into them.
        train, test: paths relative to ``root`` with their labels.
        held_out: whether ``test`` was set aside here rather than found.
        skipped: what else is there, by path.
    """

    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    held_out: bool
    skipped: tuple[Skipped, ...] = ()


def read_folder(
    root: Path, holdout: float = 0.2, seed: int = 0, check: Check = lambda paths: {}
) -> ImageFolder:
    """Read ``root/{train,test}/<class>/...`` or ``root/<class>/...``.

    Args:
        root: the folder; splits may have other usual names, see :func:`find_layout`, and ``val``
            serves where there is no ``test``.
        holdout: share of each class that is set aside for the test where ``root`` has no split; at
            least one image, the same ones each time.
        seed: of that choice.
        check: finds the images that cannot be read; they are skipped.

    Raises:
        MobileOneExtError: fewer than two classes, a class without images, a test class that is not
            trained, folders that may be splits or classes, or a name that a list of images cannot
            hold.
    """
    root = Path(root)
    if not 0 < holdout < 1:
        raise MobileOneExtError(f'holdout={holdout} must be a share of the images, between 0 and 1')
    layout, classes = check_folder(root)
    folders = [
        (split / name, label)
        for split in (layout.train, layout.test)
        if split is not None
        for label, name in enumerate(classes)
        if (split / name).is_dir()
    ]
    walked = [(folder, label, *walk(root, folder)) for folder, label in folders]
    reasons = check([path for _, _, paths, _ in walked for path in paths])
    samples: dict[Path, list[Sample]] = {}
    skipped = [*layout.beside, *strays(root, root)]
    if layout.test is not None:
        skipped += strays(root, layout.train) + strays(root, layout.test)
    for folder, label, paths, others in walked:
        others += [Skipped(p, reasons[p]) for p in paths if p in reasons]
        samples[folder] = [(p, label) for p in paths if p not in reasons]
        _check_images(folder, samples[folder], others)
        skipped += others
    train, test = _split(layout, samples, holdout, seed)
    return ImageFolder(root, classes, train, test, layout.test is None, tuple(sorted(skipped)))


def check_folder(root: Path) -> tuple[Layout, tuple[str, ...]]:
    """Where the class folders are, and the classes; no image is opened.

    Raises:
        MobileOneExtError: as :func:`read_folder`, as far as names tell.
    """
    if not root.is_dir():
        raise MobileOneExtError(f'{root}: no such folder of images')
    layout = find_layout(root)
    return layout, _classes(layout)


def _classes(layout: Layout) -> tuple[str, ...]:
    classes = _folders(layout.train)
    if not classes:
        _refuse_images_alone(layout.train)
    if len(classes) < 2:
        raise MobileOneExtError(
            f'{layout.train} must hold a folder for each class, at least '
            f'two; it holds {", ".join(classes) or "none"}'
        )
    if layout.test is not None:
        strange = sorted(set(_folders(layout.test)) - set(classes))
        if strange:
            raise MobileOneExtError(
                f'{layout.test} has classes that {layout.train} lacks: {", ".join(strange[:5])}'
            )
    return classes


def _refuse_images_alone(root: Path) -> None:
    """Say what to give where the folder of one class is given."""
    images = [p for p in root.iterdir() if _no_image(p) is None]
    if not images:
        return
    # As it was spelled, where that names a folder above.
    parent = root.parent if root.parent.name else root.resolve().parent
    meant = f'did you mean {parent}?' if len(_class_folders(parent)) > 1 else ''
    raise MobileOneExtError(
        f'{root} holds {counted(len(images), "image")} and no folder, but a folder for each class '
        f'is needed; {meant or "sort the images into such folders"}'
    )


def _folders(root: Path) -> tuple[str, ...]:
    return tuple(check_name(name, root) for name in subfolders(root))


def _check_images(folder: Path, samples: Sequence[Sample], skipped: Sequence[Skipped]) -> None:
    if samples:
        return
    first = f': {skipped[-1].path}: {skipped[-1].reason}' if skipped else ''
    raise MobileOneExtError(
        f'{folder} holds no image that can be read ({len(skipped)} other files{first})'
    )


def _split(
    layout: Layout, samples: Mapping[Path, Sequence[Sample]], holdout: float, seed: int
) -> tuple[tuple[Sample, ...], tuple[Sample, ...]]:
    train: list[Sample] = []
    test: list[Sample] = []
    for folder, found in samples.items():
        if layout.test is not None:
            (train if folder.parent == layout.train else test).extend(found)
            continue
        chosen = _set_aside(folder, found, holdout, seed)
        train += [s for s in found if s not in chosen]
        test += [s for s in found if s in chosen]
    return tuple(train), tuple(test)


def _set_aside(folder: Path, samples: Sequence[Sample], holdout: float, seed: int) -> set[Sample]:
    count = max(1, round(holdout * len(samples)))
    if count >= len(samples):
        raise MobileOneExtError(
            f'{folder} has {counted(len(samples), "image")} that can be read; {count} would be '
            'set aside for the test and none left to train on; add images or take the folder away'
        )
    return set(random.Random(f'{seed} {folder.name}').sample(list(samples), count))


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

    A folder named as a split (``train``, ``Testing``, ``val_images``, ...) is one if it holds class
    folders; with images in it, beside folders that are no splits, it is a class.

    Raises:
        MobileOneExtError: it can be taken for either, or a split is missing.
    """
    names = subfolders(root)
    roles = {name: role for name in names if (role := _role(name))}
    splits = {name: classes for name in roles if (classes := _class_folders(root / name))}
    others = [name for name in names if name not in roles and has_images(root / name)]
    if not splits:
        if roles and not others:
            raise MobileOneExtError(
                f'{root} holds {_listed(roles)}, named as splits, without a '
                'folder for each class in them; sort the images into class '
                'folders, or rename folders that are classes themselves'
            )
        return Layout(root)
    train, test = _pair(root, {n: roles[n] for n in splits}, bool(others))
    if others and not (train and test and set(splits[train]) & set(splits[test])):
        raise MobileOneExtError(
            f'{root} holds {_listed(splits)}, which can be splits, beside {_listed(others)}, which '
            'can be classes; move one kind elsewhere'
        )
    return Layout(
        root / train,
        root / test,
        tuple(
            Skipped(f'{name}/', f'beside {train} and {test}, which are used')
            for name in names
            if name not in (train, test)
        ),
    )


def _role(name: str) -> Optional[str]:
    found = _SPLIT.fullmatch(name)
    return found.lastgroup if found else None


def _class_folders(folder: Path) -> list[str]:
    return [name for name in subfolders(folder) if has_images(folder / name)]


def _pair(root: Path, roles: Mapping[str, str], may_lack: bool) -> tuple[str, str]:
    """Names of the folders to train and to test on; '' for none."""
    by_role = {role: [n for n in roles if roles[n] == role] for role in _ROLES}
    train, test = by_role['train'], by_role['test'] or by_role['val']
    for found in (train, test):
        if len(found) > 1:
            raise MobileOneExtError(
                f'{root} holds {_listed(found)} for one split; leave one of them there'
            )
    if not may_lack and not (train and test):
        lacks = 'neither test nor val' if train else 'no folder train'
        raise MobileOneExtError(
            f'{root} has a folder {_listed(roles)} but {lacks} with a folder for each class in it'
        )
    return train[0] if train else '', test[0] if test else ''


def _listed(names: Iterable[str]) -> str:
    shown = sorted(names)
    more = f' and {len(shown) - 5} more' if len(shown) > 5 else ''
    return f'{", ".join(map(repr, shown[:5]))}{more}'


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, hidden ones left out."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and not _is_hidden(p.name))


def walk(root: Path, folder: Path) -> tuple[list[str], list[Skipped]]:
    """What lies below ``folder``, by path relative to ``root``.

    Returns:
        Images by their names, sorted, and what is none.

    Raises:
        MobileOneExtError: an image has a name that no list can hold.
        OSError: a folder cannot be read.
    """
    images, skipped = [], []
    for path, reason in _entries(folder):
        name = path.relative_to(root).as_posix()
        if reason is None:
            images.append(check_name(name, root))
        else:
            skipped.append(Skipped(name + '/' * path.is_dir(), reason))
    return sorted(images), sorted(skipped)


def strays(root: Path, folder: Path) -> list[Skipped]:
    """Files directly in a folder of class folders, and hidden folders."""
    return [
        Skipped(
            p.relative_to(root).as_posix() + '/' * p.is_dir(),
            'hidden' if _is_hidden(p.name) else 'in no class folder',
        )
        for p in sorted(folder.iterdir())
        if not p.is_dir() or _is_hidden(p.name)
    ]


def has_images(folder: Path) -> bool:
    """Whether files with names of images lie below a folder."""
    return any(reason is None for _, reason in _entries(folder))


def _entries(folder: Path) -> Iterator[tuple[Path, Optional[str]]]:
    """Files and folders that end here, with the reason if no image."""
    for where, folders, files in os.walk(folder, onerror=_refuse):
        here = Path(where)
        for name in files:
            yield here / name, _no_image(here / name)
        for name in list(folders):
            reason = _no_folder(here / name)
            if reason:
                folders.remove(name)
                yield here / name, reason


def _refuse(error: OSError) -> NoReturn:
    raise error


def _no_folder(path: Path) -> Optional[str]:
    if _is_hidden(path.name):
        return 'hidden'
    return 'a link to a folder' if path.is_symlink() else None


def _no_image(path: Path) -> Optional[str]:
    if path.name.startswith('._'):
        return 'data of macOS about another file'
    if _is_hidden(path.name):
        return 'hidden'
    if path.suffix.lower() not in SUFFIXES:
        return f'no image by its name ({path.suffix or "no suffix"})'
    return None if path.is_file() else 'no file that can be read'


def _is_hidden(name: str) -> bool:
    return name.startswith('.') or name in _NO_FOLDERS


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
            'no list of images can hold; rename it'
        )
    try:
        path.encode()
    except UnicodeEncodeError as error:
        raise MobileOneExtError(
            f'{str(root)!r} holds {path!r}, whose name is no UTF-8; rename it'
        ) from error
    return path


def image_list(samples: Iterable[tuple[str, int]]) -> bytes:
    """The content of a list that CustomDataset reads as ``samples``.

    Args:
        samples: paths that passed :func:`check_name`, with their labels.
    """
    return ''.join(
        f'{"" if path == path.lstrip() else _HERE}{path} {label}\n' for path, label in samples
    ).encode()
