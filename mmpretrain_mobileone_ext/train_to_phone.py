"""Train, fold, export and score every form, through the tools themselves."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import mmengine
import torch
from rich.console import Console

from .atomic_file import write_whole
from .engine.checkpoint import load_checkpoint_file
from .engine.deploy_file import deploy_path
from .report import FormResult, tree_bytes, write_forms_json
from .tool_process import run_tool
from .work_dir import RunRecord, last_checkpoint, resume_option


@dataclass
class TrainToPhone:
    """The steps from a config to a scored Core ML package.

    Attributes:
        config: a config whose run ends with ``*_deploy.pth``
            (``DeploySwitchHook``).
        work_dir: takes logs, checkpoints, predictions, ``model.mlpackage``
            and ``forms.json``; exists, and is this process's alone.
        record: of the run in ``work_dir``; its steps are not done again.
        console: shows progress.
    """
    config: Path
    work_dir: Path
    record: RunRecord
    console: Console

    @property
    def package(self) -> Path:
        """Where the Core ML package is put."""
        return self.work_dir / 'model.mlpackage'

    def run(self) -> list[FormResult]:
        """Do all steps; returns one result a form.

        Raises:
            MobileOneExtError: a step failed; with the end of its log.
        """
        last = self._train()
        branches = self._score('branches', last)
        folded = self._score('folded', deploy_path(last),
                             'model.backbone.deploy=True')
        self._call('export', 'export_coreml.py', str(self.config), str(last),
                   '--out', str(self.package), '--verify-data', 'test',
                   '--force', makes=self.package)
        coreml = self._score('coreml', self.package)
        forms = [
            ('branches (torch, fp32)', branches, _weight_bytes(last), last),
            ('folded (torch, fp32)', folded,
             _weight_bytes(deploy_path(last)), deploy_path(last)),
            ('Core ML (.mlpackage, fp16)', coreml, tree_bytes(self.package),
             self.package),
        ]
        results = [_result(name, p, branches, size, file)
                   for name, p, size, file in forms]
        write_forms_json(results, self.work_dir / 'forms.json')
        self.record = self.record.as_finished()
        return results

    def _train(self) -> Path:
        """The checkpoint of the last epoch.

        mmengine's Runner writes its config over one that lies in the work
        dir. That of a training that was resumed would make every later step
        resume as well.
        """
        note = self.work_dir / 'last_checkpoint'
        asked = self.config.read_bytes()
        self._call('train', 'train.py', str(self.config), '--work-dir',
                   str(self.work_dir), *resume_option(
                       last_checkpoint(self.work_dir)),
                   makes=note)
        if self.config.read_bytes() != asked:
            write_whole(self.config, lambda made: made.write_bytes(asked))
        return Path(note.read_text('utf-8').strip())

    def _score(self, name: str, checkpoint: Path,
               *options: str) -> list[dict]:
        """Predictions of ``tools/test.py`` on the whole test split."""
        out = self.work_dir / f'predictions-{name}.pkl'
        self._call(f'test {name}', 'test.py', str(self.config),
                   str(checkpoint), '--work-dir', str(self.work_dir / 'test'),
                   '--out', str(out), makes=out, options=options)
        return mmengine.load(out)

    def _call(self, title: str, tool: str, *args: str, makes: Path,
              options: Sequence[str] = ()) -> None:
        if title in self.record.done and makes.exists():
            self.console.print(f'{title}: done before')
            return
        log = self.work_dir / f'{title.replace(" ", "-")}.log'
        cfg_options = ['--cfg-options', *options] if options else []
        seconds = run_tool(tool, [*args, *cfg_options], log, title,
                           self.console)
        self.record = self.record.with_step(title)
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
