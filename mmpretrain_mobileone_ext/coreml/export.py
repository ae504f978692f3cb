"""Export an image classifier to Core ML, verified before it has a name."""
from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.config import Config
from torch import nn

from ..errors import ExportError
from ..progress import Steps
from . import quiet
from .atomic import install, workspace
from .convert import convert_and_save
from .export_data import (
    TestSplit,
    choose_images,
    open_split,
    read_sample,
)
from .export_model import count_logits, prepare
from .export_options import (
    DEFAULT_TARGET,
    Classes,
    ExportOptions,
    ImageSize,
)
from .export_result import ExportResult
from .export_source import Source, load_source
from .labels import choose_labels
from .metadata import in_words, versions, write_metadata
from .preprocess import Preprocessing, read_preprocessing
from .verify import verify

PathLike = Union[str, Path]


def export_coreml(config: Union[PathLike, Config, nn.Module],
                  checkpoint: Optional[PathLike] = None,
                  out: Optional[PathLike] = None,
                  *,
                  precision: str = 'fp16',
                  deployment_target: str = DEFAULT_TARGET,
                  compute_units: str = 'ALL',
                  input: str = 'image',
                  classes: Classes = None,
                  image_size: ImageSize = None,
                  verify_data: Union[int, str] = 100,
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
        precision: 'fp16' or 'fp32'; for ``.mlmodel``, of the weights.
        deployment_target: oldest iOS, 'iOS15' to 'iOS18'; a ``.mlmodel``
            runs on every one of them.
        compute_units: 'ALL', 'CPU_ONLY', 'CPU_AND_GPU' or 'CPU_AND_NE'. A
            file cannot enforce it: it is written into the metadata for the
            app's ``MLModelConfiguration``.
        input: 'image', or 'tensor': float32 (1, C, H, W) with the same
            pixels in the network's channel order.
        classes: file with one label a line, or the labels; those of the
            checkpoint or the data set when None.
        image_size: H or (H, W) in pixels; the test pipeline's when None.
        verify_data: 'test' (whole test split), a number of its images, or
            'none' (no data set is read; seeded noise is compared).
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
    options = ExportOptions(
        out=out,  # type: ignore[arg-type]
        precision=precision,
        deployment_target=deployment_target,
        compute_units=compute_units,
        input=input,
        classes=classes,
        image_size=image_size,
        verify_data=verify_data,
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
    steps = Steps(progress)
    with steps.step('load'):
        source = load_source(config, checkpoint, cfg_options)
        split = _open(source, options, not isinstance(config, nn.Module))
        pre = _preprocessing(source, split, options)
        labels = choose_labels(
            options.classes,
            [('checkpoint', source.classes), ('data set', split.classes)],
            count_logits(source.model, pre.shape))
        images = choose_images(split, options.verify_data, pre.shape)
    with steps.step('fold'):
        prepared = prepare(source.model, pre)
    with workspace(options.out) as folder:
        made = folder / options.out.name
        with steps.step('convert'):
            convert_and_save(prepared, pre, labels.names, options, made)
        with steps.step('verify', total=len(images)) as advance:
            found = verify(source.model, pre, images, made,
                           options.precision, advance)
        with steps.step('write'):
            result = ExportResult(
                path=options.out,
                size_bytes=0,
                options=options,
                preprocessing=pre,
                labels=labels,
                normalization=prepared.normalization,
                verification=found,
                notes=prepared.notes)
            _describe(made, result, source, split)
            result = replace(result, size_bytes=_size(made))
            install(made, options.out, options.force)
    return result


def _open(source: Source, options: ExportOptions,
          has_config: bool) -> TestSplit:
    # A module may know its config, but its data may well be elsewhere.
    read = options.verify_data == 'test' or (
        has_config and options.verify_data != 'none')
    return open_split(source.config, options.image_size, read)


def _preprocessing(source: Source, split: TestSplit,
                   options: ExportOptions) -> Preprocessing:
    channels, size = _channels(source.model), options.image_size or split.size
    if split.dataset is not None:
        image, _ = read_sample(split, 0)
        channels = image.shape[0]
        size = options.image_size or (image.shape[1], image.shape[2])
    if size is None:
        raise ExportError('the image size is not in the test pipeline; give '
                          '--image-size')
    pre = read_preprocessing(
        source.model.get_submodule('data_preprocessor'), channels, size,
        split.data_order)
    if options.input == 'image' and pre.layout is None:
        raise ExportError(_no_layout(channels))
    return pre


def _no_layout(channels: int) -> str:
    if channels not in (1, 3):
        return (f'the network takes {channels} channels, but an image has 1 '
                'or 3; give --input tensor')
    return ('the channel order is unknown, since the test pipeline loads no '
            'image file; give --input tensor')


def _channels(model: nn.Module) -> int:
    """Input channels, by the first convolution."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return convs[0].in_channels if convs else 3


def _size(path: Path) -> int:
    files = [path] if path.is_file() else path.rglob('*')
    return sum(f.stat().st_size for f in files if f.is_file())


def _describe(made: Path, result: ExportResult, source: Source,
              split: TestSplit) -> None:
    pre, found, options = (result.preprocessing, result.verification,
                           result.options)
    words = in_words(split.steps, pre.size)
    layout = pre.layout if options.input == 'image' else 'tensor'
    user = dict(
        classes=result.labels.names,
        classes_origin=result.labels.origin,
        preprocessing=words,
        pipeline=split.steps,
        input_layout=layout,
        mean=pre.mean,
        std=pre.std,
        normalization=result.normalization,
        precision=options.precision,
        compute_units=options.compute_units,
        deployment_target=result.system,
        config=source.config_name,
        source_checkpoint=source.checkpoint,
        source_sha256=source.sha256,
        parity=dict(
            found.parity.to_dict(),
            tolerance=found.tolerance,
            images=found.images),
        top1=dict(torch=found.top1_reference, coreml=found.top1_candidate),
        versions=versions())
    standard = dict(
        author=options.author or 'mmpretrain_mobileone_ext',
        license=options.license or 'not stated',
        versionString=versions()['mmpretrain_mobileone_ext'],
        shortDescription=f'{source.config_name}: image classifier with '
        f'{len(result.labels.names)} classes')
    write_metadata(made, user, standard,
                   f'{layout}, {pre.size[0]} x {pre.size[1]} (H x W), pixels '
                   f'0 to 255. {words}')
