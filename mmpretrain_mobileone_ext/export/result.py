"""What an export made: the file and its figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from ..coreml.swift import module_name
from ..utils.accuracy import DEFAULT_DROP, Verdict, verdict_on
from ..utils.text import NBSP, share, size, worth
from .compression import Compression
from .job import Job
from .options import ExportOptions
from .verify import KeptOp, Verification, VerifiedFile

_ANE = "the arithmetic of the {chip}'s Neural Engine, as far as it is public"


@dataclass(frozen=True)
class ExportResult:
    """A verified file.

    Attributes:
        job: what it was made from.
        made: the file as it was made. The workspace is gone: see :attr:`path` for where it is.
        compression: what was tried and chosen; None without compression.
        notes: what a user should know, in words.
    """

    job: Job
    made: VerifiedFile
    compression: Optional[Compression] = None
    notes: tuple[str, ...] = ()

    @property
    def path(self) -> Path:
        """The file or package."""
        return self.options.out

    @property
    def size_bytes(self) -> int:
        """Bytes of all of it."""
        return self.made.size_bytes

    @property
    def plain_bytes(self) -> Optional[int]:
        """What it would be without compression."""
        return None if self.compression is None else self.compression.plain.size_bytes

    @property
    def options(self) -> ExportOptions:
        """What was asked for."""
        return self.job.options

    @property
    def verification(self) -> Verification:
        """Parity and accuracy on images."""
        return self.made.verification

    @property
    def kept(self) -> tuple[KeptOp, ...]:
        """Operations that stay in fp32, where precision is 'auto'."""
        return self.made.kept

    @property
    def system(self) -> str:
        """Oldest iOS that runs the file."""
        return self.verification.system

    @property
    def tolerance(self) -> str:
        """Name of the bound that the file was held to."""
        if self.compression is not None:
            return self.compression.bound
        return self.verification.tolerance

    @property
    def verdict(self) -> Optional[Verdict]:
        """Whether it keeps the accuracy; None where it has no classes.

        Against the file before compression; without any, against the network.
        """
        if self.compression is not None:
            return self.compression.verdict
        answers = self.verification.answers
        if answers is None:
            return None
        return verdict_on(answers.of_reference, answers, DEFAULT_DROP, 'default')

    def rows(self) -> list[tuple[str, str]]:
        """Name and value, in the order of the summary table."""
        found = self.verification
        return [
            *self._file_rows(),
            *self._parity_rows(),
            *self._compression_rows(),
            *self._verdict_rows(),
            *self._swift_rows(),
            *(('in fp32', f'{op.name} ({op.type}): {op.why}') for op in self.kept),
            *([(f'beyond {found.range}', ', '.join(found.overflows))] if found.overflows else []),
            *(('note', note) for note in self.notes),
        ]

    def _file_rows(self) -> list[tuple[str, str]]:
        pre, labels = self.job.preprocessing, self.job.labels
        height, width = pre.size
        is_image = self.options.input == 'image'
        layout = pre.layout if is_image else f'tensor, {pre.channels} channels'
        ops = self.verification.operations
        return [
            ('file', str(self.path)),
            ('size', _size(self.size_bytes)),
            ('format', f'{self.options.format.name}, {self.system} or later'),
            ('precision', self.options.precision),
            ('input', f'image, {height} x {width}, {layout}'),
            ('normalization', self.job.prepared.normalization),
            ('classes', f'{len(labels.names)} ({labels.origin})'),
            (
                'operations',
                f'{sum(ops.values())}, of them {ops.get("conv", ops.get("conv2d", 0))} conv',
            ),
        ]

    def _parity_rows(self) -> list[tuple[str, str]]:
        found, parity = self.verification, self.verification.parity
        images, agreement = parity.num_samples, parity.top1_agreement
        rounding, top1 = '', 'no labels'
        if found.rounding is not None:
            rounding = f" (torch's own fp32 is {found.rounding:.2e} from fp64)"
        if found.top1_reference is not None:
            top1 = (
                f'torch {_percent(found.top1_reference, images)}, '
                f'{self.options.format.title} {_percent(found.top1_candidate, images)}'
            )
        return [
            (
                'compared on',
                found.images if agreement is None else f'{found.images}; {worth(images)}',
            ),
            (
                'parity',
                f'relative {parity.relative:.2e}, max abs {parity.max_abs:.2e}, '
                f'PSNR {parity.psnr_db:.1f} dB{rounding}',
            ),
            *([('executed in', _ANE.format(chip=found.chip))] if found.arithmetic == 'ane' else []),
            ('same top-1', _percent(agreement, images)),
            ('top-1', top1),
        ]

    def _compression_rows(self) -> list[tuple[str, str]]:
        found, before = self.compression, self.plain_bytes
        if found is None or before is None:
            return []
        tried = f', {found.tried} files tried on {found.chosen_on}' if found.candidates else ''
        if found.passed_over:
            tried += f'; {found.passed_over} smaller ones fit there, but not on all images'
        ratio = self.size_bytes / before
        return [('compression', f'{found.scheme}: {ratio:.2f} of {_size(before)}{tried}')]

    def _swift_rows(self) -> list[tuple[str, str]]:
        folder = self.options.swift
        if folder is None:
            return []
        return [('Swift package', f'{folder}: import {module_name(None, folder.resolve().name)}')]

    def _verdict_rows(self) -> list[tuple[str, str]]:
        found, compression = self.verdict, self.compression
        if found is None:
            return []
        against = 'network' if compression is None else 'file before compression'
        others = 'the other' if found.judged_apart else 'the'
        rows = [
            (
                f'{"top-1" if found.labelled else "agreement"} lost',
                f'{found.loss.words} against the {against}, on {others} {found.loss.images} '
                f'images; bound {found.bound:g} points ({found.bound_name})',
            ),
            ('verdict', found.words),
        ]
        if compression is not None and compression.candidates and not found.judged_apart:
            reason = 'the images that chose the file: there are too few to judge it on others'
            rows.append(('judged on', reason))
        return rows


def _size(value: int) -> str:
    return size(value).replace(NBSP, ' ')


def _percent(found: Optional[float], images: int) -> str:
    return 'unknown' if found is None else share(100 * found, images, ' %')
