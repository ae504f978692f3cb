"""The networks whose latencies were published: built, folded, exported, and read as layers.

What MMPretrain has is built by it, the rest by timm. Weights are random: no latency depends on
them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mmpretrain.apis import ModelHub

from ....coreml.convert import convert_and_save
from ....coreml.neural_engine.latency.features import Layer, layers_of
from ....coreml.program.read import read_program
from ....errors import MobileOneExtError
from ....export.job import load_job
from ....export.options import ExportOptions
from ....utils.text import Steps
from ..fake_data import CLASSES, MEAN, STD, build_classifier, classifier_config
from .plain import ACTIVATIONS, PLANS, ThirtyLayers

_PIXELS = dict(mean=MEAN, std=STD, to_rgb=True)
_HUB = {
    'mobilenet-v2': 'mobilenet-v2_8xb32_in1k',
    'mobilenet-v3-small': 'mobilenet-v3-small_8xb128_in1k',
    'mobilenet-v3-large': 'mobilenet-v3-large_8xb128_in1k',
    'shufflenet-v2-1x': 'shufflenet-v2-1x_16xb64_in1k',
    'efficientnet-b0': 'efficientnet-b0_3rdparty_8xb32_in1k',
    'repvgg-a0': 'repvgg-A0_8xb32_in1k',
    'mobilevit-s': 'mobilevit-small_3rdparty_in1k',
}
#: Name there, and channels of the last map.
_TIMM = {'mobilenet-v1': ('mobilenetv1_100', 1024), 'mixnet-s': ('mixnet_s', 1536)}
#: Side of the images, in pixels, where it is not 224.
_SIZES = {'mobilevit-s': 256}


def thirty_name(plan: str, activation: str) -> str:
    """Of a network of ``plain``, of which only the order of latencies was published."""
    return f'thirty-layers/{plan}/{activation}'


THIRTY = tuple(thirty_name(plan, kind) for plan in PLANS for kind in ACTIVATIONS)


@dataclass(frozen=True)
class Network:
    """A network to export.

    Attributes:
        name: as in ``published.json``.
        config: of a classifier.
        size: of its images, in pixels.
    """

    name: str
    config: dict[str, Any]
    size: int = 224


def network(name: str) -> Network:
    """Find one by its name.

    Raises:
        MobileOneExtError: nobody knows how to build it.
    """
    return Network(name, _config(name), _SIZES.get(name, 224))


def _config(name: str) -> dict[str, Any]:
    if name.startswith('mobileone-'):
        return classifier_config(name.partition('-')[2], 224)
    if name in _HUB:
        found = ModelHub.get(_HUB[name]).config.model.to_dict()
        return {**found, 'data_preprocessor': _PIXELS, 'train_cfg': None}
    if name in _TIMM:
        model, channels = _TIMM[name]
        return _classifier(dict(type='TIMMBackbone', model_name=model), channels)
    if name == 'shufflenet-v2-2x':
        return _classifier(dict(type='ShuffleNetV2', widen_factor=2.0), 2048)
    if name in THIRTY:
        _, plan, activation = name.rsplit('/', 2)
        return _classifier(dict(type=ThirtyLayers, plan=plan, activation=activation), 1280)
    raise MobileOneExtError(f'{name!r} is none of the networks that this tool builds')


def _classifier(backbone: dict[str, Any], channels: int) -> dict[str, Any]:
    return dict(
        type='ImageClassifier',
        backbone=backbone,
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=CLASSES, in_channels=channels),
        data_preprocessor=_PIXELS,
    )


def exported(wanted: Network, folder: Path) -> Path:
    """Build, fold and convert a network to an fp16 ``.mlpackage``; what is there is kept.

    Args:
        folder: where packages lie.

    Raises:
        ExportError: coremltools cannot convert it.
    """
    path = folder / f'{wanted.name.replace("/", "_")}.mlpackage'
    if path.exists():
        return path
    model = build_classifier(wanted.config, wanted.size)
    options = ExportOptions(
        out=path,
        image_size=wanted.size,
        verify_data='none',
        classes=[str(i) for i in range(CLASSES)],
    )
    job = load_job(model, None, options, None, Steps(False))
    convert_and_save(job.prepared, job.preprocessing, job.labels.names, options, options.out)
    return path


def layers(wanted: Network, folder: Path) -> tuple[Layer, ...]:
    """Of the exported file.

    Raises:
        ExportError: coremltools cannot convert it.
    """
    return layers_of(read_program(exported(wanted, folder)))
