"""Results of every form of a network as a table and as JSON."""
from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Optional

from rich.table import Table

from ..figures import interval_of, share


@dataclass(frozen=True)
class FormResult:
    """One form of a network, scored on a whole split.

    Attributes:
        form: what it is, for a person.
        top1: accuracy in percent.
        size_bytes: its weights (or package) on disk.
        agreement: percent of images with the reference form's top-1.
        num_images: images scored.
        source: file name.
        top1_low, top1_high: interval of ``top1``, percent; computed.
    """
    form: str
    top1: float
    size_bytes: int
    agreement: float
    num_images: int
    source: str
    top1_low: Optional[float] = None
    top1_high: Optional[float] = None

    def __post_init__(self) -> None:
        low, high = interval_of(self.top1, self.num_images) or (None, None)
        object.__setattr__(self, 'top1_low', low)
        object.__setattr__(self, 'top1_high', high)


def forms_table(results: Sequence[FormResult],
                title: Optional[str] = None) -> Table:
    """A table with one row a form, for a terminal or a log."""
    table = Table(title=title)
    table.add_column('form')
    for name in ('top-1 %', 'size KiB', 'agreement %', 'images'):
        table.add_column(name, justify='right')
    for r in results:
        table.add_row(r.form, share(r.top1, r.num_images),
                      f'{r.size_bytes / 1024:.0f}',
                      f'{r.agreement:.2f}', str(r.num_images))
    return table


def write_forms_json(results: Sequence[FormResult], path: Path) -> Path:
    """Write results as a JSON list of objects with the fields above."""
    text = json.dumps([asdict(r) for r in results], indent=2) + '\n'
    path.write_text(text, encoding='utf-8')
    return path


def tree_bytes(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files = [path] if path.is_file() else path.rglob('*')
    return sum(f.stat().st_size for f in files if f.is_file())
