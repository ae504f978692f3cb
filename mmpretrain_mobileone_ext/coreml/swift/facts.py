"""What the Swift package needs to know of a model, read from its file."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Optional

from ...errors import ExportError
from ...models.preprocessing import step_name
from ...utils.files import PathLike
from ...utils.parity import TOLERANCES, Tolerance
from ..formats import CORE_ML, Format, format_of
from ..metadata import CHANNEL_ORDER
from ..program.graph import Feature, Program, walk
from ..program.package_files import package_files
from ..targets import TARGETS, system_of, version_of

_SAME_NUMBERS = 26  # of iOS and macOS, since then
_LAYOUTS = {'RGB': 'rgb', 'BGR': 'bgr', 'GRAYSCALE': 'grayscale'}
_UNITS = {
    'ALL': 'all',
    'CPU_ONLY': 'cpuOnly',
    'CPU_AND_GPU': 'cpuAndGPU',
    'CPU_AND_NE': 'cpuAndNeuralEngine',
}
#: Steps that change no pixel.
SILENT = frozenset(
    ('PackInputs', 'Collect', 'LoadImageFromFile', 'ToPIL', 'ToNumpy', 'NumpyToPIL', 'PILToNumpy')
)
#: mmcv's backend and interpolation to the Swift enum ``Resampling``.
_RESAMPLINGS = {
    **{
        ('pillow', name): f'.pillow(.{name})'
        for name in ('nearest', 'box', 'bilinear', 'hamming', 'bicubic', 'lanczos')
    },
    ('cv2', 'nearest'): '.openCV(.nearest)',
    ('cv2', 'bilinear'): '.openCV(.linear)',
    ('cv2', 'bicubic'): '.openCV(.cubic)',
}


@dataclass(frozen=True)
class Steps:
    """Steps as Swift expressions.

    Attributes:
        expressions: in order; none where ``missing`` is set.
        missing: the first step that Swift cannot carry out, in words.
    """

    expressions: tuple[str, ...]
    missing: Optional[str] = None


@dataclass(frozen=True)
class ModelFacts:
    """A classifier of images, as its file declares it.

    Attributes:
        path: the file or package.
        sha256: over the names and the content of its files.
        format: 'mlprogram', 'neuralnetwork' or 'aimodel'.
        runtime: what runs it, 'coreml' or 'coreai'.
        precision: as the exporter wrote it, 'unknown' where it did not.
        half: whether a device may compute in fp16.
        ios, macos: oldest systems that run it, e.g. '16.0'.
        image: its input; for Core AI a tensor (1, C, H, W) of pixels 0 to 255.
        layout: channels of the input in the network's order; case of the Swift enum
            ``ColorLayout``.
        label, probabilities: names of its outputs; Core AI's files have no label.
        classes: labels in the order of the network's outputs.
        units: case of the Swift enum ``ComputeUnits``.
        words: what the test pipeline does to a photo.
        pipeline: configs of its steps; none where the file states none.
        steps: the same for Swift.
    """

    path: Path
    sha256: str
    format: str
    runtime: str
    precision: str
    half: bool
    ios: str
    macos: str
    image: Feature
    layout: str
    label: str
    probabilities: str
    classes: tuple[str, ...]
    units: str
    words: str
    pipeline: tuple[dict[str, Any], ...]
    steps: Steps

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) in pixels."""
        return self.image.shape[2], self.image.shape[3]

    @property
    def tolerance(self) -> Tolerance:
        """What a device's probabilities may differ by from ours."""
        return TOLERANCES['export-fp16' if self.half else 'export-fp32']


