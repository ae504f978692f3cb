"""Train what a grid asks for and is not there yet."""
from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from mmpretrain import get_model
from rich.console import Console

from ..atomic_file import write_whole
from ..errors import MobileOneExtError, SpecError
from ..models import switch_to_deploy
from ..outside_text import shown
from ..tool_process import run_tool
from ..work_dir import last_checkpoint, resume_option, sole_use
from .grid import Grid, Trial
from .results import TrialResult
from .scalars import last_score, median_step, scored_steps

RESULT = 'trial.json'


def run_grid(config: Config, grid: Grid, out: Path, *, metric: str,
             console: Console,
             each: Callable[[list[TrialResult]], object] = len,
             ) -> list[TrialResult]:
    """Train every trial of ``grid`` through ``tools/train.py``.

    A trial whose result is there is skipped, one that was interrupted goes
    on from its last checkpoint. A finished one leaves ``trial.json``.

    Args:
        config: what all variants share.
        grid: what differs.
        out: folder; a trial's work dir is ``out/<variant>/seed<n>``.
        metric: validation metric that is compared.
        console: shows progress.
        each: called with all results so far, after each trial.

    Returns:
        The results, in the order of the grid.

    Raises:
        MobileOneExtError: a run failed, or ``out`` holds another config or
            is in use.
    """
    jobs = [_Job(trial, _config_of(config, trial), out / trial.folder, metric)
            for trial in grid.trials()]
    # Seeds do not change a size: the first job of a variant says it.
    firsts = {job.trial.variant: job for job in reversed(jobs)}
    sizes = {variant: _sizes(job) for variant, job in firsts.items()}
    with sole_use(out, console):
        for job in jobs:
            job.check_folder()
        results: list[TrialResult] = []
        for index, job in enumerate(jobs, 1):
            title = f'{index}/{len(jobs)} {shown(job.trial.variant)}, ' \
                    f'seed {job.trial.seed}'
            results.append(
                _result(job, sizes[job.trial.variant], title, console))
            each(results)
    return results


@dataclass(frozen=True)
class _Job:
    """A trial with all that it needs."""
    trial: Trial
    config: Config
    folder: Path
    metric: str

    @property
    def config_file(self) -> Path:
        # Beside the work dir: the Runner writes a config of its own into it.
        return self.folder.with_suffix('.py')

    def check_folder(self) -> None:
        """Refuse to mix runs of different configs under one name."""
        known = self.config_file
        if known.is_file() and \
                Config.fromfile(known).pretty_text != self.config.pretty_text:
            raise MobileOneExtError(
                f'{self.folder} holds a run of another config; remove it or '
                'choose another --out')


    def start(self) -> Optional[Path]:
        """Where an interrupted training goes on; None for its beginning.

        mmengine saves an epoch before it validates it, and does not make up
        for that later: a last epoch without a score is trained again.
        """
        found = last_checkpoint(self.folder)
        end = self.config.train_cfg.get('max_epochs')
        if not found or found.name != f'epoch_{end}.pth' or \
                end in scored_steps(self.folder, self.metric):
            return found
        before = found.with_name(f'epoch_{end - 1}.pth')
        return before if before.is_file() else None


def _config_of(config: Config, trial: Trial) -> Config:
    cfg = copy.deepcopy(config)
    cfg.pop('ablation', None)
    try:
        cfg.merge_from_dict(trial.options)
    except (KeyError, TypeError, AssertionError) as error:
        raise SpecError(f'variant {trial.variant!r} does not fit the config: '
                        f'{error}') from error
    return cfg


def _sizes(job: _Job) -> tuple[int, int]:
    """Parameters before and after the fold; refuses what cannot be built."""
    try:
        model = get_model(job.config)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise SpecError(f'variant {job.trial.variant!r} cannot be built: '
                        f'{error}') from error
    before = sum(p.numel() for p in model.parameters())
    switch_to_deploy(model)
    return before, sum(p.numel() for p in model.parameters())


def _result(job: _Job, sizes: tuple[int, int], title: str,
            console: Console) -> TrialResult:
    done = job.folder / RESULT
    if done.is_file():
        result = TrialResult.read(done)
        console.print(f'{title}: there already, {result.score:.2f}')
        return result
    job.folder.mkdir(parents=True, exist_ok=True)
    config = write_whole(job.config_file, job.config.dump)
    seconds = run_tool(
        'train.py', [str(config), '--work-dir', str(job.folder),
                     *resume_option(job.start())],
        job.folder / 'train.log', title, console)
    result = TrialResult(
        job.trial.variant, job.trial.seed, job.metric,
        score=last_score(job.folder, job.metric),
        step_s=median_step(job.folder),
        train_params=sizes[0],
        deploy_params=sizes[1])
    write_whole(done, lambda made: made.write_text(
        result.to_json(), 'utf-8'))
    console.print(f'{title}: {result.score:.2f} ({seconds:.0f} s)')
    return result
