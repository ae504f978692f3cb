"""Command line of ``mobileone-ext finetune``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from ....errors import MobileOneExtError
from ....report import forms_table
from ....utils.config import read_config
from ....utils.files import write_text, write_whole
from ....utils.text import PlainConsole, csv_text, figures_table
from ...console.training import finetune_parser
from ..to_phone import RunRecord, TrainToPhone, sole_use, text_hash
from .folder import ImageFolder, read_folder
from .rehearsal import check_images, rehearse
from .settings import check_recipe, finetune_config, has_switch, length

#: The config of a run, in its work dir.
CONFIG = 'finetune.py'
#: The list of what is not used, in the work dir.
SKIPPED = 'skipped.csv'
_CLASSES, _FILES = 40, 5  # that are printed


def run(argv: Optional[Sequence[str]] = None) -> Path:
    """Fine-tune as the command line says.

    Returns:
        The Core ML package.

    Raises:
        MobileOneExtError: the folder or the recipe does not fit, the work dir is in use or holds
            another run, or a step failed.
    """
    args = finetune_parser().parse_args(argv)
    recipe = read_config(args.config)
    if args.cfg_options:
        recipe.merge_from_dict(args.cfg_options)
    work_dir = args.work_dir or Path('work_dirs') / f'finetune-{args.data.resolve().name}'
    for path in (args.data.resolve(), work_dir.resolve()):
        _check_path(path)
    console = PlainConsole()
    check_recipe(recipe)
    if not args.force:
        _refuse_finished(work_dir)
    folder = read_folder(
        args.data, args.holdout, check=lambda paths: check_images(recipe, args.data, paths, console)
    )
    with sole_use(work_dir, console):
        asked = _asked(args, recipe, folder)
        record = None if args.force else _interrupted(work_dir, asked)
        config = work_dir / CONFIG
        cfg = finetune_config(
            recipe,
            folder,
            work_dir,
            weights=args.weights,
            frozen_stages=args.frozen_stages,
            epochs=args.epochs,
        )
        print_folder(folder, work_dir, console)
        console.print(_summary(folder, cfg))
        if not has_switch(recipe):
            console.print('the recipe does not fold its network: DeploySwitchHook is added')
        if record is None:
            rehearse(cfg, work_dir / 'model.mlpackage')
        record = record or RunRecord.begin(work_dir, asked)
        write_whole(config, cfg.dump)
        steps = TrainToPhone(config, work_dir, record, console)
        console.print(forms_table(steps.run(), f'{args.data}: test images'))
    return steps.package


def print_folder(folder: ImageFolder, work_dir: Path, console: Console) -> None:
    """Print images by class, and by reason what is skipped.

    All that is skipped is written to ``skipped.csv`` in ``work_dir``, which says so with one line
    if nothing is.
    """
    console.print(_table(folder))
    rows = [('path', 'reason'), *folder.skipped]
    write_text(work_dir / SKIPPED, csv_text(rows))
    if not folder.skipped:
        return
    reasons = Counter(s.reason for s in folder.skipped).most_common()
    counted = ', '.join(f'{count} {reason}' for reason, count in reasons)
    console.print(f'skipped: {len(folder.skipped)} ({counted})')
    for path, reason in folder.skipped[:_FILES]:
        console.print(f'  {path}: {reason}')
    if len(folder.skipped) > _FILES:
        console.print(f'  all of them are in {work_dir / SKIPPED}')


def _table(folder: ImageFolder) -> Table:
    counts = [Counter(label for _, label in samples) for samples in (folder.train, folder.test)]
    table = figures_table(['class'], ['train', 'test'], title=f'images in {folder.root}')
    for label, name in enumerate(folder.classes[:_CLASSES]):
        table.add_row(name, *(str(c[label]) for c in counts))
    if len(folder.classes) > _CLASSES:
        rest = range(_CLASSES, len(folder.classes))
        table.add_row(f'{len(rest)} more classes', *(str(sum(c[i] for i in rest)) for c in counts))
    return table


def _asked(args: argparse.Namespace, recipe: Config, folder: ImageFolder) -> dict[str, str]:
    """All that makes a run what it is, before anything is written."""
    return dict(
        recipe=text_hash(str(recipe.to_dict())),
        images=text_hash(
            repr((folder.root.resolve(), folder.classes, folder.train, folder.test, folder.skipped))
        ),
        weights=str(args.weights),
        frozen_stages=str(args.frozen_stages),
        epochs=str(args.epochs),
    )


def _interrupted(work_dir: Path, asked: dict[str, str]) -> Optional[RunRecord]:
    """The run to go on with; None where there is none.

    Raises:
        MobileOneExtError: another or a finished run is there.
    """
    _refuse_finished(work_dir)
    found = RunRecord.read(work_dir)
    if found and not found.goes_on(asked):
        raise _holds(work_dir, found.differs_by(asked))
    return found


def _refuse_finished(work_dir: Path) -> None:
    """Before minutes are spent on images."""
    found = RunRecord.read(work_dir)
    if found and found.finished:
        raise _holds(work_dir, ', which is finished')
    if not found and (work_dir / CONFIG).exists():
        raise _holds(work_dir, '')


def _holds(work_dir: Path, which: str) -> MobileOneExtError:
    return MobileOneExtError(
        f'{work_dir} holds an earlier run{which}; choose another --work-dir or give --force'
    )


def _check_path(path: Path) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        raise MobileOneExtError(
            f'{str(path)!r} is no UTF-8, which the files of a run need; '
            'rename it or choose another --work-dir'
        ) from error


def _summary(folder: ImageFolder, cfg: Config) -> str:
    split = 'set aside' if folder.held_out else 'of its own'
    return (
        f'{folder.root}: {len(folder.classes)} classes, {len(folder.train)} images to train on, '
        f'{len(folder.test)} {split} to test on; {length(cfg)} from '
        f'{cfg.get("load_from") or "random weights"}'
    )
