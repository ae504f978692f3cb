"""What an export works on: network, images, labels and what is baked in."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Optional, Union

import torch
from mmengine.config import Config
from torch import nn

from ..coreml.compress.trained import RoundedInput, rounding_of
from ..errors import ExportError
from ..models.preprocessing import Preprocessing, read_preprocessing
from ..utils.files import PathLike
from ..utils.text import Steps
from .compression import compression_of
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
from .source import Labels, Source, backbone_of, choose_labels, load_source
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

        rounded = any(isinstance(m, RoundedInput) for m in self.prepared.net.modules())
        steps = rounded or self.source.quantized.endswith('a8')
        arithmetic = self.options.verify_arithmetic
        return Judge(self.network, self.preprocessing, self.images, exact, steps, arithmetic)

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
    is_classifier = options.outputs == 'class'
    with steps.step('load'):
        source = load_source(config, checkpoint, cfg_options, options.outputs, options.format.name)
        used = source.model if is_classifier else backbone_of(source.model)
        rounding = rounding_of(used)
        options = compression_of(options, rounding, source.quantized)
        # A module may know its config, but its data may well be elsewhere.
        has_data = not isinstance(config, nn.Module) and options.verify_data != 'none'
        read = options.verify_data == 'test' or has_data
        split = open_split(source.config, options.image_size, read)
        pre = _preprocessing(source.model, split, options)
        options.input_shapes(pre)  # refuses what no program can take
        labels = Labels((), 'none: features')
        if is_classifier:
            known = [('checkpoint', source.classes), *split.labels]
            labels = choose_labels(options.classes, known, count_logits(source.model, pre.shape))
        images = choose_images(split, options.verify_data, pre.shape)
    with steps.step('fold'):
        prepared = (prepare if is_classifier else prepare_features)(source.model, pre)
    if source.quantized:
        note = f'coreai-opt trained the network as {source.quantized}; the file holds its integers'
        prepared = replace(prepared, notes=(*prepared.notes, note))
    if rounding and options.compress == 'none':
        note = f'{rounding.words} were trained; the weights are stored as {options.precision}'
        prepared = replace(prepared, notes=(*prepared.notes, note))
    return Job(options, source, split, pre, labels, images, prepared)


def _preprocessing(model: nn.Module, split: TestSplit, options: ExportOptions) -> Preprocessing:
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    channels, size = convs[0].in_channels if convs else 3, options.image_size or split.size
    if split.dataset is not None:
        image, _ = read_sample(split, 0)
        channels, *sides = image.shape
        size = options.image_size or (sides[0], sides[1])
    if size is None:
        raise ExportError(f'{split.no_size}; give --image-size')

    def read(size: tuple[int, int]) -> Preprocessing:
        if options.outputs == 'features':
            return feature_preprocessing(model, channels, size, split.data_order)
        own = model.get_submodule('data_preprocessor')
        return read_preprocessing(own, channels, size, split.data_order)

    pre = read(size)
    for extra in options.extra_sizes:  # each may need another padding
        read(extra)
    if options.input == 'image' and pre.layout is None:
        reason = (
            'the channel order is unknown, since the test pipeline loads no image file'
            if channels in (1, 3)
            else f'the network takes {channels} channels, but an image has 1 or 3'
        )
        raise ExportError(f'{reason}; give --input tensor')
    return pre
