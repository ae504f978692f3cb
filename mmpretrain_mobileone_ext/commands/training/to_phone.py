"""Train, fold, export and score every form, in a folder that one run owns.

A killed run is gone on with by the same command, so its folder has to say what it was asked for
(``RunRecord``), where its training can go on (``last_checkpoint``), and that nobody else is at it
(``sole_use``).
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import os
import platform
import re
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Optional

import mmengine
import torch
from filelock import FileLock, Timeout
from mmengine.config import Config
from rich.console import Console

from ...checkpoints.deploy_file import deploy_path
from ...checkpoints.load import load_checkpoint_file
from ...coreml.formats import format_of
from ...errors import MobileOneExtError
from ...hooks.training.divergence import DIVERGED
from ...report import FormResult, tree_bytes, write_forms_json
from ...utils.config import MIM
from ...utils.files import write_json, write_whole
from ...utils.processes import ChildProcess
from .progress import TrainingProgress

_LOCK, _HOLDER = '.lock', '.lock-holder'
_RECORD = 'run.json'
#: mmengine's note of the checkpoint that was saved last.
_LAST = 'last_checkpoint'
_NUMBERED = re.compile(r'(?:epoch|iter)_(\d+)\.pth')
#: Spinning OpenMP threads starve the data loader where cores are few.
_ENV = {'OMP_WAIT_POLICY': 'PASSIVE', 'PYTHONUNBUFFERED': '1'}
#: As the log is read, whatever this process's terminal can show.
_PRINTED = {'PYTHONIOENCODING': 'utf-8:backslashreplace'}


@contextlib.contextmanager
def sole_use(folder: Path, console: Console) -> Iterator[None]:
    """Hold a run's folder, which is made if missing, for a block.

    The system takes the lock back when the process ends, however it ends.

    Args:
        folder: what is held.
        console: told if the disk has no locks, so that a second run cannot be kept out.

    Raises:
        MobileOneExtError: another process holds it, or it cannot be written.
    """
    lock = FileLock(str(folder / _LOCK))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
        (folder / _HOLDER).write_text(
            f'process {os.getpid()} on {platform.node()}, since '
            f'{time.strftime("%Y-%m-%d %H:%M:%S")}',
            'utf-8',
        )
    except Timeout:
        raise MobileOneExtError(
            f'{folder} is in use by {_holder(folder)}; wait for its end or choose another folder'
        ) from None
    except NotImplementedError:
        console.print(f'{folder}: its disk has no locks; start no second run there')
    except OSError as error:
        raise MobileOneExtError(f'{folder} cannot be written: {error}') from error
    try:
        yield
    finally:
        lock.release()


def _holder(folder: Path) -> str:
    try:
        return (folder / _HOLDER).read_text('utf-8', errors='replace') or 'another run'
    except OSError:
        return 'another run'


@dataclass(frozen=True)
class RunRecord:
    """What a run in a folder was asked for, and which steps are done.

    Attributes:
        folder: of the run; the record is its ``run.json``.
        asked: name to value of all that makes the run what it is.
        done: steps that are finished.
        finished: whether all are.
    """

    folder: Path
    asked: Mapping[str, str]
    done: tuple[str, ...] = field(default=())
    finished: bool = False

    @classmethod
    def begin(cls, folder: Path, asked: Mapping[str, str]) -> RunRecord:
        """Record a new run; what an earlier one left is gone on with no more.

        Raises:
            MobileOneExtError: the disk refuses.
        """
        # In this order: a kill in between leaves nothing to mix up.
        for name in (_RECORD, _LAST):
            (folder / name).unlink(missing_ok=True)
        return cls(folder, dict(asked))._written()

    @classmethod
    def read(cls, folder: Path) -> Optional[RunRecord]:
        """The record in a folder; None where there is none of this kind."""
        try:
            content = json.loads((folder / _RECORD).read_text('utf-8'))
            return cls(folder, content['asked'], tuple(content['done']), content['finished'])
        except (OSError, ValueError, TypeError, KeyError):
            return None

    def goes_on(self, asked: Mapping[str, str]) -> bool:
        """Whether this is an unfinished run of what is asked for."""
        return not self.finished and self.asked == asked

    def differs_by(self, asked: Mapping[str, str]) -> list[str]:
        """Names of what is asked for otherwise."""
        names = {**self.asked, **asked}
        return [name for name in names if self.asked.get(name) != asked.get(name)]

    def asked_anew(self, asked: Mapping[str, str], steps: Sequence[str]) -> RunRecord:
        """Note what is asked for instead, which has ``steps`` done again."""
        done = tuple(step for step in self.done if step not in steps)
        return dataclasses.replace(self, asked=dict(asked), done=done)._written()

    def with_step(self, step: str) -> RunRecord:
        """Note that a step is done."""
        return dataclasses.replace(self, done=(*self.done, step))._written()

    def as_finished(self) -> RunRecord:
        """Note that all steps are done."""
        return dataclasses.replace(self, finished=True)._written()

    def _written(self) -> RunRecord:
        content = dict(asked=dict(self.asked), done=self.done, finished=self.finished)
        write_json(self.folder / _RECORD, content)
        return self


def text_hash(text: str) -> str:
    """SHA-256 of a text, to tell whether it is another one."""
    return hashlib.sha256(text.encode('utf-8', 'surrogatepass')).hexdigest()


def last_checkpoint(folder: Path) -> Optional[Path]:
    """The checkpoint that a training in ``folder`` can go on from, or None.

    A run that was killed while it wrote mmengine's note left that empty: the newest checkpoint is
    taken then. Without the note there is none, because what lies there may be of another run.
    """
    try:
        # Its folder's name may be in another encoding, its own is ASCII.
        noted = Path((folder / _LAST).read_text('utf-8', errors='replace').strip()).name
    except (OSError, ValueError):
        return None
    found = folder / noted if noted else _newest_checkpoint(folder)
    # The directory of a zip file is its end: half a file has none.
    return found if found and zipfile.is_zipfile(found) else None


def _newest_checkpoint(folder: Path) -> Optional[Path]:
    """By epoch or iteration: a clock may have been set back."""
    numbers = {
        path: int(match[1])
        for path in folder.iterdir()
        if (match := _NUMBERED.fullmatch(path.name))
    }
    return max(numbers, key=lambda path: numbers[path], default=None)


def resume_option(checkpoint: Optional[Path]) -> list[str]:
    """What makes ``tools/train.py`` go on from a checkpoint.

    Nothing where there is none: ``--resume`` would make it forget the weights that the config
    starts from.
    """
    return ['--resume', str(checkpoint.resolve())] if checkpoint else []


def run_tool(
    tool: str,
    args: Sequence[str],
    log: Path,
    title: str,
    console: Console,
    epochs: Optional[int] = None,
) -> float:
    """Run ``python tools/<tool>``; its output goes into ``log``.

    It ends with this process, see ``child_process``.

    Args:
        tool: file name, such as ``train.py``.
        args: command-line arguments.
        log: file that is replaced.
        title: what the progress and an error call this step.
        console: shows how far it is, see :mod:`.progress`.
        epochs: that it trains; None where it trains none, or counts iterations.

    Returns:
        Seconds that it took.

    Raises:
        MobileOneExtError: it failed; with its own error line or the end of its log.
    """
    start = time.monotonic()
    command = [sys.executable, str(MIM / 'tools' / tool), *args]
    with TrainingProgress(title, console, epochs) as progress:
        code = _stream(command, log, progress)
    if code:
        raise MobileOneExtError(
            f'{title} failed with exit code {code}: {_reason(log)} (all of it is in {log})'
        )
    return time.monotonic() - start


def _reason(log: Path) -> str:
    """The tool's own words, or what it said last."""
    lines = log.read_text('utf-8', errors='replace').splitlines()
    errors = [line for line in lines if line.startswith('error: ')]
    return errors[-1][len('error: ') :] if errors else ' '.join(lines[-3:]) or 'it said nothing'


