"""Command line of ``mobileone-ext finetune``."""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Optional

from mmengine.config import Config
from rich.console import Console
from rich.table import Table

from ....errors import MobileOneExtError
from ....report import FormResult
from ....utils.config import read_config
from ....utils.files import write_text, write_whole
from ....utils.text import PlainConsole, csv_text, figures_table
from ...console.training import finetune_parser
from ..to_phone import RunRecord, TrainToPhone, last_checkpoint, sole_use, text_hash
from .exporting import EXPORT_STEPS, EXPORTED, check_export, export_words, package_of, swift_folder
from .folder import SKIPPED, ImageFolder, check_folder, read_folder
from .rehearsal import check_images, rehearse
from .results import export_command, print_results
from .settings import check_recipe, finetune_config, has_switch, length
from .starting import (
    RATE,
    fetch_weights,
    fit_training,
    keep_decoded,
    rate_of,
    set_arch,
    set_image_size,
    start_from_nothing,
)

#: The config of a run, in its work dir.
CONFIG = 'finetune.py'
_CLASSES, _FILES = 40, 5  # that are printed
_UNEVEN = 3  # times as many images of the largest class as of the smallest that are worth a word
_REPORTED = 1000  # test images that the report scores at most


def run(argv: Optional[Sequence[str]] = None) -> Path:
    """Fine-tune as the command line says.

    Returns:
        The Core ML package.

    Raises:
        MobileOneExtError: the folder or the recipe does not fit, the work dir is in use or holds
            another run, or a step failed.
    """
    args = finetune_parser().parse_args(argv)
    work_dir = args.work_dir or Path('work_dirs') / f'finetune-{args.data.resolve().name}'
    console = PlainConsole()
    recipe, tuned_before = _checked(args, work_dir)
    folder = read_folder(
        args.data, args.holdout, check=lambda paths: check_images(recipe, args.data, paths, console)
    )
    with sole_use(work_dir, console):
        asked = _asked(args, recipe, folder)
        record = None if args.force else _interrupted(work_dir, asked, args.resume)
        cfg, decoding = _config(args, recipe, folder, work_dir, tuned_before)
        print_folder(folder, work_dir, console)
        console.print(_summary(folder, cfg))
        console.print(decoding)
        folds = has_switch(cfg)
        if folds and not has_switch(recipe):
            console.print('the recipe does not fold its network: DeploySwitchHook is added')
        if record is None:
            rehearse(cfg, package_of(args, work_dir), args.compress or 'none')
        record = record or RunRecord.begin(work_dir, asked)
        write_whole(work_dir / CONFIG, cfg.dump)
        steps = TrainToPhone(
            config=work_dir / CONFIG,
            work_dir=work_dir,
            record=record,
            console=console,
            folds=folds,
            format=args.format,
            export=export_words(args, work_dir),
            report=_reported(len(folder.test)),
        )
        results = _done(steps)
        print_results(steps, results, folder, swift_folder(args, work_dir))
    return steps.package


def _checked(args: argparse.Namespace, work_dir: Path) -> tuple[Config, bool]:
    """The recipe, see :func:`_recipe`, when all that can be told within seconds fits."""
    for path in (args.data.resolve(), work_dir.resolve()):
        _check_path(path)
    check_export(args, work_dir)
    recipe, tuned_before = _recipe(args)
    check_recipe(recipe)
    if not args.force:
        _refuse_finished(work_dir, args)
    check_folder(args.data)
    if not (args.resume and last_checkpoint(work_dir)):
        fetch_weights(args.weights or recipe.get('load_from'))
    return recipe, tuned_before


def _done(steps: TrainToPhone) -> list[FormResult]:
    """All steps, with a word on what is kept where one fails behind the training."""
    try:
        return steps.run()
    except MobileOneExtError as error:
        if 'train' not in steps.record.done:
            raise
        raise MobileOneExtError(
            f'{error}; the training is done and kept: give --resume to go on from there, with '
            'another --format, --compress or --swift if need be'
        ) from error


def _recipe(args: argparse.Namespace) -> tuple[Config, bool]:
    """The recipe as it is asked for, and whether its rate is one for trained weights."""
    recipe = read_config(args.config)
    tuned_before = bool(recipe.get('load_from'))
    if args.arch or args.image_size or args.from_scratch:
        check_recipe(recipe)
    if args.arch:
        set_arch(recipe, args.arch)
    if args.image_size:
        set_image_size(recipe, args.image_size)
    if args.from_scratch:
        start_from_nothing(recipe)
    if args.cfg_options:
        recipe.merge_from_dict(args.cfg_options)
    return recipe, tuned_before


