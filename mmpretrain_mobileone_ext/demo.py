"""The whole path on real data, through the tools that a user would call."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Optional

from mmengine.config import Config

from .atomic_file import write_whole
from .config_scope import MIM
from .demo_data import prepare
from .outside_text import PlainConsole
from .report import FormResult, forms_table
from .train_to_phone import TrainToPhone

CONFIGS = {
    'digits': 'digits/mobileone-tiny_bs64_digits.py',
    'fashion-mnist': 'fashion_mnist/mobileone-tiny_bs64_fashion-mnist.py',
}


def run_demo(dataset: str,
             data_dir: Path = Path('data'),
             work_dir: Optional[Path] = None) -> list[FormResult]:
    """Train, fold, export and score on ``dataset``; print one table.

    Logs, checkpoints, the Core ML package, predictions of every form and
    ``forms.json`` stay in ``work_dir``.

    Args:
        dataset: 'digits' or 'fashion-mnist'.
        data_dir: where data sets are put.
        work_dir: ``work_dirs/demo-<dataset>`` when None.

    Raises:
        MobileOneExtError: unknown data set, or a step that failed.
    """
    root = prepare(dataset, data_dir).resolve()
    work_dir = work_dir or Path('work_dirs') / f'demo-{dataset}'
    work_dir.mkdir(parents=True, exist_ok=True)
    console = PlainConsole()
    start = time.monotonic()
    results = TrainToPhone(
        config=_config(CONFIGS[dataset], root, work_dir),
        work_dir=work_dir,
        options=(),
        console=console).run()
    console.print(
        forms_table(results, f'{dataset}: every form, whole test split'))
    console.print(f'{time.monotonic() - start:.0f} s; everything is in '
                  f'{work_dir}')
    return results


def _config(recipe: str, root: Path, work_dir: Path) -> Path:
    """The recipe with its data in ``root``, as a file of the work dir.

    As an option of the tools the path would lose its blanks and be split at
    its commas.
    """
    cfg = Config.fromfile(MIM / 'configs' / recipe)
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return write_whole(work_dir / Path(recipe).name, cfg.dump)
