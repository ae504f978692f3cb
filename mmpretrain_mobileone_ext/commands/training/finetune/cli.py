"""Command line of ``tools/finetune.py``."""

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
from ....utils.config import MIM, read_config
from ....utils.files import write_text, write_whole
from ....utils.text import PlainConsole, csv_text, figures_table
from ...cli import ToolParser
from ..to_phone import RunRecord, TrainToPhone, last_checkpoint, sole_use, text_hash
from .folder import ImageFolder, read_folder
from .rehearsal import check_images, rehearse
from .results import print_results
from .settings import check_recipe, finetune_config, has_switch, length
from .starting import (
    RATE,
    fit_training,
    keep_decoded,
    rate_of,
    set_arch,
    set_image_size,
    start_from_nothing,
)

#: The config of a run, in its work dir.
CONFIG = 'finetune.py'
#: The list of what is not used, in the work dir.
SKIPPED = 'skipped.csv'
_RECIPE = MIM / 'configs/finetune/mobileone-s0_finetune_image-folder.py'
_CLASSES, _FILES = 40, 5  # that are printed
_UNEVEN = 3  # times as many images of the largest class as of the smallest that are worth a word
_REPORTED = 1000  # test images that the report scores at most


def parser() -> ToolParser:
    """The arguments."""
    p = ToolParser(
        description='Fine-tune on a folder of images, fold, export to Core '
        'ML, score every form on the test images, and show the mistakes on one page.'
    )
    p.add_argument('data', type=Path, help='<class>/<image>, or {train,test}/<class>/<image>')
    p.add_argument(
        '--config',
        default=str(_RECIPE),
        help="recipe (default: MobileOne S0 at 224 pixels from OpenMMLab's ImageNet weights)",
    )
    _add_network(p)
    _add_training(p)
    _add_output(p)
    p.add_cfg_options('key=value pairs, merged into the recipe')
    return p


def _add_network(p: ToolParser) -> None:
    p.add_argument(
        '--arch',
        metavar='NAME',
        help="s0 to s4, or a name of mmpretrain's list_models(), each from its ImageNet weights "
        "(default: the recipe's)",
    )
    p.add_argument(
        '--image-size',
        type=int,
        metavar='N',
        help="sides of the square that the network sees, pixels (default: the recipe's)",
    )
    start = p.add_mutually_exclusive_group()
    start.add_argument(
        '--weights',
        metavar='FILE|URL',
        help="checkpoint to start from (default: the recipe's "
        'load_from); its head may have other classes',
    )
    start.add_argument(
        '--from-scratch', action='store_true', help='start from random weights, and freeze nothing'
    )
    p.add_argument(
        '--frozen-stages',
        type=int,
        metavar='N',
        help="stages that stay as they are, 0 the stem alone, -1 none (default: the recipe's)",
    )


def _add_training(p: ToolParser) -> None:
    p.add_argument(
        '--epochs',
        type=int,
        metavar='N',
        help="default: the recipe's, or more where there are few images",
    )
    p.add_argument(
        '--lr',
        type=float,
        metavar='RATE',
        help="learning rate; a new head has ten times as much (default: the recipe's, fitted to "
        'the weights and the batch)',
    )
    p.add_argument(
        '--holdout',
        type=float,
        default=0.2,
        metavar='SHARE',
        help='of each class set aside for the test where the '
        'folder has no split (default: %(default)s)',
    )


def _add_output(p: ToolParser) -> None:
    p.add_argument(
        '--compress',
        metavar='SCHEME',
        help='make the Core ML file smaller: int8, palettize4, auto, ...; see export_coreml --help',
    )
    p.add_argument(
        '--swift',
        nargs='?',
        const='',
        metavar='DIR',
        help='write a Swift package with the model in it (DIR: <work dir>/swift)',
    )
    p.add_argument('--work-dir', type=Path, help='default: work_dirs/finetune-<folder>')
    end = p.add_mutually_exclusive_group()
    end.add_argument(
        '--resume',
        action='store_true',
        help='go on with an interrupted run of the same options; what is done is skipped',
    )
    end.add_argument(
        '--force',
        action='store_true',
        help='replace what an earlier run left there, and start anew',
    )


def run(argv: Optional[Sequence[str]] = None) -> Path:
    """Fine-tune as the command line says.

    Returns:
        The Core ML package.

    Raises:
        MobileOneExtError: the folder or the recipe does not fit, the work dir is in use or holds
            another run, or a step failed.
    """
    args = parser().parse_args(argv)
    recipe, tuned_before = _recipe(args)
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
        record = None if args.force else _interrupted(work_dir, asked, args.resume)
        cfg, decoding = _config(args, recipe, folder, work_dir, tuned_before)
        print_folder(folder, work_dir, console)
        console.print(_summary(folder, cfg))
        console.print(decoding)
        folds = has_switch(cfg)
        if folds and not has_switch(recipe):
            console.print('the recipe does not fold its network: DeploySwitchHook is added')
        if record is None:
            rehearse(cfg, work_dir / 'model.mlpackage')
        record = record or RunRecord.begin(work_dir, asked)
        write_whole(work_dir / CONFIG, cfg.dump)
        steps = TrainToPhone(
            config=work_dir / CONFIG,
            work_dir=work_dir,
            record=record,
            console=console,
            folds=folds,
            export=_export_words(args, work_dir),
            report=_reported(len(folder.test)),
        )
        results = steps.run()
        print_results(steps, results, folder, args.swift is not None)
    return steps.package


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


def _export_words(args: argparse.Namespace, work_dir: Path) -> list[str]:
    words = ['--compress', args.compress] if args.compress else []
    if args.swift is not None:
        words += ['--swift', args.swift or str(work_dir / 'swift')]
    return words


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
        compress=str(args.compress),
        swift=str(args.swift),
    )


def _interrupted(work_dir: Path, asked: dict[str, str], resume: bool) -> Optional[RunRecord]:
    """The run to go on with; None where there is none, or nothing came of it.

    Raises:
        MobileOneExtError: another or a finished run is there, or one that was not asked for.
    """
    _refuse_finished(work_dir)
    found = RunRecord.read(work_dir)
    if found is None or not (found.done or last_checkpoint(work_dir)):
        return None
    if not found.goes_on(asked):
        raise _holds(work_dir, found.differs_by(asked))
    if not resume:
        raise MobileOneExtError(
            f'{work_dir} holds this run, interrupted; give --resume to go on with it, or --force '
            'to start anew'
        )
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
        f'{cfg.get("load_from") or "random weights"}, {rate_of(cfg)}'
    )
