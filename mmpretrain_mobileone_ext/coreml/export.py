"""Export an image classifier to Core ML, verified before it has a name."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.config import Config
from torch import nn

from ..atomic_file import workspace
from ..errors import ExportError
from ..option_checks import boolean, mapping, path
from ..output_paths import check_apart
from ..progress import Steps
from . import quiet
from .atomic import install
from .compress import tree_bytes
from .export_describe import describe
from .export_extras import write_extras
from .export_job import Job, load_job
from .export_make import Made, make
from .export_options import (
    DEFAULT_TARGET,
    Classes,
    ExportOptions,
    ImageSize,
)
from .export_result import ExportResult
from .export_source import untouched_rng
from .program import read_program
from .requirements import check_request
from .requirements import notes as notes_on

PathLike = Union[str, Path]


def export_coreml(config: Union[PathLike, Config, nn.Module],
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
                  batch_sizes: Sequence[int] = (1, ),
                  verify_data: Union[int, str, None] = None,
                  swift: Optional[PathLike] = None,
                  report: Optional[PathLike] = None,
                  force: bool = False,
                  cfg_options: Optional[Mapping[str, Any]] = None,
                  author: str = '',
                  license: str = '',
                  progress: bool = False) -> Path:
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
        license=license)
    return run_export(config, checkpoint, options, cfg_options, progress).path


def run_export(config: Union[PathLike, Config, nn.Module],
               checkpoint: Optional[PathLike],
               options: ExportOptions,
               cfg_options: Optional[Mapping[str, Any]] = None,
               progress: bool = False) -> ExportResult:
    """As :func:`export_coreml`, which see, with all figures returned."""
    quiet.coremltools()  # before minutes are spent without it
    check_request(options)
    check_apart({'out': options.out, 'swift': options.swift,
                 'report': options.report},
                {'config': config, 'checkpoint': checkpoint},
                ExportError, package='out', shared=('report', ))
    with untouched_rng():
        return _export(config, checkpoint, options, cfg_options,
                       Steps(progress))


def _export(config: Union[PathLike, Config, nn.Module],
            checkpoint: Optional[PathLike], options: ExportOptions,
            cfg_options: Optional[Mapping[str, Any]],
            steps: Steps) -> ExportResult:
    job = load_job(config, checkpoint, options, cfg_options, steps)
    with workspace(options.out, ExportError) as folder:
        made = make(job, folder, steps)
        with steps.step('write'):
            result = _result(job, made)
            describe(made.path, result, job)
            result = replace(result, size_bytes=tree_bytes(made.path),
                             plain_bytes=_described(made, result, job))
            install(made.path, options.out, options.force)
        write_extras(job, made, options.out, steps)
    return result


def _result(job: Job, made: Made) -> ExportResult:
    notes = job.prepared.notes
    if job.options.format == 'mlprogram':
        notes += notes_on(read_program(made.path), job.options)
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
        verdict=made.verdict)


def _described(made: Made, result: ExportResult, job: Job) -> Optional[int]:
    """Bytes of the file before compression, as it would be written."""
    if made.plain is None or made.before is None:
        return None
    plain = replace(made, path=made.plain, verification=made.before,
                    compression=None)
    describe(made.plain, replace(
        result, verification=made.before, compression=None,
        verdict=plain.verdict), job)
    return tree_bytes(made.plain)
