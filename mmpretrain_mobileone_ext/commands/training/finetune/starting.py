"""What a run starts from: architecture, image size, weights; and how far its steps go.

A rate that trains random weights tears trained ones apart, one that tunes them leaves random ones
where they are, and a head for new classes is random whatever the rest is: hence a tenth of the rate
for what is trained, and the whole of it for a new head.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.runner import CheckpointLoader

from ....errors import CheckpointError, MobileOneExtError, SpecError
from ....hooks.training.ema_load import fitting_momentum
from ....models.preprocessing import pipeline_size, step_name, type_name
from ....models.spec import PRESETS, build_network_spec
from ....utils.checks import integer, number
from ....utils.config import unwrapped
from ....utils.machine import free_bytes
from ....utils.text import size
from .settings import LOADER, SPLITS, set_epochs

#: Of a new head's rate, for weights that are trained already.
_TUNING = 0.1
_HUB_NAME = 'mobileone-{}_8xb32_in1k'
_OURS = 'ConfigurableMobileOne'
#: Arguments in pixels by the step that takes them; torchvision's have names of their own.
_PIXELS = {
    'RandomResizedCrop': ('scale',),
    'EfficientNetRandomCrop': ('scale',),
    'RandomCrop': ('crop_size', 'padding'),
    'Resize': ('scale',),
    'ResizeEdge': ('scale',),
    'CenterCrop': ('crop_size',),
    'EfficientNetCenterCrop': ('crop_size',),
}
#: A step whose crops have these shares of the image's area, unless it says otherwise.
_CROP, _CROPPED = 'RandomResizedCrop', (0.08, 1.0)
_TORCHVISION_PIXELS = ('size', 'padding')
#: Iterations that random weights and trained ones need, at least.
_FROM_NOTHING, _FROM_WEIGHTS = 600, 200
#: Iterations that an epoch has, and images of a batch, at least.
_AN_EPOCH, _LEAST_BATCH = 16, 16
_MOST_EPOCHS = 100
_LOGGED, _VALIDATED = 5, 10  # times an epoch, and times a run, at least
_EMA, _WATCH = 'EMAHook', 'DivergenceHook'
#: Where a config states its learning rate.
RATE = 'optim_wrapper.optimizer.lr'
#: Steps after which it does not matter how large an image was, and others that move its pixels.
_SCALING = ('RandomResizedCrop', 'EfficientNetRandomCrop', 'Resize', 'ResizeEdge')
_TURNS = ('Pad', 'RandomErasing', 'Rotate', 'RandAugment', 'AutoAugment')
#: Of a photo, long side by short; of the free memory, what decoded images may take.
_ASPECT, _OF_FREE = 16 / 9, 0.25


def set_arch(recipe: Config, arch: str) -> None:
    """Put another network into a recipe, with the weights that it was published with.

    Args:
        recipe: is changed: its model, normalization and ``load_from``.
        arch: 's0' to 's4' for MobileOne, or a name of mmpretrain's ``list_models``.

    Raises:
        MobileOneExtError: there is no such network, or the recipe cannot take it.
    """
    if arch in PRESETS:
        return _set_preset(recipe, arch)
    found = _from_hub(arch)
    if found.config is None or not isinstance(found.config.get('model'), dict):
        raise MobileOneExtError(f'--arch {arch}: mmpretrain has no config of it')
    given = found.config
    recipe.model = copy.deepcopy(given.model)
    # Mixing of images and the like, for weeks on ImageNet.
    recipe.model.pop('train_cfg', None)
    recipe.pop('data_preprocessor', None)
    if given.get('data_preprocessor') is not None:
        recipe.data_preprocessor = copy.deepcopy(given.data_preprocessor)
    recipe.load_from = found.weights
    side = _side(given)
    if side is not None:
        set_image_size(recipe, side)
    return None


def _set_preset(recipe: Config, arch: str) -> None:
    backbone = recipe.model.backbone
    if step_name(backbone) != _OURS:
        raise MobileOneExtError(
            f'--arch {arch}: the recipe trains a {step_name(backbone)}, not a {_OURS}'
        )
    backbone.arch = arch
    for name in ('num_conv_branches', 'width_factor', 'num_blocks', 'base_channels'):
        backbone.pop(name, None)
    recipe.model.head.in_channels = build_network_spec(arch).stages[-1][-1].out_channels
    recipe.load_from = _from_hub(_HUB_NAME.format(arch)).weights


def fetch_weights(weights: Optional[str]) -> None:
    """Read the weights that a run will start from, once; what is downloaded is kept.

    Raises:
        CheckpointError: they cannot be had; with the way out.
    """
    if not weights:
        return
    try:
        CheckpointLoader.load_checkpoint(weights, map_location='cpu')
    except CheckpointError as error:
        raise CheckpointError(
            f'{error}; give a file by --weights FILE, or start from random weights with '
            '--from-scratch'
        ) from error


def _from_hub(name: str) -> Any:
    from mmpretrain.apis import list_models
    from mmpretrain.apis.model import ModelHub

    try:
        return ModelHub.get(name)
    except ValueError:
        like = list_models(f'*{name}*')[:3] or list_models(f'{name[:6]}*')[:3]
        listed = f', such as {", ".join(like)}' if like else ''
        raise MobileOneExtError(
            f'--arch {name} is none of {", ".join(PRESETS)}, and no name of '
            f'mmpretrain.list_models(){listed}'
        ) from None


def set_image_size(recipe: Config, side: int) -> None:
    """Let all pipelines yield square images of another size; crops and margins go with it.

    Random crops of smaller images take larger shares of them.

    Raises:
        MobileOneExtError: a size below 1, or the recipe's own cannot be told.
    """
    integer('--image-size', side, 16, MobileOneExtError)
    before = _side(recipe)
    if before is None:
        raise MobileOneExtError(
            f'{recipe.filename}: the test pipeline does not state a square size, so that '
            '--image-size cannot change it'
        )
    for split in SPLITS:
        for step in list(_steps(recipe, split)):
            _scale(step, side / before)
            if step_name(step) == _CROP and side < before and 'torchvision' not in type_name(step):
                least, most = step.get('crop_ratio_range', _CROPPED)
                # Of a small image a small part is a few pixels, of which nobody learns anything.
                step['crop_ratio_range'] = (round(min(most, least * before / side), 3), most)


def _side(cfg: Config) -> Optional[int]:
    found = pipeline_size(list(_steps(cfg, 'test')))
    return found[0] if found and found[0] == found[1] else None


def _steps(cfg: Config, split: str) -> Iterator[dict]:
    """The steps of a split's first data set: of several all are read alike."""
    loader = cfg.get(f'{split}_dataloader') or {}
    yield from unwrapped(loader.get('dataset') or {})[0].get('pipeline') or ()


