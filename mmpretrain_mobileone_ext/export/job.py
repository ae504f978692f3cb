"""What an export works on: network, images, labels and what is baked in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from torch import nn

from ..errors import ExportError
from ..models.preprocessing import Preprocessing, read_preprocessing
from ..utils.files import PathLike
from ..utils.text import Steps
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
from .source import Labels, Source, choose_labels, load_source
from .verify import Judge, Network, classifier, in_double


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

    @property
    def judge(self) -> Judge:
        """Compares files with the network, or with it in fp64."""

        def exact() -> Network:
            return self._network(in_double(self.source.model), torch.float64)

        return Judge(self.network, self.preprocessing, self.images, exact)

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
