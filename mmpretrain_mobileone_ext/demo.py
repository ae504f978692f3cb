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
from .work_dir import RunRecord, sole_use, text_hash

CONFIGS = {
    'digits': 'digits/mobileone-tiny_bs64_digits.py',
    'fashion-mnist': 'fashion_mnist/mobileone-tiny_bs64_fashion-mnist.py',
}


def run_demo(dataset: str,
             data_dir: Path = Path('data'),
             work_dir: Optional[Path] = None) -> list[FormResult]:
    """Train, fold, export and score on ``dataset``; print one table.

    Logs, checkpoints, the Core ML package, predictions of every form and
    ``forms.json`` stay in ``work_dir``. A run that was interrupted goes on;
    a finished one is replaced.

    Args:
        dataset: 'digits' or 'fashion-mnist'.
        data_dir: where data sets are put.
        work_dir: ``work_dirs/demo-<dataset>`` when None.

    Raises:
        MobileOneExtError: unknown data set, ``work_dir`` is in use, or a
            step failed.
    """
    cfg = _config(dataset, prepare(dataset, data_dir).resolve())
    work_dir = work_dir or Path('work_dirs') / f'demo-{dataset}'
    console = PlainConsole()
    start = time.monotonic()
    asked = dict(config=text_hash(cfg.pretty_text))
    with sole_use(work_dir, console):
        found = RunRecord.read(work_dir)
        record = found if found and found.goes_on(asked) else \
            RunRecord.begin(work_dir, asked)
        config = write_whole(work_dir / Path(CONFIGS[dataset]).name, cfg.dump)
        results = TrainToPhone(config, work_dir, record, console).run()
    console.print(
        forms_table(results, f'{dataset}: every form, whole test split'))
    console.print(f'{time.monotonic() - start:.0f} s; everything is in '
                  f'{work_dir}')
    return results


def _config(dataset: str, root: Path) -> Config:
    """The recipe with its data in ``root``.

    As an option of the tools the path would lose its blanks and be split at
    its commas.
    """
    cfg = Config.fromfile(MIM / 'configs' / CONFIGS[dataset])
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    return cfg
