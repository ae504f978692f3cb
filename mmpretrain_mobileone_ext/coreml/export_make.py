"""From a job to a verified file: convert, choose precision, compress."""
from __future__ import annotations

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Optional

from ..accuracy import DEFAULT_DROP, Verdict, verdict_on
from ..progress import Steps
from .compress_step import Compression, compress
from .convert import INPUT, convert_and_save
from .export_job import Job
from .precision import KeptOp, choose_precision
from .program import read_program
from .requirements import check_target
from .runtime import load_program
from .shape_verify import compare_at
from .shapes import input_shapes
from .verify import Judge, Verification, tolerance_of

_SAMPLES = 16  # images on which sets of fp32 operations are proposed


@dataclass(frozen=True)
class Made:
    """A verified file that has no name yet.

    Attributes:
        path: in the workspace.
        verification: of this file.
        kept: operations that stay in fp32, where precision is 'auto'.
        plain: the file before compression, which stays in the workspace.
        before: its verification.
        compression: what was tried; None without compression.
    """
    path: Path
    verification: Verification
    kept: tuple[KeptOp, ...] = ()
    plain: Optional[Path] = None
    before: Optional[Verification] = None
    compression: Optional[Compression] = None

    @property
    def verdict(self) -> Optional[Verdict]:
        """Whether it keeps the accuracy; None where it has no classes.

        Against the file before compression; without any, against the
        network.
        """
        if self.compression is not None:
            return self.compression.verdict
        answers = self.verification.answers
        return None if answers is None else verdict_on(
            answers.of_reference, answers, DEFAULT_DROP, 'default')


def make(job: Job, folder: Path, steps: Steps) -> Made:
    """Make the file that ``job`` asks for in ``folder``.

    Raises:
        ExportError: coremltools cannot convert the network, or the system
            asked for does not run the result.
        ParityError: the file predicts otherwise than the network, or
            compression costs more than it may.
        ProgramError: the file uses an operation that cannot be executed.
    """
    judge = Judge(job.network, job.preprocessing, job.images,
                  job.exact_network)
    if job.options.precision == 'auto':
        made = _mixed(job, judge, folder, steps)
    else:
        made = _uniform(job, judge, folder, steps)
    _check_shapes(job, made, steps)
    if job.options.compress != 'none':
        found = compress(made.path, made.verification, judge, job.options,
                         folder, steps)
        made = replace(made, path=found.path, plain=made.path,
                       before=made.verification,
                       verification=found.verification, compression=found)
    if job.options.format == 'mlprogram':
        check_target(read_program(made.path), job.options.deployment_target)
    return made


def _uniform(job: Job, judge: Judge, folder: Path, steps: Steps) -> Made:
    """The file with one precision throughout."""
    path = folder / job.options.out.name
    with steps.step('convert'):
        _convert(job, path)
    with steps.step('verify', total=len(job.images)) as advance:
        found = judge.score(path, job.options.precision, advance)
    found.require()
    return Made(path, found)


def _mixed(job: Job, judge: Judge, folder: Path, steps: Steps) -> Made:
    """The file with the fewest operations in fp32 that is good enough."""
    numbers = itertools.count()

    def convert(keep: frozenset[str]) -> Path:
        path = folder / f'precision-{next(numbers)}' / job.options.out.name
        path.parent.mkdir()
        _convert(job, path, keep)
        return path

    with steps.step('convert and verify, precision auto') as advance:
        choice = choose_precision(
            convert, lambda path: judge.score(path, 'auto'),
            tolerance_of('auto'), {INPUT: judge.sample(_SAMPLES)}, advance)
    return Made(choice.path, choice.verification, choice.kept)


def _convert(job: Job, path: Path,
             keep_fp32: frozenset[str] = frozenset()) -> None:
    convert_and_save(job.prepared, job.preprocessing, job.labels.names,
                     job.options, path, keep_fp32)


def _check_shapes(job: Job, made: Made, steps: Steps) -> None:
    """Compare at all further shapes that the program accepts."""
    others = input_shapes(job.preprocessing, job.options)[1:]
    if not others:
        return
    precision = job.options.precision
    loaded = load_program(
        made.path, arithmetic='fp32' if precision == 'fp32' else 'fp16')
    with steps.step('verify other shapes', total=len(others)) as advance:
        for shape in others:
            compare_at(loaded, job.network, shape,
                       job.preprocessing.flips).require(
                           made.verification.bound,
                           f'nothing is written, at {shape} (N, C, H, W) '
                           'the program differs from the network')
            advance(1)
