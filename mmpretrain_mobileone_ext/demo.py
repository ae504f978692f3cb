"""The whole path on real data, through the tools that a user would call."""
from __future__ import annotations

import time
from pathlib import Path
from typing import Optional

from rich.console import Console

from .config_scope import MIM
from .demo_data import prepare
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
    console = Console()
    start = time.monotonic()
    results = TrainToPhone(
        config=MIM / 'configs' / CONFIGS[dataset],
        work_dir=work_dir,
        options=[f'{split}_dataloader.dataset.data_root={root}'
                 for split in ('train', 'val', 'test')],
        console=console).run()
    console.print(
        forms_table(results, f'{dataset}: every form, whole test split'))
    console.print(f'{time.monotonic() - start:.0f} s; everything is in '
                  f'{work_dir}')
    return results
