"""Write metadata into a saved file, and say in words what happens to an image before it.

Which entries a file gets is decided in ``exporter.write_description``.

Source: coremltools' guide "Xcode Model Preview Types". An image classifier has an image input and
outputs a dictionary and a string; its preview needs no parameters. For feature extractors no
preview exists.
"""

from __future__ import annotations

import json
import math
import platform
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any, Optional

from ..models.preprocessing import step_name
from ..utils.accuracy import CONFIDENCE, Answers, wilson
from ..utils.version import __version__
from .program import quiet
from .program.graph import Program

PREVIEW_TYPE = 'com.apple.coreml.model.preview.type'
#: Entry with the order of a network's channels: 'RGB', 'BGR' or 'GRAYSCALE'.
CHANNEL_ORDER = 'channel_order'
_IMAGE_CLASSIFIER = 'imageClassifier'
_LABELS = ('string', 'int64')
#: Labels that a description lists; the rest is counted.
_NAMED_CLASSES = 10
_PACKAGES = ('coremltools', 'torch', 'mmengine', 'mmpretrain')
#: Steps of a pipeline that an app has no part in.
_SILENT = (
    'PackInputs',
    'Collect',
    'LoadImageFromFile',
    'ToPIL',
    'ToNumpy',
    'NumpyToPIL',
    'PILToNumpy',
)


def preview_metadata(program: Program) -> dict[str, str]:
    """User-defined metadata for the Preview tab; none where it has no use.

    Args:
        program: as read from disk.
    """
    kinds = {feature.name: feature.kind for feature in program.outputs}
    is_classifier = (
        [feature.kind for feature in program.inputs] == ['image']
        and kinds.get(program.predicted_feature_name) in _LABELS
        and kinds.get(program.predicted_probabilities_name) == 'dictionary'
        and bool(program.classes)
    )
    return {PREVIEW_TYPE: _IMAGE_CLASSIFIER} if is_classifier else {}


def write_metadata(
    path: Path,
    user: Mapping[str, Any],
    standard: Mapping[str, str],
    described: str,
    outputs: Mapping[str, str] = MappingProxyType({}),
) -> None:
    """Set metadata in a saved model; weights are not touched.

    Args:
        path: ``.mlpackage`` or ``.mlmodel``.
        user: user-defined entries; values that are no str become JSON.
        standard: 'author', 'license', 'versionString', 'shortDescription'.
        described: description of the first input.
        outputs: names of outputs to their descriptions; others keep theirs.
    """
    file = path if path.is_file() else next(path.rglob('*.mlmodel'))
    spec = quiet.coremltools().proto.Model_pb2.Model()
    spec.ParseFromString(file.read_bytes())
    target = spec.description.metadata
    for name, value in standard.items():
        setattr(target, name, value)
    for name, value in user.items():
        target.userDefined[name] = value if isinstance(value, str) else _json(value)
    spec.description.input[0].shortDescription = described
    for feature in spec.description.output:
        feature.shortDescription = outputs.get(feature.name, feature.shortDescription)
    file.write_bytes(spec.SerializeToString())


def versions() -> dict[str, str]:
    """Versions of what made the file, by package."""
    found = {name: _version(name) for name in _PACKAGES}
    return {'mmpretrain_mobileone_ext': __version__, **found, 'python': platform.python_version()}


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return 'unknown'  # a source tree on the path, never installed


def _json(value: Any) -> str:
    """As people write it: 'Schürzen' is no row of escapes.

    Half of a surrogate pair, which no protobuf holds, stays an escape.
    """
    text = json.dumps(plain(value), default=str, ensure_ascii=False)
    return ''.join(f'\\u{ord(c):04x}' if '\ud800' <= c <= '\udfff' else c for c in text)


def plain(value: Any) -> Any:
    """A value as JSON has it: JSON has no infinity: a PSNR of equal outputs becomes null."""
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def in_words(steps: Sequence[Mapping[str, Any]], size: tuple[int, int]) -> str:
    """What an app must do to a photo before the program, as sentences."""
    words = [_step_words(s) for s in steps if step_name(s) not in _SILENT]
    words.append(f'give {size[0]} x {size[1]} (H x W) pixels, 0 to 255')
    return '; '.join(f'{i}. {w}' for i, w in enumerate(words, start=1))


def _step_words(step: Mapping[str, Any]) -> str:
    name = step_name(step)
    how = f' ({step["interpolation"]})' if 'interpolation' in step else ''
    if name == 'ResizeEdge':
        edge = step.get('edge', 'short')
        return (
            f'resize the {edge} edge to {step.get("scale")} pixels, keeping the aspect ratio{how}'
        )
    if name == 'Resize' and 'scale' in step:
        width, height = _sides(step['scale'])
        kept = 'keeping' if step.get('keep_ratio') else 'ignoring'
        return f'resize to {height} x {width}, {kept} the aspect ratio{how}'
    if name == 'CenterCrop' and 'crop_size' in step:
        width, height = _sides(step['crop_size'])
        return f'crop the central {height} x {width} pixels'
    if name == 'EfficientNetCenterCrop':
        side, margin = step.get('crop_size'), step.get('crop_padding', 32)
        return (
            f'crop the central square of {side}/({side} + {margin}) of '
            f'the short edge and resize it to {side} x {side}{how}'
        )
    rest = ', '.join(f'{k}={v!r}' for k, v in step.items() if k != 'type')
    return f'{name}({rest})'


def _sides(value: Any) -> tuple[Any, Any]:
    """(W, H), as mmcv states sizes."""
    return (value[0], value[1]) if isinstance(value, (list, tuple)) else (value, value)


def classes_in_words(classes: Sequence[str]) -> str:
    """'3 classes: ant, bee, cat'; of many the first ones."""
    named = ', '.join(classes[:_NAMED_CLASSES])
    rest = len(classes) - _NAMED_CLASSES
    more = f' and {rest} more' if rest > 0 else ''
    return f'{len(classes)} classes: {named}{more}'


def accuracy_in_words(answers: Optional[Answers], images: str) -> str:
    """Top-1 accuracy with its interval, as a sentence; empty without true labels.

    Args:
        answers: of the file itself; None for features.
        images: what they were given for, in words.
    """
    if answers is None or answers.labels is None:
        return ''
    hits, total = int(answers.right.sum()), len(answers.right)
    low, high = (100 * end for end in wilson(hits, total))
    return (
        f'Top-1 accuracy {100 * hits / total:.1f} % ({100 * CONFIDENCE:g} % interval {low:.1f} to '
        f'{high:.1f}) on {images}, measured on this file.'
    )