def _stream(command: Sequence[str], log: Path, progress: TrainingProgress) -> int:
    """Run a command, its output into ``log`` and what it says of its progress to people."""
    with (
        open(log, 'w', buffering=1, encoding='utf-8') as file,
        ChildProcess(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding='utf-8',
            errors='replace',
            env={**_ENV, **os.environ, **_PRINTED},
        ) as process,
    ):
        for line in process.stdout or ():
            file.write(line)
            progress.read(line)
        return process.wait()


@dataclass
class TrainToPhone:
    """The steps from a config to a scored file for the phone.

    Attributes:
        config: a config whose run ends with ``*_deploy.pth`` (``DeploySwitchHook``).
        work_dir: takes logs, checkpoints, predictions, the file and ``forms.json``; exists, and is
            this process's alone.
        record: of the run in ``work_dir``; its steps are not done again.
        console: shows progress.
        folds: whether the network has branches to fold; the run of one that has none ends without
            ``*_deploy.pth``.
        format: of the file, 'mlpackage' or 'aimodel'.
        export: further words of ``tools/export_coreml.py``.
        report: images to score for ``report/report.html``, 'test' for all; None: no report.
    """

    config: Path
    work_dir: Path
    record: RunRecord
    console: Console
    folds: bool = True
    format: str = 'mlpackage'
    export: Sequence[str] = ()
    report: Optional[str] = None

    @property
    def checkpoint(self) -> Path:
        """The last epoch's, of a training that is done."""
        noted = Path((self.work_dir / _LAST).read_text('utf-8').strip())
        # As the work dir is spelled, which may be relative: commands are printed with it.
        here = self.work_dir / noted.name
        return here if here.exists() else noted

    @property
    def page(self) -> Path:
        """Where the report is put."""
        return self.work_dir / 'report' / 'report.html'

    @property
    def package(self) -> Path:
        """Where the file for the phone is put."""
        return self.work_dir / f'model.{self.format}'

    def run(self) -> list[FormResult]:
        """Do all steps; returns one result a form.

        Raises:
            MobileOneExtError: a step failed; with the end of its log.
        """
        last = self._train()
        first = 'branches' if self.folds else 'network'
        reference = self._score(first, last)
        forms = [(f'{first} (torch, fp32)', reference, _weight_bytes(last), last)]
        if self.folds:
            file = deploy_path(last)
            folded = self._score('folded', file, 'model.backbone.deploy=True')
            forms.append(('folded (torch, fp32)', folded, _weight_bytes(file), file))
        out = self.package
        words = (self.config, last, '--out', out, '--verify-data', 'test', '--force', *self.export)
        self._call('export', 'export_coreml.py', *words, makes=out)
        coreml = self._score('coreml', out)
        title = f'{format_of(out).title} ({out.suffix}, fp16)'
        forms.append((title, coreml, tree_bytes(out), out))
        results = [_result(name, p, reference, size, file) for name, p, size, file in forms]
        write_forms_json(results, self.work_dir / 'forms.json')
        if self.report is not None:
            words = (self.work_dir, '--config', self.config, '--images', self.report)
            self._call('report', 'report.py', *words, makes=self.page)
        self.record = self.record.as_finished()
        return results

    def predictions(self) -> list[dict]:
        """What the file for the phone says of the test images, in a run that is done."""
        return mmengine.load(self.work_dir / 'predictions-coreml.pkl')

    def _train(self) -> Path:
        """The checkpoint of the last epoch.

        mmengine's Runner writes its config over one that lies in the work dir. That of a training
        that was resumed would make every later step resume as well.
        """
        note = self.work_dir / _LAST
        asked = self.config.read_bytes()
        going_on = resume_option(last_checkpoint(self.work_dir))
        words = (self.config, '--work-dir', self.work_dir, *going_on)
        epochs = Config.fromfile(self.config).get('train_cfg', {}).get('max_epochs')
        try:
            self._call('train', 'train.py', *words, makes=note, epochs=epochs)
        except MobileOneExtError as error:
            # What such a run saved is nothing to go on with.
            if DIVERGED in str(error):
                note.unlink(missing_ok=True)
            raise
        if self.config.read_bytes() != asked:
            write_whole(self.config, lambda made: made.write_bytes(asked))
        return self.checkpoint

    def _score(self, name: str, checkpoint: Path, *options: str) -> list[dict]:
        """Predictions of ``tools/test.py`` on the whole test split."""
        out = self.work_dir / f'predictions-{name}.pkl'
        words = (self.config, checkpoint, '--work-dir', self.work_dir / 'test', '--out', out)
        self._call(f'test {name}', 'test.py', *words, makes=out, options=options)
        return mmengine.load(out)

    def _call(
        self,
        title: str,
        tool: str,
        *args: object,
        makes: Path,
        options: Sequence[str] = (),
        epochs: Optional[int] = None,
    ) -> None:
        if title in self.record.done and makes.exists():
            self.console.print(f'{title}: done before')
            return
        log = self.work_dir / f'{title.replace(" ", "-")}.log'
        cfg_options = ['--cfg-options', *options] if options else []
        words = [*map(str, args), *cfg_options]
        seconds = run_tool(tool, words, log, title, self.console, epochs)
        self.record = self.record.with_step(title)
        self.console.print(f'{title}: {seconds:.0f} s')


def _result(
    form: str, predictions: list[dict], reference: list[dict], size: int, file: Path
) -> FormResult:
    labels = _labels(predictions)
    truth = torch.stack([p['gt_label'].reshape(()) for p in predictions])
    return FormResult(
        form=form,
        top1=100 * float((labels == truth).double().mean()),
        size_bytes=size,
        agreement=100 * float((labels == _labels(reference)).double().mean()),
        num_images=len(predictions),
        source=file.name,
    )


def _labels(predictions: list[dict]) -> torch.Tensor:
    return torch.stack([p['pred_label'].reshape(()) for p in predictions])


def _weight_bytes(checkpoint: Path) -> int:
    """Bytes of the weights alone: a training file also holds an optimizer."""
    state = load_checkpoint_file(checkpoint)['state_dict']
    return sum(v.numel() * v.element_size() for v in state.values())
