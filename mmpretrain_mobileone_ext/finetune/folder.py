"""What an image folder holds: classes, and images to train and test on."""
from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Callable

from ..errors import MobileOneExtError
from .image_list import check_name
from .layout import Layout, find_layout
from .walk import Skipped, strays, subfolders, walk

Sample = tuple[str, int]
#: Paths of images to the reasons why some cannot be read.
Check = Callable[[Sequence[str]], Mapping[str, str]]


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


def read_folder(root: Path, holdout: float = 0.2, seed: int = 0,
                check: Check = lambda paths: {}) -> ImageFolder:
    """Read ``root/{train,test}/<class>/...`` or ``root/<class>/...``.

    Args:
        root: the folder; splits may have other usual names, see
            :func:`.layout.find_layout`, and ``val`` serves where there is
            no ``test``.
        holdout: share of each class that is set aside for the test where
            ``root`` has no split; at least one image, the same ones each
            time.
        seed: of that choice.
        check: finds the images that cannot be read; they are skipped.

    Raises:
        MobileOneExtError: fewer than two classes, a class without images,
            a test class that is not trained, folders that may be splits or
            classes, or a name that a list of images cannot hold.
    """
    root = Path(root)
    if not root.is_dir():
        raise MobileOneExtError(f'{root}: no such folder of images')
    if not 0 < holdout < 1:
        raise MobileOneExtError(f'holdout={holdout} must be a share of the '
                                'images, between 0 and 1')
    layout = find_layout(root)
    classes = _classes(layout)
    folders = [(split / name, label) for split in (layout.train, layout.test)
               if split is not None for label, name in enumerate(classes)
               if (split / name).is_dir()]
    walked = [(folder, label, *walk(root, folder)) for folder, label in
              folders]
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
    return ImageFolder(root, classes, train, test, layout.test is None,
                       tuple(sorted(skipped)))


def _classes(layout: Layout) -> tuple[str, ...]:
    classes = _folders(layout.train)
    if len(classes) < 2:
        raise MobileOneExtError(
            f'{layout.train} must hold a folder for each class, at least '
            f'two; it holds {", ".join(classes) or "none"}')
    if layout.test is not None:
        strange = sorted(set(_folders(layout.test)) - set(classes))
        if strange:
            raise MobileOneExtError(
                f'{layout.test} has classes that {layout.train} lacks: '
                f'{", ".join(strange[:5])}')
    return classes


def _folders(root: Path) -> tuple[str, ...]:
    return tuple(check_name(name, root) for name in subfolders(root))


def _check_images(folder: Path, samples: Sequence[Sample],
                  skipped: Sequence[Skipped]) -> None:
    if samples:
        return
    first = f': {skipped[-1].path}: {skipped[-1].reason}' if skipped else ''
    raise MobileOneExtError(f'{folder} holds no image that can be read '
                            f'({len(skipped)} other files{first})')


def _split(layout: Layout, samples: Mapping[Path, Sequence[Sample]],
           holdout: float, seed: int
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


def _set_aside(folder: Path, samples: Sequence[Sample], holdout: float,
               seed: int) -> set[Sample]:
    count = max(1, round(holdout * len(samples)))
    if count >= len(samples):
        raise MobileOneExtError(
            f'{folder} has {len(samples)} image(s) that can be read; {count} '
            'would be set aside for the test and none left to train on')
    return set(random.Random(f'{seed} {folder.name}').sample(
        list(samples), count))
