"""Validate with statistics of batch norms that fit the weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Optional

import torch
from mmengine.dist import all_gather_object, get_world_size
from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS, DefaultScope
from mmengine.runner import Runner
from mmengine.runner.base_loop import BaseLoop
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.utils.data import DataLoader

from ..checkpoints.deploy_file import unwrap
from ..errors import SpecError
from ..models.deploy import branches_only
from ..models.norms import shielded_stats
from ..models.quantization import quantizers
from ..utils.checks import boolean, integer
from ..utils.config import unwrapped
from ..utils.machine import untouched_rng
from .deploy import DeploySwitchHook
from .run import check_order

Advance = Callable[[int], Any]


@HOOKS.register_module()
class BNRecalibrationHook(Hook):
    """Recalibrate batch norms before each validation of a training run.

    mmpretrain's ``PreciseBNHook`` measures the statistics of the weights in training. This one
    measures those of the weights that are validated and saved, the averaged ones where there is
    ``EMAHook``, on a loader of its own: neither the training's batches nor its random numbers
    change.

    Args:
        images: training images to measure on, over all ranks.
        augment: with the training pipeline, else the test pipeline.

    Raises:
        SpecError: a wrong argument, a model without norms, a config without training data, or a
            priority on the wrong side of another hook.
    """

    # EMAHook (NORMAL or above) has swapped its weights in, DeploySwitchHook (BELOW_NORMAL, 60) has
    # not yet folded them.
    priority: Any = 55

    def __init__(self, images: int = 8192, augment: bool = False):
        self.images = integer('BNRecalibrationHook: images', images, 1)
        self.augment = boolean('BNRecalibrationHook: augment', augment)
        self._loader: Optional[DataLoader] = None

    def before_run(self, runner) -> None:
        """Refuse an order in which the hook cannot work."""
        check_order(runner.hooks, self, after=[EMAHook], before=[DeploySwitchHook, CheckpointHook])

    def before_val_epoch(self, runner) -> None:
        """Measure, if this is a training run."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        with untouched_rng():
            if self._loader is None:
                self._loader = training_loader(runner.cfg, self.images, self.augment)
            used = recalibrate(unwrap(runner.model), self._loader, self.images)
        runner.logger.info(f'BNRecalibrationHook: statistics measured on {used} training images')


