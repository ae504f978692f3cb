"""Export an image classifier: the story of an export on one page.

:func:`run_export` tells it in order: load the network, convert it and compare the file with it,
compress, describe the file, give it its name, and write the Swift package and the report that go
with it.
"""

from __future__ import annotations

import inspect
import itertools
import textwrap
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Optional, Union

import numpy as np
from mmengine.config import Config
from torch import nn

from .coreml.convert import INPUT, LABEL, PROBABILITIES
from .coreml.metadata import CHANNEL_ORDER, accuracy_in_words, classes_in_words, in_words, versions
from .errors import ExportError, MobileOneExtError
from .export.compression import compress
from .export.job import Job, load_job
from .export.options import OPTIONS, ExportOptions, explained
from .export.precision import choose_precision, first_that_passes
from .export.result import ExportResult
from .export.verify import Judge, VerifiedFile, compare_at, load
from .models import switch_to_deploy
from .utils.checks import boolean, mapping, path
from .utils.explain import check_not_swapped
from .utils.files import PathLike, install, tree_bytes, workspace
from .utils.machine import untouched_rng
from .utils.text import Steps

if TYPE_CHECKING:
    from .report import ReportData
    from .report.data import Candidate

_SAMPLES = 16  # images on which sets of fp32 operations are proposed
_DIGEST = 12  # hexadecimal digits of a checkpoint's digest that name its weights
_GOLDEN = 8  # images with known outputs in the tests of a Swift package


def _documented(function: Callable[..., Path]) -> Callable[..., Path]:
    """Give a function the signature of all options, and their help where it says "options: ..."."""
    signature = inspect.signature(function)
    given = [p for p in signature.parameters.values() if p.kind is not p.VAR_KEYWORD]
    own = {p.name for p in given}
    more = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=option.default, annotation=option.type
        )
        for name, option in OPTIONS.items()
        if name not in own
    ]
    function.__signature__ = signature.replace(parameters=[*given, *more])  # type: ignore[attr-defined]
    if function.__doc__ is not None:  # python -OO has none
        lines = [
            textwrap.fill(
                f'{p.name}: {explained(p.name)}.',
                100,
                initial_indent=' ' * 8,
                subsequent_indent=' ' * 12,
            )
            for p in more
        ]
        function.__doc__ = function.__doc__.replace('        options: ...', '\n'.join(lines))
    return function


@_documented
def export_coreml(
    config: Union[PathLike, Config, nn.Module],
    checkpoint: Optional[PathLike] = None,
    out: Optional[PathLike] = None,
    *,
    cfg_options: Optional[Mapping[str, Any]] = None,
    progress: bool = False,
    **options: Any,
) -> Path:
    """Export a classifier to ``out`` and prove that it predicts the same.

    Branches are folded, and mean, std and channel order are baked in, so that the program takes the
    pixels (1, C, H, W), 0 to 255, that a phone has. The saved file is executed and compared with
    the network on images; only then it gets its name.

    Args:
        config: mmpretrain config file, ``Config``, or a built classifier (never changed). A module
            has no data set: noise is compared, whatever the number in ``verify_data``.
        checkpoint: branch or deploy checkpoint; may be None for a module.
        out: ``.mlpackage`` (mlprogram) or ``.mlmodel`` (neuralnetwork).
        cfg_options: dotted keys to values, merged into the config.
        progress: report steps on stderr.
        options: ...

    Returns:
        ``out``.

    Raises:
        ExportError: a request or a model that cannot be exported.
        CheckpointError: the checkpoint is unsafe or does not fit.
        ParityError: the file predicts otherwise; nothing is written.
        ProgramError: coremltools is missing, or the converted program has an operation that cannot
            be executed here.
    """
    boolean('progress', progress, ExportError)
    if cfg_options is not None:
        mapping('cfg_options', cfg_options, ExportError)
    if checkpoint is not None:
        path('checkpoint', checkpoint, ExportError)
    for name in options:
        if name not in OPTIONS:
            raise TypeError(f'export_coreml() got an unexpected keyword argument {name!r}')
    check_not_swapped(config)
    asked = ExportOptions(out, **options)  # type: ignore[arg-type]
    return run_export(config, checkpoint, asked, cfg_options, progress).path


def run_export(
    config: Union[PathLike, Config, nn.Module],
    checkpoint: Optional[PathLike],
    options: ExportOptions,
    cfg_options: Optional[Mapping[str, Any]] = None,
    progress: bool = False,
) -> ExportResult:
    """As :func:`export_coreml`, which see, with all figures returned."""
    options.format.require()  # before minutes are spent without it
    options.check_apart_from(config=config, checkpoint=checkpoint)
    steps = Steps(progress)
    with untouched_rng():
        job = load_job(config, checkpoint, options, cfg_options, steps)
        with workspace(options.out, ExportError) as folder:
            result = _make(job, folder, steps)
            with steps.step('write'):
                result = _described(result)
                install(result.made.path, options.out, options.force)
            _write_extras(result, steps)
    return result