def _scale(step: dict, factor: float) -> None:
    is_torchvision = 'torchvision/' in type_name(step)
    names = _TORCHVISION_PIXELS if is_torchvision else _PIXELS.get(step_name(step), ())
    for name in names:
        value = step.get(name)
        if isinstance(value, int):
            step[name] = round(value * factor)
        elif isinstance(value, (list, tuple)) and all(isinstance(v, int) for v in value):
            step[name] = tuple(round(v * factor) for v in value)


def start_from_nothing(recipe: Config) -> None:
    """Random weights: nothing is loaded, and nothing stays as it is."""
    recipe.load_from = None
    for name in ('frozen_stages', 'init_cfg'):
        recipe.model.backbone.pop(name, None)


def fit_training(
    cfg: Config,
    images: int,
    classes: int,
    *,
    tuned_before: bool,
    lr: Optional[float] = None,
    epochs: Optional[int] = None,
    keep_batch: bool = False,
) -> None:
    """Fit rate, batches, length, averaging and what is logged to weights and images.

    Batches are halved until an epoch has some iterations, and there are more epochs where the
    recipe's are too few of them. A run that counts iterations keeps its batches and its length.

    Args:
        cfg: of a run, its ``load_from`` and classes set; is changed.
        images: to train on.
        classes: how many.
        tuned_before: whether the recipe's rate is one for trained weights.
        lr: of the optimizer; None: the recipe's, fitted.
        epochs: that were asked for; None: the recipe's, or more.
        keep_batch: leave the size of a batch.

    Raises:
        MobileOneExtError: a rate that cannot be, or that the recipe has no place for.
    """
    by_epoch = cfg.train_cfg.get('max_epochs') is not None
    share = _fit_batch(cfg, images) if by_epoch and not keep_batch else 1.0
    _set_rate(cfg, share, tuned_before, lr)
    if by_epoch and epochs is None:
        least = _FROM_WEIGHTS if cfg.get('load_from') else _FROM_NOTHING
        needed = min(_MOST_EPOCHS, math.ceil(least / _iterations(cfg, images)))
        set_epochs(cfg, max(needed, cfg.train_cfg.max_epochs))
    _fit_hooks(cfg, images, classes)


