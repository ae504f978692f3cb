"""The two data sets of the demo, from packages: nothing is downloaded."""
from __future__ import annotations

import contextlib
import gzip
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from .atomic_file import workspace
from .errors import MobileOneExtError

#: Where Debian's ``dataset-fashion-mnist`` puts its files.
DEBIAN_FASHION_MNIST = Path('/usr/share/datasets/fashion-mnist')
_FASHION_FILES = ('train-images-idx3-ubyte', 'train-labels-idx1-ubyte',
                  't10k-images-idx3-ubyte', 't10k-labels-idx1-ubyte')


def write_digits(root: Path, test_share: float = 0.3) -> Path:
    """Write scikit-learn's handwritten digits as an image folder.

    1797 scans of 8 x 8 pixels with 17 grey levels become
    ``root/{train,test}/<digit>/<index>.png``, 8-bit grey, split stratified
    with a fixed seed. An existing folder is left as it is.

    Args:
        root: folder to create, in one step.
        test_share: share of each class in ``test``.

    Returns:
        ``root``.
    """
    root = Path(root)
    if root.is_dir():
        return root
    with _staged(root) as stage:
        _write_digits(stage, test_share)
    return root


def _write_digits(root: Path, test_share: float) -> None:
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split
    digits = load_digits()
    pixels = np.rint(digits.images * (255 / 16)).astype(np.uint8)
    index = np.arange(len(pixels))
    train, test = train_test_split(
        index, test_size=test_share, random_state=0, stratify=digits.target)
    for split, chosen in (('train', train), ('test', test)):
        for i in chosen:
            folder = root / split / str(digits.target[i])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(folder / f'{i:04d}.png')


def unpack_fashion_mnist(root: Path,
                         source: Path = DEBIAN_FASHION_MNIST) -> Path:
    """Unpack Debian's Fashion-MNIST where mmpretrain's class looks for it.

    Without the package nothing is written: mmpretrain downloads the files
    when the data set is first used.

    Args:
        root: ``data_root`` of the config.
        source: folder with the four ``.gz`` files.
    """
    root = Path(root)
    complete = all((root / n).is_file() for n in _FASHION_FILES)
    if complete or not Path(source).is_dir():
        return root
    with _staged(root) as stage:
        for name in _FASHION_FILES:
            packed = Path(source) / f'{name}.gz'
            with gzip.open(packed) as src, open(stage / name, 'wb') as dst:
                shutil.copyfileobj(src, dst)
    return root


@contextlib.contextmanager
def _staged(target: Path) -> Iterator[Path]:
    """A folder whose files move to the target when complete."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with workspace(target) as folder:
        stage = folder / target.name
        stage.mkdir()
        yield stage
        if not target.exists():
            os.replace(stage, target)
            return
        # The folder may hold files of others, which stay.
        for item in stage.iterdir():
            os.replace(item, target / item.name)


PREPARE: dict[str, Callable[[Path], Path]] = {
    'digits': write_digits,
    'fashion-mnist': unpack_fashion_mnist,
}


def prepare(name: str, data_dir: Path = Path('data')) -> Path:
    """Prepare a demo data set by name under ``data_dir``.

    Raises:
        MobileOneExtError: unknown name.
    """
    if name not in PREPARE:
        raise MobileOneExtError(f'DATASET={name!r} is not one of '
                                f'{sorted(PREPARE)}')
    return PREPARE[name](Path(data_dir) / name)
