"""``tools/ablate.py``: train every trial of a grid, read its scores from the logs, compare.

Each start of a run has a folder of its own, named by date and time. A clock may be set back between
two starts, so what counts is the epoch (the iteration, where a run counts those) that a record
states.
"""

from __future__ import annotations

import copy
import json
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Optional

from mmengine.config import Config
from mmpretrain import get_model
from rich.console import Console

from ....errors import MobileOneExtError, SpecError
from ....models import switch_to_deploy
from ....utils.config import read_config
from ....utils.files import write_text, write_whole
from ....utils.text import PlainConsole, shown
from ...console.training import ablate_parser
from ..to_phone import last_checkpoint, resume_option, run_tool, sole_use
from .grid import Grid, Trial, grid_from
from .keys import check_different, check_keys
from .table import TABLE, TrialResult, summarize, summary_table, write_results

RESULT = 'trial.json'


def run_grid(
    config: Config,
    grid: Grid,
    out: Path,
    *,
    metric: str,
    console: Console,
    each: Callable[[list[TrialResult]], object] = len,
) -> list[TrialResult]:
    """Train every trial of ``grid`` through ``tools/train.py``.

    A trial whose result is there is skipped, one that was interrupted goes on from its last
    checkpoint. A finished one leaves ``trial.json``.

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
        MobileOneExtError: a run failed, or ``out`` holds another config or is in use.
    """
    jobs = [
        _Job(trial, _config_of(config, trial), out / trial.folder, metric)
        for trial in grid.trials()
    ]
    # Seeds do not change a size: the first job of a variant says it.
    firsts = {job.trial.variant: job for job in reversed(jobs)}
    check_different({variant: job.config for variant, job in reversed(firsts.items())})
    sizes = {variant: _sizes(job) for variant, job in firsts.items()}
    with sole_use(out, console):
        for job in jobs:
            job.check_folder()
        results: list[TrialResult] = []
        for index, job in enumerate(jobs, 1):
            title = f'{index}/{len(jobs)} {shown(job.trial.variant)}, seed {job.trial.seed}'
            results.append(_result(job, sizes[job.trial.variant], title, console))
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
        if known.is_file() and Config.fromfile(known).pretty_text != self.config.pretty_text:
            raise MobileOneExtError(
                f'{self.folder} holds a run of another config; remove it or choose another --out'
            )

    def start(self) -> Optional[Path]:
        """Where an interrupted training goes on; None for its beginning.

        mmengine saves an epoch before it validates it, and does not make up for that later: a last
        epoch without a score is trained again.
        """
        found = last_checkpoint(self.folder)
        end = self.config.train_cfg.get('max_epochs')
        if (
            not found
            or found.name != f'epoch_{end}.pth'
            or end in scored_steps(self.folder, self.metric)
        ):
            return found
        before = found.with_name(f'epoch_{end - 1}.pth')
        return before if before.is_file() else None


def _config_of(config: Config, trial: Trial) -> Config:
    cfg = copy.deepcopy(config)
    cfg.pop('ablation', None)
    check_keys(cfg, trial)
    try:
        cfg.merge_from_dict(trial.options)
    except (KeyError, TypeError, AssertionError) as error:
        raise SpecError(f'variant {trial.variant!r} does not fit the config: {error}') from error
    return cfg


def _sizes(job: _Job) -> tuple[int, int]:
    """Parameters before and after the fold; refuses what cannot be built."""
    try:
        model = get_model(job.config)
    except (KeyError, TypeError, ValueError, AssertionError) as error:
        raise SpecError(f'variant {job.trial.variant!r} cannot be built: {error}') from error
    before = sum(p.numel() for p in model.parameters())
    switch_to_deploy(model)
    return before, sum(p.numel() for p in model.parameters())


