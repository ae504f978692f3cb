"""What an image folder holds: classes, and images to train and test on."""
from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..errors import MobileOneExtError
from .image_list import check_name

#: Suffixes that mmpretrain's CustomDataset takes for images.
_IMAGES = ('.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
_TEST_NAMES = ('test', 'val')

Sample = tuple[str, int]


@dataclass(frozen=True)
class ImageFolder:
    """An image folder, read once.

    Attributes:
        root: the folder.
        classes: class names, sorted; a label is an index into them.
        train, test: paths relative to ``root`` with their labels.
        held_out: whether ``test`` was set aside here rather than found.
    """
    root: Path
    classes: tuple[str, ...]
    train: tuple[Sample, ...]
    test: tuple[Sample, ...]
    held_out: bool


def read_folder(root: Path, holdout: float = 0.2,
                seed: int = 0) -> ImageFolder:
    """Read ``root/{train,test}/<class>/...`` or ``root/<class>/...``.

    Args:
        root: the folder; ``val`` serves where there is no ``test``.
        holdout: share of each class that is set aside for the test where
            ``root`` has no split; at least one image, the same ones each
            time.
        seed: of that choice.

    Raises:
        MobileOneExtError: fewer than two classes, a class without images,
            a test class that is not trained, or a name that a list of
            images cannot hold.
    """
    root = Path(root)
    if not root.is_dir():
        raise MobileOneExtError(f'{root}: no such folder of images')
    if not 0 < holdout < 1:
        raise MobileOneExtError(f'holdout={holdout} must be a share of the '
                                'images, between 0 and 1')
    if (root / 'train').is_dir():
        return _split_folder(root, _test_name(root))
    classes = _classes(root)
    images = [(name, _images(root, root / name)) for name in classes]
    kept, held = [], []
    for label, (name, paths) in enumerate(images):
        count = max(1, round(holdout * len(paths)))
        if count >= len(paths):
            raise MobileOneExtError(
                f'{root / name} has {len(paths)} image(s); {count} would be '
                'set aside for the test and none left to train on')
        chosen = set(random.Random(f'{seed} {name}').sample(paths, count))
        held += [(p, label) for p in paths if p in chosen]
        kept += [(p, label) for p in paths if p not in chosen]
    return ImageFolder(root, classes, tuple(kept), tuple(held), True)


def _split_folder(root: Path, test: str) -> ImageFolder:
    classes = _classes(root / 'train')
    strange = sorted(set(_folders(root / test)) - set(classes))
    if strange:
        raise MobileOneExtError(
            f'{root / test} has classes that {root / "train"} lacks: '
            f'{", ".join(strange[:5])}')
    found: dict[str, tuple[Sample, ...]] = {}
    for split in ('train', test):
        found[split] = tuple(
            (path, label) for label, name in enumerate(classes)
            if (root / split / name).is_dir()
            for path in _images(root, root / split / name))
    return ImageFolder(root, classes, found['train'], found[test], False)


def _test_name(root: Path) -> str:
    found: Optional[str] = next(
        (name for name in _TEST_NAMES if (root / name).is_dir()), None)
    if found is None:
        raise MobileOneExtError(f'{root} has a folder train but neither '
                                f'{" nor ".join(_TEST_NAMES)}')
    return found


def _classes(root: Path) -> tuple[str, ...]:
    classes = _folders(root)
    if len(classes) < 2:
        raise MobileOneExtError(
            f'{root} must hold a folder for each class, at least two; it '
            f'holds {", ".join(classes) or "none"}')
    return classes


def _folders(root: Path) -> tuple[str, ...]:
    return tuple(sorted(check_name(p.name, root) for p in root.iterdir()
                        if p.is_dir() and not p.name.startswith('.')))


def _images(root: Path, folder: Path) -> list[str]:
    found = sorted(check_name(p.relative_to(root).as_posix(), root)
                   for p in folder.rglob('*')
                   if p.suffix.lower() in _IMAGES and p.is_file())
    if not found:
        raise MobileOneExtError(f'{folder} holds no image '
                                f'({", ".join(_IMAGES)})')
    return found
