"""The whole path on real data, through the tools that a user would call."""

from __future__ import annotations

import contextlib
import gzip
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Optional

import numpy as np
from mmengine.config import Config

from ...errors import MobileOneExtError
from ...report import FormResult, forms_table
from ...utils.config import MIM
from ...utils.files import workspace, write_whole
from ...utils.text import PlainConsole
from .to_phone import RunRecord, TrainToPhone, sole_use, text_hash

#: Where Debian's ``dataset-fashion-mnist`` puts its files.
DEBIAN_FASHION_MNIST = Path('/usr/share/datasets/fashion-mnist')
_FASHION_FILES = (
    'train-images-idx3-ubyte',
    'train-labels-idx1-ubyte',
    't10k-images-idx3-ubyte',
    't10k-labels-idx1-ubyte',
)


CONFIGS = {
    'digits': 'digits/mobileone-tiny_bs64_digits.py',
    'fashion-mnist': 'fashion_mnist/mobileone-tiny_bs64_fashion-mnist.py',
}


def write_digits(root: Path, test_share: float = 0.3) -> Path:
    """Write scikit-learn's handwritten digits as an image folder.

    1797 scans of 8 x 8 pixels with 17 grey levels become ``root/{train,test}/<digit>/<index>.png``,
    8-bit grey, split stratified with a fixed seed. An existing folder is left as it is.

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
        index, test_size=test_share, random_state=0, stratify=digits.target
    )
    for split, chosen in (('train', train), ('test', test)):
        for i in chosen:
            folder = root / split / str(digits.target[i])
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels[i]).save(folder / f'{i:04d}.png')


def unpack_fashion_mnist(root: Path, source: Path = DEBIAN_FASHION_MNIST) -> Path:
    """Unpack Debian's Fashion-MNIST where mmpretrain's class looks for it.

    Without the package nothing is written: mmpretrain downloads the files when the data set is
    first used.

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
        raise MobileOneExtError(f'DATASET={name!r} is not one of {sorted(PREPARE)}')
    return PREPARE[name](Path(data_dir) / name)


def run_demo(
    dataset: str, data_dir: Path = Path('data'), work_dir: Optional[Path] = None
) -> list[FormResult]:
    """Train, fold, export and score on ``dataset``; print one table.

    Logs, checkpoints, the Core ML package, predictions of every form and ``forms.json`` stay in
    ``work_dir``. A run that was interrupted goes on; a finished one is replaced.

    Args:
        dataset: 'digits' or 'fashion-mnist'.
        data_dir: where data sets are put.
        work_dir: ``work_dirs/demo-<dataset>`` when None.

    Raises:
        MobileOneExtError: unknown data set, ``work_dir`` is in use, or a step failed.
    """
    cfg = _config(dataset, prepare(dataset, data_dir).resolve())
    work_dir = work_dir or Path('work_dirs') / f'demo-{dataset}'
    console = PlainConsole()
    start = time.monotonic()
    asked = dict(config=text_hash(cfg.pretty_text))
    with sole_use(work_dir, console):
        found = RunRecord.read(work_dir)
        record = found if found and found.goes_on(asked) else RunRecord.begin(work_dir, asked)
        config = write_whole(work_dir / Path(CONFIGS[dataset]).name, cfg.dump)
        results = TrainToPhone(config, work_dir, record, console).run()
    console.print(forms_table(results, f'{dataset}: every form, whole test split'))
    console.print(f'{time.monotonic() - start:.0f} s; everything is in {work_dir}')
    return results


def _config(dataset: str, root: Path) -> Config:
    """The recipe with its data in ``root``.

    As an option of the tools the path would lose its blanks and be split at its commas.
    """
    cfg = Config.fromfile(MIM / 'configs' / CONFIGS[dataset])
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return cfg
