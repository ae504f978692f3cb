"""An export under way: what it works on, how the file is made, what it is."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from torch import nn

from ..coreml.convert import INPUT, convert_and_save
from ..coreml.program.read import read_program
from ..coreml.runtime.load import load_program
from ..coreml.targets import check_target, system_of
from ..errors import ExportError
from ..models.preprocessing import Preprocessing, read_preprocessing
from ..utils.accuracy import DEFAULT_DROP, Verdict, verdict_on
from ..utils.text import NBSP, Steps, share, size, worth
from .compression import Compression, compress
from .data import Images, TestSplit, choose_images, open_split, read_sample
from .network import (
    Prepared,
    count_logits,
    feature_network,
    feature_preprocessing,
    prepare,
    prepare_features,
)
from .options import ExportOptions
from .precision import KeptOp, choose_precision
from .source import Labels, Source, choose_labels, load_source
from .verify import Judge, Network, Verification, classifier, compare_at, in_double, tolerance_of

PathLike = Union[str, Path]


@dataclass(frozen=True)
class Job:
    """An export before anything is converted.

    Attributes:
        options: what was asked for.
        source: the network as loaded.
        split: the test split as the config describes it.
        preprocessing: what is baked in.
        labels: class labels; none where features are exported.
        images: what files are compared on.
        prepared: the folded network.
    """

    options: ExportOptions
    source: Source
    split: TestSplit
    preprocessing: Preprocessing
    labels: Labels
    images: Images
    prepared: Prepared

    @property
    def network(self) -> Network:
        """The network as files are compared with it."""
        return self._network(self.source.model, torch.float32)

    def exact_network(self) -> Network:
        """:attr:`network` in fp64, which shows its own rounding."""
        return self._network(in_double(self.source.model), torch.float64)

    def _network(self, model: nn.Module, dtype: torch.dtype) -> Network:
        if self.options.outputs == 'features':
            return feature_network(model, self.prepared.features, dtype)
        return classifier(model, dtype)


def load_job(
    config: Union[PathLike, Config, nn.Module],
    checkpoint: Optional[PathLike],
    options: ExportOptions,
    cfg_options: Optional[Mapping[str, Any]],
    steps: Steps,
) -> Job:
    """Load, fold and describe what ``options`` ask for.

    Raises:
        ExportError: a request or a model that cannot be exported.
        CheckpointError: the checkpoint is unsafe or does not fit.
    """
    with steps.step('load'):
        source = load_source(config, checkpoint, cfg_options, options.outputs)
        split = _open(source, options, not isinstance(config, nn.Module))
        pre = _preprocessing(source, split, options)
        options.input_shapes(pre)  # refuses what no program can take
        labels = _labels(source, split, pre, options)
        images = choose_images(split, options.verify_data, pre.shape)
    with steps.step('fold'):
        prepared = _prepared(source.model, pre, options)
    return Job(options, source, split, pre, labels, images, prepared)


def _labels(source: Source, split: TestSplit, pre: Preprocessing, options: ExportOptions) -> Labels:
    if options.outputs == 'features':
        return Labels((), 'none: features')
    return choose_labels(
        options.classes,
        [('checkpoint', source.classes), *split.labels],
        count_logits(source.model, pre.shape),
    )


def _prepared(model: nn.Module, pre: Preprocessing, options: ExportOptions) -> Prepared:
    if options.outputs == 'features':
        return prepare_features(model, pre)
    return prepare(model, pre)


def _open(source: Source, options: ExportOptions, has_config: bool) -> TestSplit:
    # A module may know its config, but its data may well be elsewhere.
    read = options.verify_data == 'test' or (has_config and options.verify_data != 'none')
    return open_split(source.config, options.image_size, read)


def _preprocessing(source: Source, split: TestSplit, options: ExportOptions) -> Preprocessing:
    channels, size = _channels(source.model), options.image_size or split.size
    if split.dataset is not None:
        image, _ = read_sample(split, 0)
        channels = image.shape[0]
        size = options.image_size or (image.shape[1], image.shape[2])
    if size is None:
        raise ExportError(f'{split.no_size}; give --image-size')
    pre = _read(source.model, channels, size, split, options)
    for extra in options.extra_sizes:  # each may need another padding
        _read(source.model, channels, extra, split, options)
    if options.input == 'image' and pre.layout is None:
        raise ExportError(_no_layout(channels))
    return pre


def _read(
    model: nn.Module, channels: int, size: tuple[int, int], split: TestSplit, options: ExportOptions
) -> Preprocessing:
    if options.outputs == 'features':
        return feature_preprocessing(model, channels, size, split.data_order)
    return read_preprocessing(
        model.get_submodule('data_preprocessor'), channels, size, split.data_order
    )


def _no_layout(channels: int) -> str:
    if channels not in (1, 3):
        return (
            f'the network takes {channels} channels, but an image has 1 or 3; give --input tensor'
        )
    return (
        'the channel order is unknown, since the test pipeline loads no '
        'image file; give --input tensor'
    )


def _channels(model: nn.Module) -> int:
    """Input channels, by the first convolution."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return convs[0].in_channels if convs else 3


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
        return (
            None
            if answers is None
            else verdict_on(answers.of_reference, answers, DEFAULT_DROP, 'default')
        )


