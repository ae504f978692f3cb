"""Load a checkpoint's averaged weights where nothing is resumed."""

from __future__ import annotations

from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class EMALoadHook(Hook):
    """Let ``EMAHook`` start from the weights that a checkpoint ships.

    The ``state_dict`` of a run with ``EMAHook`` holds the averaged weights, its ``ema_state_dict``
    the others, for ``--resume``. mmpretrain's ``EMAHook`` loads the latter even where nothing is
    resumed, in torch's way: fine-tuning with another head then fails, and under ``--tta``, where
    keys have one more prefix, nothing is loaded at all. Without them it averages from
    ``state_dict`` on, which is the same model.
    """

    # Before EMAHook, wherever a recipe puts it.
    priority = 'HIGH'

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Drop ``ema_state_dict`` unless the run is resumed."""
        if not runner._resume:
            checkpoint.pop('ema_state_dict', None)