def _make(job: Job, folder: Path, steps: Steps) -> ExportResult:
    """A file that is verified, and compressed where that is asked for."""
    judge, options = job.judge, job.options
    make = _mixed if options.precision == 'auto' else _uniform
    made, compression = make(job, judge, folder, steps), None
    _check_shapes(job, made, steps)
    if options.compress != 'none':
        layers = job.prepared.trained
        made, compression = compress(made, judge, options, folder, steps, layers)
    notes = options.format.check_and_note(
        options.format.describe(made.path), options.deployment_target, options.compute_units
    )
    return ExportResult(job, made, compression, job.prepared.notes + notes)


def _uniform(job: Job, judge: Judge, folder: Path, steps: Steps) -> VerifiedFile:
    """The file with one precision throughout."""
    target = folder / job.options.out.name
    with steps.step('convert'):
        _convert(job, target)
    with steps.step('verify', total=len(job.images)) as advance:
        found = judge.score(target, job.options.precision, advance)
    found.require()
    return VerifiedFile(target, found)


def _mixed(job: Job, judge: Judge, folder: Path, steps: Steps) -> VerifiedFile:
    """The file with the fewest operations in fp32 that is good enough."""
    numbers = itertools.count()

    def convert(keep: frozenset[str]) -> Path:
        target = folder / f'precision-{next(numbers)}' / job.options.out.name
        target.parent.mkdir()
        _convert(job, target, keep)
        return target

    format, tolerance = job.options.format, judge.tolerance('auto')
    with steps.step('convert and verify, precision auto') as advance:
        if not format.opens:
            sample = judge.sample(_SAMPLES)
            return first_that_passes(
                lambda keep: VerifiedFile(made := convert(keep), judge.score(made, 'auto')),
                format.fp32_proposals(job.prepared, job.preprocessing, sample, tolerance),
            )
        return choose_precision(
            convert,
            lambda made: judge.score(made, 'auto'),
            tolerance,
            {INPUT: judge.sample(_SAMPLES)},
            advance,
            job.options.verify_arithmetic,
        )


def _convert(job: Job, target: Path, keep_fp32: frozenset[str] = frozenset()) -> None:
    job.options.format.convert(
        job.prepared, job.preprocessing, job.labels.names, job.options, target, keep_fp32
    )


def _check_shapes(job: Job, made: VerifiedFile, steps: Steps) -> None:
    """Compare at all further shapes that the program accepts."""
    others = job.options.input_shapes(job.preprocessing)[1:]
    if not others:
        return
    loaded = load(made.path, job.options.precision, job.options.verify_arithmetic)
    with steps.step('verify other shapes', total=len(others)) as advance:
        for shape in others:
            compare_at(loaded, job.network, shape, job.preprocessing.flips).require(
                made.verification.bound,
                f'nothing is written, at {shape} (N, C, H, W) the program differs from the network',
            )
            advance(1)


def _described(result: ExportResult) -> ExportResult:
    """With metadata in its files, and their sizes known."""
    compression = result.compression
    if compression is not None:
        # What it would be without compression: the ratio compares whole files.
        plain = write_description(ExportResult(result.job, compression.plain))
        result = replace(result, compression=replace(compression, plain=plain))
    return replace(result, made=write_description(result))


def write_description(result: ExportResult) -> VerifiedFile:
    """Write the metadata of the file that was made, and measure it."""
    job, found = result.job, result.verification
    pre, options, source = job.preprocessing, job.options, job.source
    words = in_words(job.split.steps, pre.size)
    layout = pre.layout if options.input == 'image' else 'tensor'
    user = dict(
        classes=job.labels.names,
        classes_origin=job.labels.origin,
        preprocessing=words,
        pipeline=job.split.steps,
        input_layout=layout,
        **{CHANNEL_ORDER: pre.layout},
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
            images=found.images,
            arithmetic=found.arithmetic,
            **({'chip': found.chip} if found.chip else {}),
        ),
        top1=dict(torch=found.top1_reference, coreml=found.top1_candidate),
        versions=versions(),
    )
    if result.verdict is not None:
        user['accuracy'] = result.verdict.to_dict()
    if result.compression is not None:
        user['compression'] = result.compression.scheme
    made = result.made
    described = f'{layout}, {pre.size[0]} x {pre.size[1]} (H x W), pixels 0 to 255. {words}'
    options.format.write_metadata(
        made.path, user, _shown_by_xcode(result), described, _outputs_in_words(result)
    )
    return replace(made, size_bytes=tree_bytes(made.path))


