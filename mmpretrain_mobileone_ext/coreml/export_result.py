"""What an export made, as figures and as a table."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from .compress_step import Compression
from .export_options import ExportOptions
from .labels import Labels
from .precision import KeptOp
from .preprocess import Preprocessing
from .requirements import system_of
from .verify import Verification


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
        kept: operations that stay in fp32, where precision is 'auto'.
        compression: what was tried and chosen; None without compression.
    """
    path: Path
    size_bytes: int
    options: ExportOptions
    preprocessing: Preprocessing
    labels: Labels
    normalization: str
    verification: Verification
    notes: tuple[str, ...] = ()
    kept: tuple[KeptOp, ...] = ()
    compression: Optional[Compression] = None

    @property
    def system(self) -> str:
        """Oldest iOS that runs the file, by its specification version."""
        return system_of(self.verification.spec_version)

    @property
    def tolerance(self) -> str:
        """Name of the bound that the file was held to."""
        if self.compression is not None:
            return self.compression.bound
        return self.verification.tolerance

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
        rows += self._compression_rows()
        rows += [('in fp32', f'{op.name} ({op.type}): {op.why}')
                 for op in self.kept]
        if v.overflows:
            rows.append(('beyond fp16', ', '.join(v.overflows)))
        return [*rows, *(('note', note) for note in self.notes)]


    def _compression_rows(self) -> list[tuple[str, str]]:
        found = self.compression
        if found is None:
            return []
        tried = f', {len(found.candidates) - 1} files tried' \
            if found.candidates else ''
        return [('compression', f'{found.scheme}: '
                 f'{found.bytes / found.plain_bytes:.2f} of the size before, '
                 f'{found.drop_points:.2f} points lost '
                 f'(tolerance {found.bound!r}{tried})')]


def _percent(share: Optional[float]) -> str:
    return 'unknown' if share is None else f'{100 * share:.2f} %'
