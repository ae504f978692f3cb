"""From a job to a verified file: convert, choose precision, compress."""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..progress import Steps
from .convert import convert_and_save
from .export_job import Job
from .verify import Judge, Verification, classifier


@dataclass(frozen=True)
class Made:
    """A verified file that has no name yet.

    Attributes:
        path: in the workspace.
        verification: of this file.
    """
    path: Path
    verification: Verification


def make(job: Job, folder: Path, steps: Steps) -> Made:
    """Make the file that ``job`` asks for in ``folder``.

    Raises:
        ExportError: coremltools cannot convert the network.
        ParityError: the file predicts otherwise than the network.
        ProgramError: the file uses an operation that cannot be executed.
    """
    judge = Judge(classifier(job.source.model), job.preprocessing, job.images)
    path = folder / job.options.out.name
    with steps.step('convert'):
        convert_and_save(job.prepared, job.preprocessing, job.labels.names,
                         job.options, path)
    with steps.step('verify', total=len(job.images)) as advance:
        found = judge.score(path, job.options.precision, advance)
    found.require()
    return Made(path, found)