def _fit_hooks(cfg: Config, images: int, classes: int) -> None:
    """Averaging, watch over the loss, logging and validation."""
    an_epoch, epochs = _iterations(cfg, images), cfg.train_cfg.get('max_epochs')
    total = cfg.train_cfg.get('max_iters') or an_epoch * epochs
    hooks = list(cfg.get('custom_hooks') or ())
    for hook in hooks:
        if step_name(hook) == _EMA and not hook.get('ema_type'):
            hook['momentum'] = fitting_momentum(hook.get('momentum', 2e-4), total)
    if not any(step_name(hook) == _WATCH for hook in hooks):
        hooks.append(dict(type=_WATCH, floor=max(1.0, round(math.log(classes), 2))))
    cfg.custom_hooks = hooks
    if epochs is None:
        return
    logger = (cfg.get('default_hooks') or {}).get('logger')
    if logger:
        logger['interval'] = min(logger.get('interval', 10), max(1, an_epoch // _LOGGED))
    every = cfg.train_cfg.get('val_interval', 1)
    cfg.train_cfg.val_interval = max(every, epochs // _VALIDATED)


def keep_decoded(cfg: Config, images: int) -> str:
    """Let the training keep its decoded images in memory, where all of them fit.

    A quarter of the memory that is free may be used. Images are shrunk first, to twice the size
    that the network sees: a random crop then has pixels enough, and 12 megapixels become some
    hundred kilobytes. Only a training whose first change of the image scales it can be shrunk so.
    The test images are read as they are.

    Args:
        cfg: of a run, its data set; is changed: the loader of the training images, and on a CPU
            its workers, since nothing is left for them to do.
        images: to train on.

    Returns:
        What is done, in words.
    """
    side, steps = _side(cfg), list(_steps(cfg, 'train'))
    moving = [name for s in steps[1:] if (name := step_name(s)) in (*_PIXELS, *_TURNS)]
    if side is None or not moving or moving[0] not in _SCALING:
        return 'images are decoded each epoch: the recipe does not scale them first'
    loader, has_gpu = cfg.train_dataloader, torch.cuda.is_available()
    processes = max(1, loader.get('num_workers', 0)) if has_gpu else 1
    edge = 2 * side
    needed, free = round(images * 3 * _ASPECT * edge**2), free_bytes('cpu')
    if free is None or processes * needed > free * _OF_FREE:
        room = 'unknown' if free is None else size(free)
        return f'images are decoded each epoch: {size(processes * needed)} of {room} free memory'
    steps[0].update(type=LOADER, short_edge=edge, keep_bytes=needed)
    if not has_gpu:
        for name in ('persistent_workers', 'prefetch_factor', 'timeout'):
            loader.pop(name, None)
        loader.num_workers = 0
        loader.persistent_workers = False
    return (
        f'images to train on are decoded once, to {edge} pixels or less, and kept in memory (at '
        f'most {size(processes * needed)} of {size(free)} free)'
    )


def _iterations(cfg: Config, images: int) -> int:
    """Of an epoch; wrappers that repeat the data are not counted."""
    loader = cfg.train_dataloader
    batch = loader.get('batch_size', 1)
    return max(1, images // batch if loader.get('drop_last') else math.ceil(images / batch))


def _fit_batch(cfg: Config, images: int) -> float:
    """Halve batches until an epoch has some iterations; returns the share that is left."""
    loader = cfg.train_dataloader
    given = loader.get('batch_size', 1)
    batch = given
    while batch >= 2 * _LEAST_BATCH and images < batch * _AN_EPOCH:
        batch //= 2
    loader.batch_size = batch
    return batch / given


def _set_rate(cfg: Config, share: float, tuned_before: bool, lr: Optional[float]) -> None:
    optimizer: Any = (cfg.get('optim_wrapper') or {}).get('optimizer') or {}
    if not isinstance(optimizer.get('lr'), (int, float)):
        if lr is None:
            return
        raise MobileOneExtError(f'{cfg.filename}: no {RATE}, which --lr sets')
    tunes = bool(cfg.get('load_from'))
    if lr is not None:
        optimizer.lr = _checked_rate(lr)
    else:
        change = {(True, False): _TUNING, (False, True): 1 / _TUNING}.get((tunes, tuned_before), 1)
        # Steps of a smaller batch are as much smaller (arXiv 1706.02677, section 2.1).
        optimizer.lr = float(f'{optimizer.lr * change * share:.3g}')
    if tunes:
        by_name = dict(cfg.optim_wrapper.get('paramwise_cfg') or {})
        keys = {'head': dict(lr_mult=1 / _TUNING), **by_name.get('custom_keys', {})}
        cfg.optim_wrapper.paramwise_cfg = dict(by_name, custom_keys=keys)


def _checked_rate(lr: float) -> float:
    try:
        return number('--lr', lr, 1e-12)
    except SpecError as error:
        raise MobileOneExtError(str(error)) from None


def rate_of(cfg: Mapping[str, Any]) -> str:
    """A run's learning rate in words."""
    wrapper = cfg.get('optim_wrapper') or {}
    rate = (wrapper.get('optimizer') or {}).get('lr')
    if not isinstance(rate, (int, float)):
        return ''
    keys = (wrapper.get('paramwise_cfg') or {}).get('custom_keys') or {}
    more = keys.get('head', {}).get('lr_mult', 1)
    head = f' (head {rate * more:.3g})' if more != 1 else ''
    return f'learning rate {rate:.3g}{head}'
