"""Show what was found in an image folder, and what was skipped."""
from __future__ import annotations

from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ..atomic_file import write_whole
from ..outside_text import csv_text
from .folder import ImageFolder

#: The list of what is not used, in the work dir.
SKIPPED = 'skipped.csv'
_CLASSES, _FILES = 40, 5


def print_folder(folder: ImageFolder, work_dir: Path,
                 console: Console) -> None:
    """Print images by class, and by reason what is skipped.

    All that is skipped is written to ``skipped.csv`` in ``work_dir``, which
    says so with one line if nothing is.
    """
    console.print(_table(folder))
    rows = [('path', 'reason'), *folder.skipped]
    write_whole(work_dir / SKIPPED,
                lambda made: made.write_text(csv_text(rows), 'utf-8'))
    if not folder.skipped:
        return
    reasons = Counter(s.reason for s in folder.skipped)
    console.print(f'skipped: {len(folder.skipped)} ('
                  + ', '.join(f'{count} {reason}' for reason, count
                              in reasons.most_common()) + ')')
    for path, reason in folder.skipped[:_FILES]:
        console.print(f'  {path}: {reason}')
    if len(folder.skipped) > _FILES:
        console.print(f'  all of them are in {work_dir / SKIPPED}')


def _table(folder: ImageFolder) -> Table:
    counts = [Counter(label for _, label in samples)
              for samples in (folder.train, folder.test)]
    table = Table(title=f'images in {folder.root}')
    table.add_column('class')
    for name in ('train', 'test'):
        table.add_column(name, justify='right')
    for label, name in enumerate(folder.classes[:_CLASSES]):
        table.add_row(name, *(str(c[label]) for c in counts))
    if len(folder.classes) > _CLASSES:
        rest = range(_CLASSES, len(folder.classes))
        table.add_row(f'{len(rest)} more classes',
                      *(str(sum(c[i] for i in rest)) for c in counts))
    return table
