"""The classifier that is deployed, its images, and its config for mmdeploy."""
from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.config import Config
from torch import nn

from ..coreml.export_data import (
    Images,
    TestSplit,
    choose_images,
    open_split,
    read_sample,
)
from ..coreml.export_model import count_logits
from ..coreml.export_source import Source, load_source
from ..coreml.labels import Labels, choose_labels
from ..coreml.preprocess import Preprocessing, read_preprocessing
from ..errors import ExportError
from .deploy_config import DeployConfig
from .options import DeployOptions

PathLike = Union[str, Path]


@dataclass(frozen=True)
class Network:
    """A classifier before mmdeploy sees it.

    Attributes:
        source: the network as loaded, and its config.
        deploy: the deploy config, with the shape of this network's images.
        split: the test split as the config describes it.
        preprocessing: what an app must do before the deployed file.
        images: what files are compared on.
        labels: class labels, for the metadata.
    """
    source: Source
    deploy: DeployConfig
    split: TestSplit
    preprocessing: Preprocessing
    images: Images
    labels: Labels


def load_network(deploy: DeployConfig, config: PathLike, checkpoint: PathLike,
                 options: DeployOptions,
                 cfg_options: Optional[Mapping[str, Any]] = None) -> Network:
    """Load the classifier and fit the deploy config to it.

    Args:
        config: config file of mmpretrain or this package.
        checkpoint: branch or deploy checkpoint.
        cfg_options: dotted keys to values, merged into the config.

    Raises:
        ExportError: no classifier, or images of another size than the deploy
            config's.
        CheckpointError: the checkpoint is unsafe or does not fit.
    """
    source = load_source(config, checkpoint, cfg_options)
    split = open_split(source.config, options.image_size,
                       options.verify_data != 'none')
    deploy = _fitted(deploy, source, split, options)
    channels, size = deploy.channels or 0, deploy.size or (0, 0)
    pre = read_preprocessing(
        source.model.get_submodule('data_preprocessor'), channels, size,
        split.data_order)
    return Network(
        source=source,
        deploy=deploy,
        split=split,
        preprocessing=pre,
        images=choose_images(split, options.verify_data, pre.shape),
        labels=choose_labels(
            None, [('checkpoint', source.classes), *split.labels],
            count_logits(source.model, pre.shape)))


def _fitted(deploy: DeployConfig, source: Source, split: TestSplit,
            options: DeployOptions) -> DeployConfig:
    """The deploy config with C, H and W, which must be the images'."""
    channels, size = _input_channels(source.model), split.size
    if split.dataset is not None:
        image, _ = read_sample(split, 0)
        channels, size = image.shape[0], (image.shape[1], image.shape[2])
    if options.image_size is not None:
        return deploy.with_shape(channels, options.image_size)
    if deploy.size is None and size is None:
        raise ExportError(f'{deploy.name} and the test pipeline of '
                          f'{source.config_name} state no image size; give '
                          '--image-size')
    stated = deploy.channels or channels, deploy.size or size
    if stated != (channels, size or deploy.size):
        raise ExportError(
            f'{deploy.name} takes {(stated[0], *(stated[1] or ()))} (C, H, '
            f'W), the images of {source.config_name} are '
            f'{(channels, *(size or ()))}; give --image-size to set the '
            'deploy config\'s')
    return deploy if deploy.channels else deploy.with_shape(
        channels, stated[1] or (0, 0))


def _input_channels(model: nn.Module) -> int:
    """C, by the first convolution."""
    convs = [m for m in model.modules() if isinstance(m, nn.Conv2d)]
    return convs[0].in_channels if convs else 3


def mmdeploy_model_config(network: Network) -> Config:
    """The model's config as mmdeploy's API needs it.

    mmdeploy builds the model with the config's own ``deploy``, looks for a
    test pipeline and a scope at the top level, and makes its example input
    with them; it is given an array here, so packing is the only step.
    """
    source = network.source
    cfg = copy.deepcopy(source.config)
    assert cfg is not None  # load_source was given a config file
    cfg.default_scope = cfg.get('default_scope') or 'mmpretrain'
    cfg.test_pipeline = [dict(type='PackInputs')]
    cfg.model.pop('train_cfg', None)
    keys = source.model.state_dict()
    if any('.branch_reparam.' in key for key in keys):
        cfg.model.setdefault('backbone', {})['deploy'] = True
    return cfg
