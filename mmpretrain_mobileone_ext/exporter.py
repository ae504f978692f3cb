"""Export an image classifier to Core ML: the story of an export on one page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from mmengine.config import Config
from torch import nn

from .coreml.metadata import in_words, preview_metadata, versions, write_metadata
from .coreml.program import quiet
from .coreml.program.read import read_program
from .coreml.targets import DEFAULT_TARGET
from .coreml.targets import notes as notes_on
from .errors import ExportError, MobileOneExtError
from .export.compression import Compression
from .export.job import ExportResult, Job, Made, load_job, make
from .export.options import Classes, ExportOptions, ImageSize
from .models import switch_to_deploy
from .utils.checks import boolean, mapping, path
from .utils.files import check_apart, install, tree_bytes, workspace
from .utils.machine import untouched_rng
from .utils.text import Steps

if TYPE_CHECKING:
    from .report import ReportData
    from .report.data import Candidate

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
        raise type(error)(f'{out} is written, but what goes with it is not: {error}') from error


def _write_swift(job: Job, out: Path) -> None:
    from .coreml.swift import write_swift_package

    batch, _ = next(job.images.chunks())
    write_swift_package(
        out,
        job.options.swift or out.parent,
        images=_pictures(job, batch[:_GOLDEN].numpy()),
        force=job.options.force,
    )


def _pictures(job: Job, batch: np.ndarray) -> Sequence[np.ndarray]:
    """(H, W, 3) in RGB order or (H, W), of (N, C, H, W) in data order."""
    pre = job.preprocessing
    if pre.channels == 1:
        return list(batch[:, 0])
    is_rgb = (pre.layout == 'RGB') != pre.flips
    ordered = batch if is_rgb else batch[:, ::-1]
    return list(np.ascontiguousarray(ordered.transpose(0, 2, 3, 1)))


def _write_report(job: Job, made: Made, out: Path, steps: Steps) -> None:
    from .report import write_report
    from .report.collect import Network, Subject, assemble

    source, plain = job.source, made.plain
    folded = switch_to_deploy(source.model, inplace=False)
    config = source.config
    subject = Subject(
        title=f'{out.name}: {source.config_name}',
        networks=[
            Network(source.model, source.checkpoint or ''),
            Network(folded.eval(), note='folded for this page'),
        ],
        programs=[*([(plain, 'before compression')] if plain else []), (out, '')],
        split=job.split,
        images=job.images,
        classes=job.labels.names,
        flips=job.preprocessing.flips,
        size=job.preprocessing.size,
        mean=job.preprocessing.mean,
        std=job.preprocessing.std,
        config=source.config_name,
        config_text='' if config is None else config.pretty_text,
        files=((source.checkpoint or '', source.sha256 or ''),),
        baseline=plain,
    )
    data = _with_searches(assemble(subject, steps), made, out)
    with steps.step('write report'):
        write_report(data, job.options.report or out.parent)


def _with_searches(data: ReportData, made: Made, out: Path) -> ReportData:
    # The last: before compression, the file has the same name.
    own = [row.form for row in data.forms if row.file == out.name and row.kind == 'coreml']
    found, verdict = made.compression, made.verdict
    data = replace(
        data, chosen=own[-1] if own else None, kept_fp32=[(op.name, op.why) for op in made.kept]
    )
    if verdict is not None:
        data = replace(data, accuracy=verdict, max_drop=verdict.bound)
    if found is not None and found.candidates:
        data = replace(
            data,
            candidates=_candidates(found, made.plain, out),
            chosen_on=found.chosen_on,
            chosen_images=found.chosen_images,
        )
    return data


def _candidates(found: Compression, plain: Optional[Path], out: Path) -> list[Candidate]:
    from .report.data import Candidate

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
            lost_points=c.drop_points,
        )
        for c in found.candidates
    ]


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
        parity=dict(found.parity.to_dict(), tolerance=result.tolerance, images=found.images),
        top1=dict(torch=found.top1_reference, coreml=found.top1_candidate),
        versions=versions(),
        **preview_metadata(read_program(made)),
    )
    if result.verdict is not None:
        user['accuracy'] = result.verdict.to_dict()
    if result.compression is not None:
        user['compression'] = result.compression.scheme
    standard = dict(
        author=options.author or 'mmpretrain_mobileone_ext',
        license=options.license or 'not stated',
        versionString=versions()['mmpretrain_mobileone_ext'],
        shortDescription=f'{source.config_name}: {_kind(job)}',
    )
    write_metadata(
        made,
        user,
        standard,
        f'{layout}, {pre.size[0]} x {pre.size[1]} (H x W), pixels 0 to 255. {words}',
    )


def _kind(job: Job) -> str:
    if job.options.outputs == 'features':
        return f'features {", ".join(job.prepared.features)} of a backbone'
    return f'image classifier with {len(job.labels.names)} classes'


PathLike = Union[str, Path]


def export_coreml(
    config: Union[PathLike, Config, nn.Module],
    checkpoint: Optional[PathLike] = None,
    out: Optional[PathLike] = None,
    *,
    precision: str = 'fp16',
    deployment_target: str = DEFAULT_TARGET,
    compute_units: str = 'ALL',
    input: str = 'image',
    outputs: str = 'class',
    compress: str = 'none',
    max_drop: Optional[float] = None,
    classes: Classes = None,
    image_size: ImageSize = None,
    extra_sizes: Sequence[ImageSize] = (),
    batch_sizes: Sequence[int] = (1,),
    verify_data: Union[int, str, None] = None,
    swift: Optional[PathLike] = None,
    report: Optional[PathLike] = None,
    force: bool = False,
    cfg_options: Optional[Mapping[str, Any]] = None,
    author: str = '',
    license: str = '',
    progress: bool = False,
) -> Path:
    """Export a classifier to ``out`` and prove that it predicts the same.

    Branches are folded, and mean, std and channel order are baked in, so
    that the program takes the pixels (1, C, H, W), 0 to 255, that a phone
    has. The saved file is executed and compared with the network on images;
    only then it gets its name.

    Args:
        config: mmpretrain config file, ``Config``, or a built classifier
            (never changed). A module has no data set: noise is compared,
            whatever the number in ``verify_data``.
        checkpoint: branch or deploy checkpoint; may be None for a module.
        out: ``.mlpackage`` (mlprogram) or ``.mlmodel`` (neuralnetwork).
        precision: 'fp16', 'fp32', or 'auto': fp16 but for the smallest set
            of operations that the tolerance needs in fp32. For
            ``.mlmodel``, of the weights.
        deployment_target: oldest iOS, 'iOS15' to 'iOS18'; a ``.mlmodel``
            runs on every one of them.
        compute_units: 'ALL', 'CPU_ONLY', 'CPU_AND_GPU' or 'CPU_AND_NE'. A
            file cannot enforce it: it is written into the metadata for the
            app's ``MLModelConfiguration``.
        input: 'image', or 'tensor': float32 (1, C, H, W) with the same
            pixels in the network's channel order.
        outputs: 'class': label and probabilities; 'features': what the
            backbone returns, ``feature_<i>`` for each of its
            ``out_indices``, for detectors and segmentors.
        compress: 'none', a scheme of ``compress.SCHEMES``, or 'auto': the
            smallest file within ``max_drop``.
        max_drop: percentage points of top-1 (of agreement, without labels)
            that compression may cost; None: 0.5 for 'auto', else the
            scheme's own bound.
        classes: file with one label a line, or the labels; those of the
            checkpoint or the data set when None.
        image_size: H or (H, W) in pixels; the test pipeline's when None.
        extra_sizes: further sizes that the program accepts.
        batch_sizes: numbers of images it accepts at a time; more than 1
            needs ``input='tensor'``.
        verify_data: 'test' (whole test split), a number of its images, or
            'none' (no data set is read; seeded noise is compared); None is
            100, and 'test' where ``compress`` is 'auto'.
        swift: folder for a Swift package around the model.
        report: folder for a page and JSON with every form tried.
        force: replace an existing ``out``.
        cfg_options: dotted keys to values, merged into the config.
        author, license: for the metadata.
        progress: report steps on stderr.

    Returns:
        ``out``.

    Raises:
        ExportError: a request or a model that cannot be exported.
        CheckpointError: the checkpoint is unsafe or does not fit.
        ParityError: the file predicts otherwise; nothing is written.
        ProgramError: coremltools is missing, or the converted program has
            an operation that cannot be executed here.
    """
    boolean('progress', progress, ExportError)
    if cfg_options is not None:
        mapping('cfg_options', cfg_options, ExportError)
    if checkpoint is not None:
        path('checkpoint', checkpoint, ExportError)
    options = ExportOptions(
        out=out,  # type: ignore[arg-type]
        precision=precision,
        deployment_target=deployment_target,
        compute_units=compute_units,
        input=input,
        outputs=outputs,
        compress=compress,
        max_drop=max_drop,
        classes=classes,
        image_size=image_size,
        extra_sizes=extra_sizes,
        batch_sizes=batch_sizes,
        verify_data=verify_data,
        swift=swift,  # type: ignore[arg-type]
        report=report,  # type: ignore[arg-type]
        force=force,
        author=author,
        license=license,
    )
    return run_export(config, checkpoint, options, cfg_options, progress).path


def run_export(
    config: Union[PathLike, Config, nn.Module],
    checkpoint: Optional[PathLike],
    options: ExportOptions,
    cfg_options: Optional[Mapping[str, Any]] = None,
    progress: bool = False,
) -> ExportResult:
    """As :func:`export_coreml`, which see, with all figures returned."""
    quiet.coremltools()  # before minutes are spent without it
    check_apart(
        {'out': options.out, 'swift': options.swift, 'report': options.report},
        {'config': config, 'checkpoint': checkpoint},
        ExportError,
        package='out',
        shared=('report',),
    )
    with untouched_rng():
        return _export(config, checkpoint, options, cfg_options, Steps(progress))


def _export(
    config: Union[PathLike, Config, nn.Module],
    checkpoint: Optional[PathLike],
    options: ExportOptions,
    cfg_options: Optional[Mapping[str, Any]],
    steps: Steps,
) -> ExportResult:
    job = load_job(config, checkpoint, options, cfg_options, steps)
    with workspace(options.out, ExportError) as folder:
        made = make(job, folder, steps)
        with steps.step('write'):
            result = _result(job, made)
            describe(made.path, result, job)
            result = replace(
                result, size_bytes=tree_bytes(made.path), plain_bytes=_described(made, result, job)
            )
            install(made.path, options.out, options.force)
        write_extras(job, made, options.out, steps)
    return result


def _result(job: Job, made: Made) -> ExportResult:
    notes = job.prepared.notes
    if job.options.format == 'mlprogram':
        notes += notes_on(read_program(made.path), job.options.compute_units)
    return ExportResult(
        path=job.options.out,
        size_bytes=0,
        options=job.options,
        preprocessing=job.preprocessing,
        labels=job.labels,
        normalization=job.prepared.normalization,
        verification=made.verification,
        notes=notes,
        kept=made.kept,
        compression=made.compression,
        verdict=made.verdict,
    )


def _described(made: Made, result: ExportResult, job: Job) -> Optional[int]:
    """Bytes of the file before compression, as it would be written."""
    if made.plain is None or made.before is None:
        return None
    plain = replace(made, path=made.plain, verification=made.before, compression=None)
    describe(
        made.plain,
        replace(result, verification=made.before, compression=None, verdict=plain.verdict),
        job,
    )
    return tree_bytes(made.plain)
