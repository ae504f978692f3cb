"""What an export made, as figures and as a table."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .export_options import ExportOptions
from .labels import Labels
from .preprocess import Preprocessing
from .verify import Verification

_SYSTEMS = {4: 'iOS13', 5: 'iOS14', 6: 'iOS15', 7: 'iOS16', 8: 'iOS17',
            9: 'iOS18'}


@dataclass(frozen=True)
class ExportResult:
    """A verified Core ML file.

    Attributes:
        path: the file or package.
        size_bytes: of all of it.
        options: what was asked for.
        preprocessing: what is baked in.
        labels: class labels and where they come from.
        normalization: where mean and std went, in words.
        verification: parity and accuracy on images.
        notes: what could not be done, in words.
    """
    path: Path
    size_bytes: int
    options: ExportOptions
    preprocessing: Preprocessing
    labels: Labels
    normalization: str
    verification: Verification
    notes: tuple[str, ...] = ()

    @property
    def system(self) -> str:
        """Oldest iOS that runs the file, by its specification version."""
        version = self.verification.spec_version
        return _SYSTEMS.get(version, f'specification {version}')

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, in the order of the summary table."""
        v, p = self.verification, self.verification.parity
        height, width = self.preprocessing.size
        ops = v.operations
        layout = self.preprocessing.layout \
            if self.options.input == 'image' else \
            f'tensor, {self.preprocessing.channels} channels'
        rows = [
            ('file', str(self.path)),
            ('size', f'{self.size_bytes / 2**20:.2f} MiB'),
            ('format', f'{self.options.format}, {self.system} or later'),
            ('precision', self.options.precision),
            ('input', f'image, {height} x {width}, {layout}'),
            ('normalization', self.normalization),
            ('classes', f'{len(self.labels.names)} ({self.labels.origin})'),
            ('operations', f'{sum(ops.values())}, of them '
             f'{ops.get("conv", 0)} conv'),
            ('compared on', v.images),
            ('parity', f'relative {p.relative:.2e}, max abs '
             f'{p.max_abs:.2e}, PSNR {p.psnr_db:.1f} dB'),
            ('same top-1', _percent(p.top1_agreement)),
            ('top-1', 'no labels' if v.top1_reference is None else
             f'torch {_percent(v.top1_reference)}, Core ML '
             f'{_percent(v.top1_candidate)}'),
        ]
        if v.overflows:
            rows.append(('beyond fp16', ', '.join(v.overflows)))
        return [*rows, *(('note', note) for note in self.notes)]


def _percent(share: Optional[float]) -> str:
    return 'unknown' if share is None else f'{100 * share:.2f} %'
