"""Write into an exported file what it is and how it was made."""
from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from .export_job import Job
from .export_result import ExportResult
from .metadata import in_words, versions, write_metadata
from .preview import preview_metadata
from .program import read_program


def describe(made: Path, result: ExportResult, job: Job) -> None:
    """Set the metadata of the file at ``made``."""
    pre, options, source = job.preprocessing, job.options, job.source
    found = result.verification
    words = in_words(job.split.steps, pre.size)
    layout = pre.layout if options.input == 'image' else 'tensor'
    user = dict(
        classes=job.labels.names,
        classes_origin=job.labels.origin,
        preprocessing=words,
        pipeline=job.split.steps,
        input_layout=layout,
        mean=pre.mean,
        std=pre.std,
        normalization=job.prepared.normalization,
        precision=options.precision,
        in_fp32=[asdict(op) for op in result.kept],
        compute_units=options.compute_units,
        deployment_target=result.system,
        config=source.config_name,
        source_checkpoint=source.checkpoint,
        source_sha256=source.sha256,
        parity=dict(
            found.parity.to_dict(),
            tolerance=result.tolerance,
            images=found.images),
        top1=dict(torch=found.top1_reference, coreml=found.top1_candidate),
        versions=versions(),
        **preview_metadata(read_program(made)))
    if result.verdict is not None:
        user['accuracy'] = result.verdict.to_dict()
    if result.compression is not None:
        user['compression'] = result.compression.scheme
    standard = dict(
        author=options.author or 'mmpretrain_mobileone_ext',
        license=options.license or 'not stated',
        versionString=versions()['mmpretrain_mobileone_ext'],
        shortDescription=f'{source.config_name}: {_kind(job)}')
    write_metadata(made, user, standard,
                   f'{layout}, {pre.size[0]} x {pre.size[1]} (H x W), pixels '
                   f'0 to 255. {words}')


def _kind(job: Job) -> str:
    if job.options.outputs == 'features':
        return f'features {", ".join(job.prepared.features)} of a backbone'
    return f'image classifier with {len(job.labels.names)} classes'