def _result(job: _Job, sizes: tuple[int, int], title: str, console: Console) -> TrialResult:
    done = job.folder / RESULT
    if done.is_file():
        result = TrialResult.read(done)
        console.print(f'{title}: there already, {result.score:.2f}')
        return result
    job.folder.mkdir(parents=True, exist_ok=True)
    config = write_whole(job.config_file, job.config.dump)
    seconds = run_tool(
        'train.py',
        [str(config), '--work-dir', str(job.folder), *resume_option(job.start())],
        job.folder / 'train.log',
        title,
        console,
    )
    result = TrialResult(
        job.trial.variant,
        job.trial.seed,
        job.metric,
        score=last_score(job.folder, job.metric),
        step_s=median_step(job.folder),
        train_params=sizes[0],
        deploy_params=sizes[1],
    )
    write_text(done, result.to_json())
    console.print(f'{title}: {result.score:.2f} ({seconds:.0f} s)')
    return result


class _Validation(NamedTuple):
    """The last one of a start: how far it had trained, and the score."""

    step: float
    score: float
    file: Path


def last_score(work_dir: Path, metric: str) -> float:
    """A validation metric at the end of the training.

    Raises:
        MobileOneExtError: the runs logged none (names what they logged), the training went on after
            it, or two runs that ended there differ.
    """
    starts = [(path, list(_records(path))) for path in _files(work_dir)]
    records = [record for _, start in starts for record in start]
    found = [
        v for path, start in starts if (v := _last_validation(start, metric, path)) is not None
    ]
    if not found:
        scored = sorted({name for r in records for name in r if '/' in name})
        raise MobileOneExtError(
            f'{work_dir}: no validation logged {metric!r}; there are {scored or "no metrics"}'
        )
    trained = max(
        (r.get('epoch', 0) for r in records if 'loss' in r and metric not in r), default=0
    )
    return _agreed(found, trained, work_dir)


def _last_validation(start: list[dict[str, Any]], metric: str, path: Path) -> Optional[_Validation]:
    found = [_Validation(r.get('step', 0), float(r[metric]), path) for r in start if metric in r]
    # Of equal steps the later line.
    return max(reversed(found), key=lambda v: v.step, default=None)


def _agreed(found: list[_Validation], trained: float, work_dir: Path) -> float:
    end = max(v.step for v in found)
    if end < trained:
        raise MobileOneExtError(
            f'{work_dir}: the last validation is of epoch {end:g}, but '
            f'epoch {trained:g} was trained; remove the folder to train again'
        )
    last = {str(v.score): v for v in found if v.step == end}
    if len(last) > 1:
        listed = ', '.join(f'{score} in {v.file}' for score, v in last.items())
        raise MobileOneExtError(
            f'{work_dir} holds several runs that ended at {end:g} with '
            f'different scores: {listed}; remove those that do not count'
        )
    return found[[v.step for v in found].index(end)].score


def scored_steps(work_dir: Path, metric: str) -> set[int]:
    """The epochs (or iterations) that were validated."""
    return {int(r['step']) for r in _all_records(work_dir) if metric in r and 'step' in r}


def median_step(work_dir: Path) -> float:
    """Median of the logged seconds a training step; NaN without any."""
    times = [float(r['time']) for r in _all_records(work_dir) if 'time' in r and 'loss' in r]
    return statistics.median(times) if times else float('nan')


def _files(work_dir: Path) -> list[Path]:
    return sorted(work_dir.glob('*/vis_data/scalars.json'))


def _all_records(work_dir: Path) -> Iterator[dict[str, Any]]:
    return (record for path in _files(work_dir) for record in _records(path))


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """All records of one start, in the order in which they were written."""
    for line in path.read_text('utf-8', errors='replace').splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue  # the line during which a run was killed
        if isinstance(record, dict):
            yield record


def run(argv: Optional[Sequence[str]] = None) -> Path:
    """Train and compare as the command line says.

    Returns:
        The table, beside CSV and plot.

    Raises:
        MobileOneExtError: see ``grid_from`` and ``run_grid``.
    """
    args = ablate_parser().parse_args(argv)
    config = read_config(args.config)
    grid = grid_from(config.get('ablation'), args.vary, args.seeds)
    if args.cfg_options:
        config.merge_from_dict(args.cfg_options)
    out = args.out or Path('work_dirs') / f'ablate-{Path(args.config).stem}'
    console = PlainConsole(stderr=True, highlight=False)
    keep = partial(write_results, out=out)
    results = run_grid(config, grid, out, metric=args.metric, console=console, each=keep)
    PlainConsole().print(summary_table(summarize(results)))
    return (out / TABLE).absolute()