def _config(
    args: argparse.Namespace, recipe: Config, folder: ImageFolder, work_dir: Path, tuned: bool
) -> tuple[Config, str]:
    """The config of the run, and how it reads its images in words."""
    cfg = finetune_config(
        recipe,
        folder,
        work_dir,
        weights=args.weights,
        frozen_stages=args.frozen_stages,
        epochs=args.epochs,
    )
    given = args.cfg_options or {}
    fit_training(
        cfg,
        len(folder.train),
        len(folder.classes),
        tuned_before=tuned,
        lr=given.get(RATE) if args.lr is None else args.lr,
        epochs=given.get('train_cfg.max_epochs') if args.epochs is None else args.epochs,
        keep_batch='train_dataloader.batch_size' in given,
    )
    return cfg, keep_decoded(cfg, len(folder.train))


def _reported(images: int) -> str:
    """All test images, or as many as the runtime scores within minutes."""
    return 'test' if images <= _REPORTED else str(_REPORTED)


def print_folder(folder: ImageFolder, work_dir: Path, console: Console) -> None:
    """Print images by class, and by reason what is skipped.

    All that is skipped is written to ``skipped.csv`` in ``work_dir``, which says so with one line
    if nothing is.
    """
    console.print(_table(folder))
    uneven = _uneven(folder)
    if uneven:
        console.print(uneven)
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
    heads = ['train', 'share %', 'test']
    table = figures_table(['class'], heads, title=f'images in {folder.root}')

    def add(name: str, labels: Iterable[int]) -> None:
        train, test = (sum(c[i] for i in labels) for c in counts)
        table.add_row(name, str(train), f'{100 * train / len(folder.train):.1f}', str(test))

    for label, name in enumerate(folder.classes[:_CLASSES]):
        add(name, [label])
    if len(folder.classes) > _CLASSES:
        rest = range(_CLASSES, len(folder.classes))
        add(f'{len(rest)} more classes', rest)
    return table


def _uneven(folder: ImageFolder) -> str:
    """A line on classes of very different sizes; '' where they are alike."""
    counts = Counter(folder.classes[label] for _, label in folder.train)
    (most, many), *_, (least, few) = counts.most_common()
    if many < _UNEVEN * few:
        return ''
    return (
        f'uneven: {most} has {many / few:.1f} times the training images of {least}, so that top-1 '
        'is mostly its own; look at the scores of each class below'
    )


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
        lr=str(args.lr),
        arch=str(args.arch),
        image_size=str(args.image_size),
        from_scratch=str(args.from_scratch),
        format=args.format,
        compress=str(args.compress),
        swift=str(args.swift),
    )


def _interrupted(work_dir: Path, asked: dict[str, str], resume: bool) -> Optional[RunRecord]:
    """The run to go on with; None where there is none, or nothing came of it.

    Where only the export is asked for otherwise, it is done again, and the training is not.

    Raises:
        MobileOneExtError: another run is there, or one that was not asked for.
    """
    found = RunRecord.read(work_dir)
    if found is None or not (found.finished or found.done or last_checkpoint(work_dir)):
        return None
    others = found.differs_by(asked)
    trained = [name for name in others if name not in EXPORTED]
    if trained:
        raise _holds(work_dir, f' with other {", ".join(trained)}')
    if not resume:
        raise MobileOneExtError(
            f'{work_dir} holds this run, interrupted; give --resume to go on with it, or --force '
            'to start anew'
        )
    return found.asked_anew(asked, EXPORT_STEPS) if others else found


def _refuse_finished(work_dir: Path, args: argparse.Namespace) -> None:
    """Before minutes are spent on images."""
    found = RunRecord.read(work_dir)
    if not found and (work_dir / CONFIG).exists():
        raise _holds(work_dir, '')
    if not found or not found.finished:
        return
    if any(found.asked.get(name) != str(getattr(args, name)) for name in EXPORTED):
        words = export_words(args, work_dir)
        command = export_command(work_dir / CONFIG, last_checkpoint(work_dir), work_dir, *words)
        raise MobileOneExtError(
            f'{work_dir} holds an earlier run, which is finished; another file of its network is '
            f'made by: {command}'
        )
    if not args.resume:
        raise MobileOneExtError(
            f'{work_dir} holds an earlier run, which is finished; give --resume to see its results '
            'again, choose another --work-dir or give --force'
        )


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
        f'{cfg.get("load_from") or "random weights"}, {rate_of(cfg)}'
    )
