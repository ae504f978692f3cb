"""Train what a grid asks for and is not there yet."""
from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable
from pathlib import Path

from mmengine.config import Config
from mmpretrain import get_model
from rich.console import Console

from ..atomic_file import write_whole
from ..errors import MobileOneExtError, SpecError
from ..models import switch_to_deploy
from ..tool_process import run_tool
from .grid import Grid, Trial
from .results import TrialResult
from .scalars import last_score, median_step

RESULT = 'trial.json'
_CONFIG = 'config.py'


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
        MobileOneExtError: a run failed, or ``out`` holds another config.
    """
    prepared = [(trial, _config_of(config, trial)) for trial in grid.trials()]
    for trial, cfg in prepared:
        _check_folder(out / trial.folder, cfg)
    results: list[TrialResult] = []
    for index, (trial, cfg) in enumerate(prepared, 1):
        title = f'{index}/{len(prepared)} {trial.variant}, seed {trial.seed}'
        results.append(
            _result(trial, cfg, out / trial.folder, metric, title, console))
        each(results)
    return results


def _config_of(config: Config, trial: Trial) -> Config:
    cfg = copy.deepcopy(config)
    cfg.pop('ablation', None)
    try:
        cfg.merge_from_dict(trial.options)
    except (KeyError, TypeError, AssertionError) as error:
        raise SpecError(f'variant {trial.variant!r} does not fit the config: '
                        f'{error}') from error
    return cfg


def _fingerprint(cfg: Config) -> str:
    return hashlib.sha256(cfg.pretty_text.encode()).hexdigest()[:16]


def _check_folder(folder: Path, cfg: Config) -> None:
    """Refuse to mix runs of different configs under one name."""
    known = folder / _CONFIG
    if known.is_file() and \
            _fingerprint(Config.fromfile(known)) != _fingerprint(cfg):
        raise MobileOneExtError(
            f'{folder} holds a run of another config; remove it or choose '
            'another --out')


def _result(trial: Trial, cfg: Config, folder: Path, metric: str,
            title: str, console: Console) -> TrialResult:
    done = folder / RESULT
    if done.is_file():
        result = TrialResult.read(done)
        console.print(f'{title}: there already, {result.score:.2f}')
        return result
    folder.mkdir(parents=True, exist_ok=True)
    config = write_whole(folder / _CONFIG, lambda made: cfg.dump(made))
    seconds = run_tool(
        'train.py', [str(config), '--work-dir', str(folder), '--resume'],
        folder / 'train.log', title, console)
    result = _measured(trial, cfg, folder, metric)
    write_whole(done, lambda made: made.write_text(result.to_json()))
    console.print(f'{title}: {result.score:.2f} ({seconds:.0f} s)')
    return result


def _measured(trial: Trial, cfg: Config, folder: Path,
              metric: str) -> TrialResult:
    model = get_model(cfg)
    train_params = sum(p.numel() for p in model.parameters())
    switch_to_deploy(model)
    return TrialResult(
        variant=trial.variant,
        seed=trial.seed,
        metric=metric,
        score=last_score(folder, metric),
        step_s=median_step(folder),
        train_params=train_params,
        deploy_params=sum(p.numel() for p in model.parameters()),
        fingerprint=_fingerprint(cfg))