def make(job: Job, folder: Path, steps: Steps) -> Made:
    """Make the file that ``job`` asks for in ``folder``.

    Raises:
        ExportError: coremltools cannot convert the network, or the system
            asked for does not run the result.
        ParityError: the file predicts otherwise than the network, or
            compression costs more than it may.
        ProgramError: the file uses an operation that cannot be executed.
    """
    judge = Judge(job.network, job.preprocessing, job.images, job.exact_network)
    if job.options.precision == 'auto':
        made = _mixed(job, judge, folder, steps)
    else:
        made = _uniform(job, judge, folder, steps)
    _check_shapes(job, made, steps)
    if job.options.compress != 'none':
        found = compress(made.path, made.verification, judge, job.options, folder, steps)
        made = replace(
            made,
            path=found.path,
            plain=made.path,
            before=made.verification,
            verification=found.verification,
            compression=found,
        )
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
            convert,
            lambda path: judge.score(path, 'auto'),
            tolerance_of('auto'),
            {INPUT: judge.sample(_SAMPLES)},
            advance,
        )
    return Made(choice.path, choice.verification, choice.kept)


def _convert(job: Job, path: Path, keep_fp32: frozenset[str] = frozenset()) -> None:
    convert_and_save(
        job.prepared, job.preprocessing, job.labels.names, job.options, path, keep_fp32
    )


def _check_shapes(job: Job, made: Made, steps: Steps) -> None:
    """Compare at all further shapes that the program accepts."""
    others = job.options.input_shapes(job.preprocessing)[1:]
    if not others:
        return
    precision = job.options.precision
    loaded = load_program(made.path, arithmetic='fp32' if precision == 'fp32' else 'fp16')
    with steps.step('verify other shapes', total=len(others)) as advance:
        for shape in others:
            compare_at(loaded, job.network, shape, job.preprocessing.flips).require(
                made.verification.bound,
                f'nothing is written, at {shape} (N, C, H, W) the program differs from the network',
            )
            advance(1)


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
        layout = (
            self.preprocessing.layout
            if self.options.input == 'image'
            else f'tensor, {self.preprocessing.channels} channels'
        )
        rows = [
            ('file', str(self.path)),
            ('size', size(self.size_bytes).replace(NBSP, ' ')),
            ('format', f'{self.options.format}, {self.system} or later'),
            ('precision', self.options.precision),
            ('input', f'image, {height} x {width}, {layout}'),
            ('normalization', self.normalization),
            ('classes', f'{len(self.labels.names)} ({self.labels.origin})'),
            ('operations', f'{sum(ops.values())}, of them {ops.get("conv", 0)} conv'),
            (
                'compared on',
                v.images if p.top1_agreement is None else f'{v.images}; {worth(p.num_samples)}',
            ),
            (
                'parity',
                f'relative {p.relative:.2e}, max abs '
                f'{p.max_abs:.2e}, PSNR {p.psnr_db:.1f} dB'
                f'{_own(v.rounding)}',
            ),
            ('same top-1', _percent(p.top1_agreement, p.num_samples)),
            (
                'top-1',
                'no labels'
                if v.top1_reference is None
                else f'torch {_percent(v.top1_reference, p.num_samples)}, Core ML '
                f'{_percent(v.top1_candidate, p.num_samples)}',
            ),
        ]
        rows += [*self._compression_rows(), *self._verdict_rows()]
        rows += [('in fp32', f'{op.name} ({op.type}): {op.why}') for op in self.kept]
        if v.overflows:
            rows.append(('beyond fp16', ', '.join(v.overflows)))
        return [*rows, *(('note', note) for note in self.notes)]

    def _compression_rows(self) -> list[tuple[str, str]]:
        found = self.compression
        if found is None:
            return []
        tried = f', {found.tried} files tried on {found.chosen_on}' if found.candidates else ''
        if found.passed_over:
            tried += f'; {found.passed_over} smaller ones fit there, but not on all images'
        before = self.plain_bytes or found.plain_bytes
        return [
            (
                'compression',
                f'{found.scheme}: '
                f'{self.size_bytes / before:.2f} of '
                f'{size(before).replace(NBSP, " ")}{tried}',
            )
        ]

    def _verdict_rows(self) -> list[tuple[str, str]]:
        found = self.verdict
        if found is None:
            return []
        what = 'top-1' if found.labelled else 'agreement'
        against = 'network' if self.compression is None else 'file before compression'
        rows = [
            (
                f'{what} lost',
                f'{found.loss.words} against the {against}, '
                f'on {judged_on(found)}; bound {found.bound:g} points '
                f'({found.bound_name})',
            ),
            ('verdict', found.words),
        ]
        if self.compression is not None and self.compression.candidates and not found.judged_apart:
            rows.append(
                (
                    'judged on',
                    'the images that chose the file: there are too few to judge it on others',
                )
            )
        return rows


def judged_on(verdict: Verdict) -> str:
    """What a verdict rests on, in words."""
    count = f'{verdict.loss.images} images'
    return f'the other {count}' if verdict.judged_apart else f'the {count}'


def _own(rounding: Optional[float]) -> str:
    return '' if rounding is None else f" (torch's own fp32 is {rounding:.2e} from fp64)"


def _percent(found: Optional[float], images: int) -> str:
    return 'unknown' if found is None else share(100 * found, images, ' %')