def read_facts(path: PathLike) -> ModelFacts:
    """Read what the package needs to know from a file.

    Raises:
        ExportError: the model is no classifier of images with text labels.
        ProgramError: it cannot be read.
    """
    format_ = format_of(path)
    program = format_.describe(path)
    meta = program.metadata
    ios, macos = _systems(program, format_)
    pipeline = _pipeline(meta.get('pipeline'))
    image = _input(program)
    return ModelFacts(
        path=program.path,
        sha256=digest(program.path),
        format=program.format if format_.runtime == CORE_ML else format_.suffix[1:],
        runtime=format_.runtime,
        precision=meta.get('precision', 'unknown'),
        half=program.format == 'neuralnetwork'
        or any('fp16' in op.dtypes for op in walk(program.operations)),
        ios=ios,
        macos=macos,
        image=image,
        layout=_layout(program, image, format_),
        label=program.predicted_feature_name,
        probabilities=program.predicted_probabilities_name,
        classes=_classes(program, format_),
        units=_UNITS.get(meta.get('compute_units', 'ALL'), 'all'),
        words=meta.get('preprocessing', 'not stated'),
        pipeline=tuple(pipeline or ()),
        steps=swift_steps(pipeline),
    )


def _systems(program: Program, format_: Format) -> tuple[str, str]:
    """Oldest iOS and macOS that read the program; no older than the package's own."""
    ios = _number(format_.system(program))
    if format_.runtime == CORE_ML:
        ios = _of_core_ml(program)
    # macOS 12 came with iOS 15, and so on until macOS 15 with iOS 18; then both are 26.
    return f'{ios}.0', f'{ios if ios >= _SAME_NUMBERS else ios - 3}.0'


def _of_core_ml(program: Program) -> int:
    version = max(program.spec_version, version_of(TARGETS[0]))
    if system_of(version) not in TARGETS:
        newest = TARGETS[-1]
        raise ExportError(
            f'{program.path}: Core ML specification version {version}; the Swift package '
            f'knows versions up to {version_of(newest)} (iOS {_number(newest)})'
        )
    return _number(system_of(version))


def _number(target: str) -> int:
    return int(target[len('iOS') :])


def _input(program: Program) -> Feature:
    """The only one."""
    if len(program.inputs) != 1:
        names = ', '.join(repr(f.name) for f in program.inputs)
        raise ExportError(
            f'{program.path}: inputs {names}; the Swift package takes models with one image input'
        )
    return program.inputs[0]


def _layout(program: Program, feature: Feature, format_: Format) -> str:
    """Channels in the network's order; a tensor's are stated by the exporter alone."""
    if format_.runtime == CORE_ML:
        if feature.kind == 'image' and feature.color_layout in _LAYOUTS:
            return _LAYOUTS[feature.color_layout]
        kind = feature.color_layout or feature.kind
        raise ExportError(
            f'{program.path}: input {feature.name!r} is a {kind}; the Swift package takes images '
            f'({", ".join(_LAYOUTS)}): export with input image'
        )
    order = program.metadata.get(CHANNEL_ORDER, '')
    channels = 1 if order == 'GRAYSCALE' else 3
    if order not in _LAYOUTS or feature.shape[:2] != (1, channels) or len(feature.shape) != 4:
        raise ExportError(
            f'{program.path}: input {feature.name!r} of shape {feature.shape} with channels '
            f'{order or "in no stated order"}; the Swift package takes one image '
            f'({", ".join(_LAYOUTS)}): export the file again'
        )
    return _LAYOUTS[order]


def _classes(program: Program, format_: Format) -> tuple[str, ...]:
    names = [program.predicted_probabilities_name]
    if format_.runtime == CORE_ML:
        names.append(program.predicted_feature_name)
    classes = program.classes
    if not classes or not all(names):
        outputs = ', '.join(f.name for f in program.outputs)
        raise ExportError(
            f'{program.path}: outputs {outputs}; the Swift package takes classifiers with labels '
            'and probabilities'
        )
    if not all(isinstance(c, str) for c in classes) or len(set(classes)) != len(classes):
        raise ExportError(
            f'{program.path}: the class labels are not text, '
            'each one once, which the Swift package needs'
        )
    return classes