def _shown_by_xcode(result: ExportResult) -> dict[str, str]:
    """Author, license, version and description: as asked for, else what is known."""
    options, source = result.options, result.job.source
    weights = f'weights {source.sha256[:_DIGEST]}' if source.sha256 else 'not stated'
    return dict(
        author=options.author or 'exported by mmpretrain_mobileone_ext',
        license=options.license or 'not stated',
        versionString=options.model_version or weights,
        shortDescription=options.description or _in_sentences(result),
    )


def _in_sentences(result: ExportResult) -> str:
    job, found = result.job, result.verification
    height, width = job.preprocessing.size
    if result.options.outputs == 'features':
        kind = f'features {", ".join(job.prepared.features)} of a backbone'
    else:
        kind = f'image classifier with {classes_in_words(job.labels.names)}'
    size = f'Input {height} x {width} pixels (H x W).'
    accuracy = accuracy_in_words(found.answers, found.images)
    return ' '.join(filter(None, (f'{job.source.config_name}: {kind}.', size, accuracy)))


def _outputs_in_words(result: ExportResult) -> dict[str, str]:
    """What each output holds, by its name."""
    job, options = result.job, result.options
    if options.outputs == 'features':
        text = 'Feature map of the backbone, float32 (N, C, H, W)'
        return dict.fromkeys(job.prepared.features, text)
    count = len(job.labels.names)
    if not options.is_classifier:
        text = f'Probability of each of {count} classes, 0 to 1, (N, classes), in their order'
        return {PROBABILITIES: text}
    return {
        LABEL: f'The likeliest of {count} classes',
        PROBABILITIES: f'Probability of each of {count} classes, 0 to 1, by its label; sum 1',
    }


def _write_extras(result: ExportResult, steps: Steps) -> None:
    """Write what was asked for beside the file, which is in its place."""
    options = result.options
    try:
        if options.swift is not None:
            with steps.step('write Swift package'):
                _write_swift(result.job, options.swift)
        if options.report is not None:
            _write_report(result, options.report, steps)
    except MobileOneExtError as error:
        raise type(error)(
            f'{options.out} is written, but what goes with it is not: {error}'
        ) from error


def _write_swift(job: Job, folder: Path) -> None:
    from .coreml.swift import write_swift_package

    batch, _ = next(job.images.chunks())
    images = _pictures(job, batch[:_GOLDEN].numpy())
    write_swift_package(job.options.out, folder, images=images, force=job.options.force)


def _pictures(job: Job, batch: np.ndarray) -> Sequence[np.ndarray]:
    """(H, W, 3) in RGB order or (H, W), of (N, C, H, W) in data order."""
    pre = job.preprocessing
    if pre.channels == 1:
        return list(batch[:, 0])
    is_rgb = (pre.layout == 'RGB') != pre.flips
    ordered = batch if is_rgb else batch[:, ::-1]
    return list(np.ascontiguousarray(ordered.transpose(0, 2, 3, 1)))


def _write_report(result: ExportResult, folder: Path, steps: Steps) -> None:
    from .report import write_report
    from .report.collect import Network, Subject, assemble

    job, out = result.job, result.path
    source, pre = job.source, job.preprocessing
    folded = switch_to_deploy(source.model, inplace=False)
    plain = None
    # A search may find nothing smaller: then the file itself is the plain one.
    if result.compression is not None and result.compression.plain.path != result.made.path:
        plain = result.compression.plain.path
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
        flips=pre.flips,
        size=pre.size,
        mean=pre.mean,
        std=pre.std,
        config=source.config_name,
        config_text='' if source.config is None else source.config.pretty_text,
        files=((source.checkpoint or '', source.sha256 or ''),),
        baseline=plain,
    )
    data = _with_searches(assemble(subject, steps), result)
    with steps.step('write report'):
        write_report(data, folder)


def _with_searches(data: ReportData, result: ExportResult) -> ReportData:
    # The last: before compression, the file has the same name.
    own = [r.form for r in data.forms if r.file == result.path.name and r.kind == 'coreml']
    found, verdict = result.compression, result.verdict
    data = replace(
        data, chosen=own[-1] if own else None, kept_fp32=[(op.name, op.why) for op in result.kept]
    )
    if verdict is not None:
        data = replace(data, accuracy=verdict, max_drop=verdict.bound)
    if found is not None and found.candidates:
        data = replace(
            data,
            candidates=_candidates(result),
            chosen_on=found.chosen_on,
            chosen_images=found.chosen_images,
        )
    return data


def _candidates(result: ExportResult) -> list[Candidate]:
    from .report.data import Candidate

    found = result.compression
    assert found is not None
    # Labels and metadata, which every one of them would get.
    later = result.size_bytes - found.chosen.size_bytes
    return [
        Candidate(
            scheme=c.scheme,
            size_bytes=c.size_bytes + later if c.plan or c.path else found.plain.size_bytes,
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
