"""What a fine-tuned network can do, class by class, and what to do next."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

import torch
from mmengine.config import Config
from rich.console import Console

from ....coreml.formats import format_of
from ....models.preprocessing import step_name
from ....report import FormResult, forms_table
from ....utils.accuracy import Confusion, confusion
from ....utils.text import figures_table, percent, shell_command
from ..to_phone import TrainToPhone
from .exporting import swift_in_words
from .folder import SKIPPED, ImageFolder

_CLASSES = 40  # rows of a table; those with the lowest recall
_MATRIX = 12  # classes that fit beside each other
_MIXED_UP = 10


def print_results(
    steps: TrainToPhone, results: Sequence[FormResult], folder: ImageFolder, swift: Optional[Path]
) -> None:
    """Print every form's score, the Core ML file's by class, what lies where, the next command.

    Args:
        steps: that are done.
        results: of the forms.
        folder: of the images.
        swift: the Swift package that was written; None without.
    """
    console = steps.console
    console.print(forms_table(results, f'{folder.root}: test images'))
    print_classes(confusion_of(steps.predictions(), folder.classes), console)
    lines = [
        f'exported: {steps.checkpoint.name}, {_why(steps)}',
        f'{format_of(steps.package).title} file: {steps.package}',
        f'report: {steps.page}, with the worst mistakes as pictures',
        *([f'Swift package: {swift_in_words(swift)}'] if swift else []),
        f'logs, checkpoints, config, {SKIPPED}: {steps.work_dir}',
        f'next: {_next(steps, swift)}',
    ]
    for line in lines:
        console.print(line, soft_wrap=True)


def confusion_of(predictions: Sequence[dict], names: Sequence[str]) -> Confusion:
    """Of predictions as ``tools/test.py --out`` writes them."""
    truth, said = (
        torch.stack([p[key].reshape(()).long() for p in predictions])
        for key in ('gt_label', 'pred_label')
    )
    return confusion(truth, said, names)


def print_classes(found: Confusion, console: Console) -> None:
    """Print precision and recall of each class, and what is taken for what."""
    table = figures_table(
        ['class'], ['images', 'precision %', 'recall %'], title='Core ML file, by class'
    )
    scores = found.scores
    if len(scores) > _CLASSES:
        scores = sorted(scores, key=lambda s: (s.recall is None, s.recall))[:_CLASSES]
        table.title = f'Core ML file, the {_CLASSES} classes with the lowest recall'
    for score in scores:
        table.add_row(
            score.name, str(score.images), percent(score.precision), percent(score.recall)
        )
    console.print(table)
    if not found.mixed_up:
        console.print('no test image is taken for another class')
    elif len(found.names) <= _MATRIX:
        _print_matrix(found, console)
    else:
        for count, truth, said in found.mixed_up[:_MIXED_UP]:
            console.print(f'{count} of {truth} taken for {said}')


def _print_matrix(found: Confusion, console: Console) -> None:
    numbers = [str(i) for i in range(1, len(found.names) + 1)]
    table = figures_table(['is'], numbers, title='rows: what an image is; columns: what is said')
    for number, name, row in zip(numbers, found.names, found.counts):
        table.add_row(f'{number} {name}', *(str(count) if count else '.' for count in row))
    console.print(table)


def _why(steps: TrainToPhone) -> str:
    """Why that checkpoint is the one to export."""
    cfg = Config.fromfile(steps.config)
    averaged = any(step_name(hook) == 'EMAHook' for hook in cfg.get('custom_hooks') or ())
    weights = ', its weights averaged over iterations (EMA)' if averaged else ''
    return (
        f'the last one{weights}; one that was chosen by its score on the test images, as best_* '
        'is, would be flattered by it'
    )


def _next(steps: TrainToPhone, swift: Optional[Path]) -> str:
    """A command, for whoever has come so far."""
    if swift:
        return f'open {swift} in Xcode, or add it to an app'
    words = ('--swift', steps.work_dir / 'swift')
    return export_command(steps.config, steps.checkpoint, steps.work_dir, *words)


def export_command(config: Path, checkpoint: Optional[Path], folder: Path, *more: object) -> str:
    """The command that makes another Core ML file of a network, in ``folder``."""
    words = (config, checkpoint or 'CHECKPOINT', '--out', folder / 'app.mlpackage', *more)
    return shell_command([*_tool('export_coreml.py', 'export'), *words])


def _tool(file: str, command: str) -> list[str]:
    """How this program's neighbour is called: beside a tool, or as a sub-command."""
    own = Path(sys.argv[0])
    if own.suffix == '.py':
        return ['python', str(own.with_name(file))]
    # A sub-command is part of the name that it runs under.
    return [own.name.split()[0], command]
