"""What an export made, as figures and as a table."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..accuracy import Verdict
from ..figures import NBSP, share, size, worth
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
        plain_bytes: what the file would be without compression.
        verdict: whether it keeps the accuracy; None without classes.
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
    plain_bytes: Optional[int] = None
    verdict: Optional[Verdict] = None

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
            ('size', size(self.size_bytes).replace(NBSP, ' ')),
            ('format', f'{self.options.format}, {self.system} or later'),
            ('precision', self.options.precision),
            ('input', f'image, {height} x {width}, {layout}'),
            ('normalization', self.normalization),
            ('classes', f'{len(self.labels.names)} ({self.labels.origin})'),
            ('operations', f'{sum(ops.values())}, of them '
             f'{ops.get("conv", 0)} conv'),
            ('compared on', v.images if p.top1_agreement is None else
             f'{v.images}; {worth(p.num_samples)}'),
            ('parity', f'relative {p.relative:.2e}, max abs '
             f'{p.max_abs:.2e}, PSNR {p.psnr_db:.1f} dB'
             f'{_own(v.rounding)}'),
            ('same top-1', _percent(p.top1_agreement, p.num_samples)),
            ('top-1', 'no labels' if v.top1_reference is None else
             f'torch {_percent(v.top1_reference, p.num_samples)}, Core ML '
             f'{_percent(v.top1_candidate, p.num_samples)}'),
        ]
        rows += [*self._compression_rows(), *self._verdict_rows()]
        rows += [('in fp32', f'{op.name} ({op.type}): {op.why}')
                 for op in self.kept]
        if v.overflows:
            rows.append(('beyond fp16', ', '.join(v.overflows)))
        return [*rows, *(('note', note) for note in self.notes)]

    def _compression_rows(self) -> list[tuple[str, str]]:
        found = self.compression
        if found is None:
            return []
        tried = f', {found.tried} files tried on {found.chosen_on}' \
            if found.candidates else ''
        if found.passed_over:
            tried += f'; {found.passed_over} smaller ones fit there, but ' \
                'not on all images'
        before = self.plain_bytes or found.plain_bytes
        return [('compression', f'{found.scheme}: '
                 f'{self.size_bytes / before:.2f} of '
                 f'{size(before).replace(NBSP, " ")}{tried}')]

    def _verdict_rows(self) -> list[tuple[str, str]]:
        found = self.verdict
        if found is None:
            return []
        what = 'top-1' if found.labelled else 'agreement'
        against = 'network' if self.compression is None else \
            'file before compression'
        rows = [(f'{what} lost', f'{found.loss.words} against the {against}, '
                 f'on {judged_on(found)}; bound {found.bound:g} points '
                 f'({found.bound_name})'),
                ('verdict', found.words)]
        if self.compression is not None and self.compression.candidates \
                and not found.judged_apart:
            rows.append(('judged on', 'the images that chose the file: there '
                         'are too few to judge it on others'))
        return rows


def judged_on(verdict: Verdict) -> str:
    """What a verdict rests on, in words."""
    count = f'{verdict.loss.images} images'
    return f'the other {count}' if verdict.judged_apart else \
        f'the {count}'


def _own(rounding: Optional[float]) -> str:
    return '' if rounding is None else \
        f" (torch's own fp32 is {rounding:.2e} from fp64)"


def _percent(found: Optional[float], images: int) -> str:
    return 'unknown' if found is None else share(100 * found, images, ' %')