def recalibrate(
    model: nn.Module, loader: Iterable[Any], images: int, advance: Advance = lambda count: None
) -> int:
    """Replace running statistics by those of the norms' inputs.

    As PreciseBN ("Rethinking 'Batch' in BatchNorm", arXiv 2105.07576, section 3) norms use the
    statistics of their batch meanwhile. Other than in mmpretrain's ``update_bn_stats``, which
    averages the variances of batches and so loses what lies between them, mean and unbiased
    variance are those of all images together, whatever the size of a batch.

    Only norms are in training mode: dropout and stochastic depth change nothing. Blocks run their
    branches. Nothing is changed if it fails. Norms that keep no running statistics are left alone.
    Ranks add up.

    Args:
        model: with a ``data_preprocessor``; not wrapped.
        loader: gives batches; see :func:`training_loader`.
        images: how many to use over all ranks; the last batch is used whole.
        advance: told the number of images after each batch of this rank.

    Returns:
        The number of images used.

    Raises:
        SpecError: the model has no norms with running statistics, or rounds its weights, or there
            are no images.
    """
    if any(own.phase for own in quantizers(model)):
        raise SpecError(
            'a network that trains quantized keeps the statistics of what is rounded, which would '
            'be lost: recalibrate before rounding begins'
        )
    norms = tracking_norms(model)
    if not norms:
        raise SpecError(
            'there are no batch norms with running statistics to recalibrate: '
            'the model is folded already, or a Core ML file'
        )
    seen, found = _measure(model, norms, loader, -(-images // get_world_size()), advance)
    ranks = all_gather_object((seen, found))
    used = sum(count for count, _ in ranks)
    if not used:
        raise SpecError('there are no images to recalibrate on')
    for i, norm in enumerate(norms):
        total = Moments()
        for _, moments in ranks:
            total.merge(moments[i])
        total.write(norm)
    return used


def _measure(
    model: nn.Module, norms: list[_BatchNorm], loader: Iterable[Any], images: int, advance: Advance
) -> tuple[int, list[Moments]]:
    """How many images this rank used, and the moments of all norms."""
    moments, seen = [Moments() for _ in norms], 0
    with (
        _only_norms_train(model, norms),
        branches_only(model),
        shielded_stats(model),
        _watched(norms, moments),
        torch.no_grad(),
    ):
        for batch in loader:
            data = model.data_preprocessor(batch, False)  # type: ignore
            model(data['inputs'])
            seen += len(data['inputs'])
            advance(len(data['inputs']))
            if seen >= images:
                break
    return seen, moments


class Moments:
    """Count, mean and squared deviations of values by channel, float64."""

    def __init__(self) -> None:
        self.count = 0
        self.mean: Any = 0.0
        self.squares: Any = 0.0

    def add(self, x: Tensor) -> None:
        """Count values (N, C, ...) in."""
        x = x if x.dtype == torch.float64 else x.float()
        dims = [d for d in range(x.dim()) if d != 1]
        var, mean = (t.double().cpu() for t in torch.var_mean(x, dims, correction=0))
        other = Moments()
        other.count = x.numel() // x.shape[1]
        other.mean, other.squares = mean, other.count * var
        self.merge(other)

    def merge(self, other: Moments) -> None:
        """Count others in (Chan, Golub and LeVeque, 1979)."""
        total = self.count + other.count
        if not other.count:
            return
        delta = other.mean - self.mean
        self.squares = (
            self.squares + other.squares + delta * delta * (self.count * other.count / total)
        )
        self.mean = self.mean + delta * (other.count / total)
        self.count = total

    def write(self, norm: _BatchNorm) -> None:
        """Make mean and unbiased variance the norm's statistics."""
        if not self.count:  # a part that the network does not use
            return
        variance = self.squares / max(self.count - 1, 1)
        for old, new in ((norm.running_mean, self.mean), (norm.running_var, variance)):
            if old is not None:
                old.copy_(new)


@contextmanager
def _watched(norms: list[_BatchNorm], moments: list[Moments]) -> Iterator[None]:
    handles = [
        norm.register_forward_pre_hook(lambda _, inputs, own=own: own.add(inputs[0]))
        for norm, own in zip(norms, moments)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def tracking_norms(model: nn.Module) -> list[_BatchNorm]:
    """Norms that keep running statistics."""
    return [m for m in model.modules() if isinstance(m, _BatchNorm) and m.running_mean is not None]


@contextmanager
def _only_norms_train(model: nn.Module, norms: list[_BatchNorm]) -> Iterator[None]:
    modes = {m: m.training for m in model.modules()}
    model.eval()
    for norm in norms:
        norm.training = True
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def training_loader(
    cfg: Mapping[str, Any], images: int, augment: bool = False, seed: int = 0
) -> DataLoader:
    """Training images in batches of a config's size.

    Args:
        cfg: of a run, with a ``train_dataloader``.
        images: how many will be used at most; a batch is no larger.
        augment: keep the training pipeline. Else images go through the test pipeline, where the
            config has one: what is measured is what evaluation will see.
        seed: of the order of the images.

    Raises:
        SpecError: the config has no training data, or ``images`` < 1.
    """
    integer('images', images, 1)
    boolean('augment', augment)
    if not cfg.get('train_dataloader'):
        raise SpecError(
            'the config has no train_dataloader, whose images are what norms are recalibrated on'
        )
    loader = copy.deepcopy(dict(cfg['train_dataloader']))
    if not augment:
        _take_test_pipeline(loader, cfg.get('test_dataloader') or cfg.get('val_dataloader'))
    loader.update(persistent_workers=False)
    loader['batch_size'] = max(1, min(loader.get('batch_size', 1), images // get_world_size()))
    scope = cfg.get('default_scope') or 'mmpretrain'
    with DefaultScope.overwrite_default_scope(scope):
        return Runner.build_dataloader(loader, seed=seed)


def _take_test_pipeline(loader: dict, test: Optional[Mapping]) -> None:
    pipeline = None if test is None else unwrapped(test['dataset'])[0].get('pipeline')
    for own in unwrapped(loader['dataset']):
        if pipeline is not None and 'pipeline' in own:
            own['pipeline'] = copy.deepcopy(pipeline)