def _pipeline(text: Optional[str]) -> Optional[list[dict[str, Any]]]:
    """None where the file does not state it."""
    try:
        found: Any = json.loads(text or 'null')
    except (ValueError, RecursionError):
        return None
    is_list = isinstance(found, list) and all(isinstance(step, dict) for step in found)
    return found if is_list else None


def digest(path: Path) -> str:
    """SHA-256 over the names and the content of a model's files, as a bench's JSON names it."""
    total = hashlib.sha256()
    for file in package_files(path):
        name = file.name if file == path else file.relative_to(path).as_posix()
        content = hashlib.sha256(file.read_bytes()).hexdigest()
        total.update(f'{name}\0{content}\n'.encode())
    return total.hexdigest()


def swift_steps(pipeline: Optional[Sequence[Mapping[str, Any]]]) -> Steps:
    """Translate the steps of a test pipeline.

    Args:
        pipeline: configs of mmcv's and mmpretrain's transforms; None where the model does not state
            them.
    """
    if pipeline is None:
        return Steps((), 'the test pipeline, which the model does not state')
    expressions = []
    for step in pipeline:
        if step_name(step) in SILENT:
            continue
        expression = _expression(step)
        if expression is None:
            return Steps((), _words(step))
        expressions.append(expression)
    return Steps(tuple(expressions))


def _expression(step: Mapping[str, Any]) -> Optional[str]:
    """None for whatever Swift cannot do exactly as the pipeline does."""
    if '/' in str(step.get('type', '')):
        return None  # torchvision's step of the same name
    known = _KNOWN.get(step_name(step))
    options = {k: v for k, v in step.items() if k not in ('type', '_scope_')}
    try:
        return known(**options) if known else None
    # An option or a filter that the function does not have, or no whole number.
    except (LookupError, OverflowError, TypeError, ValueError):
        return None


def _resize(scale: Any, keep_ratio: bool = False, **how: str) -> str:
    size = width, height = _pair(scale)
    if keep_ratio:
        return f'.resizeInside(long: {max(size)}, short: {min(size)}, {_resampling(**how)})'
    return f'.resize(width: {width}, height: {height}, {_resampling(**how)})'


def _resize_edge(scale: int, edge: str = 'short', **how: str) -> Optional[str]:
    if edge not in ('short', 'long', 'width', 'height'):
        return None
    return f'.resizeEdge(.{edge}, pixels: {_whole(scale)}, {_resampling(**how)})'


def _center_crop(crop_size: Any) -> str:
    width, height = _pair(crop_size)
    return f'.centerCrop(width: {width}, height: {height})'


def _efficientnet_crop(
    crop_size: int, crop_padding: int = 32, interpolation: str = 'bicubic', backend: str = 'cv2'
) -> str:
    side, padding = _whole(crop_size), _whole(crop_padding)
    filter_ = _resampling(backend, interpolation)
    return f'.efficientNetCrop(side: {side}, padding: {padding}, {filter_})'


def _resampling(backend: str = 'cv2', interpolation: str = 'bilinear') -> str:
    return _RESAMPLINGS[backend, interpolation]


def _pair(value: Any) -> tuple[int, int]:
    """(W, H), as mmcv states sizes."""
    if isinstance(value, (list, tuple)):
        width, height = value
        return _whole(width), _whole(height)
    return _whole(value), _whole(value)


def _whole(value: Any) -> int:
    if isinstance(value, bool) or int(value) != value:
        raise ValueError(f'{value!r} is no whole number')
    return int(value)


def _words(step: Mapping[str, Any]) -> str:
    rest = ', '.join(f'{k}={v!r}' for k, v in step.items() if k != 'type')
    return f'{step.get("type", "a step")}({rest})'


_KNOWN: dict[str, Callable[..., Optional[str]]] = {
    'Resize': _resize,
    'ResizeEdge': _resize_edge,
    'CenterCrop': _center_crop,
    'EfficientNetCenterCrop': _efficientnet_crop,
}
