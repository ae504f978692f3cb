"""What goes with an exported file: a Swift package and a report."""
from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Optional

import numpy as np

from ..errors import MobileOneExtError
from ..models import switch_to_deploy
from ..progress import Steps
from .compress import tree_bytes
from .compress_step import Compression
from .export_job import Job
from .export_make import Made

if TYPE_CHECKING:
    from ..report import ReportData
    from ..report.data import Candidate

_GOLDEN = 8  # images with known outputs in the tests of a Swift package


def write_extras(job: Job, made: Made, out: Path, steps: Steps) -> None:
    """Write what ``job`` asks for beside the file that is at ``out``.

    Args:
        made: how the file was made; its workspace still exists.

    Raises:
        MobileOneExtError: says that the file itself is written.
    """
    options = job.options
    try:
        if options.swift is not None:
            with steps.step('write Swift package'):
                _write_swift(job, out)
        if options.report is not None:
            _write_report(job, made, out, steps)
    except MobileOneExtError as error:
        raise type(error)(f'{out} is written, but what goes with it is not: '
                          f'{error}') from error


def _write_swift(job: Job, out: Path) -> None:
    from .swift import write_swift_package
    batch, _ = next(job.images.chunks())
    write_swift_package(out, job.options.swift or out.parent,
                        images=_pictures(job, batch[:_GOLDEN].numpy()),
                        force=job.options.force)


def _pictures(job: Job, batch: np.ndarray) -> Sequence[np.ndarray]:
    """(H, W, 3) in RGB order or (H, W), of (N, C, H, W) in data order."""
    pre = job.preprocessing
    if pre.channels == 1:
        return list(batch[:, 0])
    is_rgb = (pre.layout == 'RGB') != pre.flips
    ordered = batch if is_rgb else batch[:, ::-1]
    return list(np.ascontiguousarray(ordered.transpose(0, 2, 3, 1)))


def _write_report(job: Job, made: Made, out: Path, steps: Steps) -> None:
    from ..report import write_report
    from ..report.assemble import Network, Subject, assemble
    source, plain = job.source, made.plain
    folded = switch_to_deploy(source.model, inplace=False)
    config = source.config
    subject = Subject(
        title=f'{out.name}: {source.config_name}',
        networks=[Network(source.model, source.checkpoint or ''),
                  Network(folded.eval(), note='folded for this page')],
        programs=[*([(plain, 'before compression')] if plain else []),
                  (out, '')],
        split=job.split,
        images=job.images,
        classes=job.labels.names,
        flips=job.preprocessing.flips,
        size=job.preprocessing.size,
        mean=job.preprocessing.mean,
        std=job.preprocessing.std,
        config=source.config_name,
        config_text='' if config is None else config.pretty_text,
        files=((source.checkpoint or '', source.sha256 or ''), ),
        baseline=plain)
    data = _with_searches(assemble(subject, steps), made, out)
    with steps.step('write report'):
        write_report(data, job.options.report or out.parent)


def _with_searches(data: ReportData, made: Made, out: Path) -> ReportData:
    # The last: before compression, the file has the same name.
    own = [row.form for row in data.forms
           if row.file == out.name and row.kind == 'coreml']
    found, verdict = made.compression, made.verdict
    data = replace(
        data,
        chosen=own[-1] if own else None,
        kept_fp32=[(op.name, op.why) for op in made.kept])
    if verdict is not None:
        data = replace(data, accuracy=verdict, max_drop=verdict.bound)
    if found is not None and found.candidates:
        data = replace(
            data, candidates=_candidates(found, made.plain, out),
            chosen_on=found.chosen_on, chosen_images=found.chosen_images)
    return data


def _candidates(found: Compression, plain: Optional[Path],
                out: Path) -> list[Candidate]:
    from ..report.data import Candidate
    # Labels and metadata, which every one of them would get.
    later = tree_bytes(out) - found.bytes
    before = found.plain_bytes if plain is None else tree_bytes(plain)
    return [
        Candidate(
            scheme=c.scheme,
            size_bytes=c.size_bytes + later if c.plan else before,
            top1=None if c.top1 is None else 100 * c.top1,
            agreement=100 * c.agreement,
            fits=c.fits,
            chosen=c.path is not None,
            note=c.reason,
            kind=c.kind,
            lost_points=c.drop_points)
        for c in found.candidates
    ]
