"""Validate with statistics that fit the weights that are validated."""
from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import CheckpointHook, EMAHook, Hook
from mmengine.registry import HOOKS
from mmengine.runner.base_loop import BaseLoop
from torch.utils.data import DataLoader

from ..option_checks import boolean, integer
from .bn_recalibration import recalibrate, training_loader
from .deploy_file import unwrap
from .deploy_hook import DeploySwitchHook
from .hook_order import check_order


@HOOKS.register_module()
class BNRecalibrationHook(Hook):
    """Recalibrate batch norms before each validation of a training run.

    mmpretrain's ``PreciseBNHook`` measures the statistics of the weights in
    training. This one measures those of the weights that are validated and
    saved, the averaged ones where there is ``EMAHook``, on a loader of its
    own: neither the training's batches nor its random numbers change.

    Args:
        images: training images to measure on, over all ranks.
        augment: with the training pipeline, else the test pipeline.

    Raises:
        SpecError: a wrong argument, a model without norms, a config without
            training data, or a priority on the wrong side of another hook.
    """

    # EMAHook (NORMAL or above) has swapped its weights in, DeploySwitchHook
    # (BELOW_NORMAL, 60) has not yet folded them.
    priority: Any = 55

    def __init__(self, images: int = 8192, augment: bool = False):
        self.images = integer('BNRecalibrationHook: images', images, 1)
        self.augment = boolean('BNRecalibrationHook: augment', augment)
        self._loader: Optional[DataLoader] = None

    def before_run(self, runner) -> None:
        """Refuse an order in which the hook cannot work."""
        check_order(runner.hooks, self, after=[EMAHook],
                    before=[DeploySwitchHook, CheckpointHook])

    def before_val_epoch(self, runner) -> None:
        """Measure, if this is a training run."""
        if not isinstance(runner._train_loop, BaseLoop):
            return
        from ..coreml.export_source import untouched_rng
        with untouched_rng():
            if self._loader is None:
                self._loader = training_loader(
                    runner.cfg, self.images, self.augment)
            used = recalibrate(unwrap(runner.model), self._loader,
                               self.images)
        runner.logger.info('BNRecalibrationHook: statistics measured on '
                           f'{used} training images')
