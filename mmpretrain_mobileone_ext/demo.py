"""The whole path on real data, through the tools that a user would call."""
from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import mmengine
import torch
from rich.console import Console

from .demo_data import prepare
from .engine.checkpoint import load_checkpoint_file
from .engine.deploy_file import deploy_path
from .report import FormResult, forms_table, write_forms_json
from .tool_process import MIM, run_tool

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
    data_root = prepare(dataset, data_dir)
    steps = _Steps(
        config=MIM / 'configs' / CONFIGS[dataset],
        data_root=data_root,
        work_dir=work_dir or Path('work_dirs') / f'demo-{dataset}',
        console=Console())
    steps.work_dir.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    results = _run(steps)
    write_forms_json(results, steps.work_dir / 'forms.json')
    steps.console.print(
        forms_table(results, f'{dataset}: every form, whole test split'))
    steps.console.print(f'{time.monotonic() - start:.0f} s; everything is in '
                        f'{steps.work_dir}')
    return results


def _run(steps: _Steps) -> list[FormResult]:
    steps.train()
    last = Path((steps.work_dir / 'last_checkpoint').read_text().strip())
    branches = steps.score('branches', last)
    folded = steps.score('folded', deploy_path(last),
                         'model.backbone.deploy=True')
    package = steps.work_dir / 'model.mlpackage'
    steps.call('export', 'export_coreml.py', str(steps.config), str(last),
               '--out', str(package), '--verify-data', 'test', '--force',
               *steps.data_options())
    coreml = steps.score('coreml', package)
    forms = [
        ('branches (torch, fp32)', branches, _weight_bytes(last), last),
        ('folded (torch, fp32)', folded, _weight_bytes(deploy_path(last)),
         deploy_path(last)),
        ('Core ML (.mlpackage, fp16)', coreml, _tree_bytes(package), package),
    ]
    return [_result(name, p, branches, size, file)
            for name, p, size, file in forms]


@dataclass
class _Steps:
    """Calls the tools one after another and shows how far they are."""
    config: Path
    data_root: Path
    work_dir: Path
    console: Console

    def data_options(self) -> list[str]:
        splits = ('train', 'val', 'test')
        root = self.data_root.resolve()
        return [
            '--cfg-options',
            *(f'{s}_dataloader.dataset.data_root={root}' for s in splits)
        ]

    def train(self) -> None:
        self.call('train', 'train.py', str(self.config), '--work-dir',
                  str(self.work_dir), *self.data_options())

    def score(self, name: str, checkpoint: Path, *options: str) -> list[dict]:
        """Predictions of ``tools/test.py`` on the whole test split."""
        out = self.work_dir / f'predictions-{name}.pkl'
        self.call(f'test {name}', 'test.py', str(self.config),
                  str(checkpoint), '--work-dir', str(self.work_dir / 'test'),
                  '--out', str(out), *self.data_options(), *options)
        return mmengine.load(out)

    def call(self, title: str, tool: str, *args: str) -> None:
        """Run a tool; raises ``MobileOneExtError`` with its log's end."""
        log = self.work_dir / f'{title.replace(" ", "-")}.log'
        seconds = run_tool(tool, args, log, title, self.console)
        self.console.print(f'{title}: {seconds:.0f} s')


def _result(form: str, predictions: list[dict], reference: list[dict],
            size: int, file: Path) -> FormResult:
    labels = _labels(predictions)
    truth = torch.stack([p['gt_label'].reshape(()) for p in predictions])
    return FormResult(
        form=form,
        top1=100 * float((labels == truth).double().mean()),
        size_bytes=size,
        agreement=100 * float((labels == _labels(reference)).double().mean()),
        num_images=len(predictions),
        source=file.name)


def _labels(predictions: list[dict]) -> torch.Tensor:
    return torch.stack([p['pred_label'].reshape(()) for p in predictions])


def _weight_bytes(checkpoint: Path) -> int:
    """Bytes of the weights alone: a training file also holds an optimizer."""
    state = load_checkpoint_file(checkpoint)['state_dict']
    return sum(v.numel() * v.element_size() for v in state.values())


def _tree_bytes(path: Path) -> int:
    return sum(f.stat().st_size for f in path.rglob('*') if f.is_file())
