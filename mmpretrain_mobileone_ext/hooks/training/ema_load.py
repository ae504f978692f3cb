"""What averaged weights begin with, and whether a run is long enough for them."""

from __future__ import annotations

from typing import Any, Optional

from mmengine.hooks import EMAHook, Hook
from mmengine.model import ExponentialMovingAverage
from mmengine.registry import HOOKS


@HOOKS.register_module()
class EMALoadHook(Hook):
    """Let ``EMAHook`` start from the weights that a checkpoint ships.

    The ``state_dict`` of a run with ``EMAHook`` holds the averaged weights, its ``ema_state_dict``
    the others, for ``--resume``. mmpretrain's ``EMAHook`` loads the latter even where nothing is
    resumed, in torch's way: fine-tuning with another head then fails, and under ``--tta``, where
    keys have one more prefix, nothing is loaded at all. Without them it averages from
    ``state_dict`` on, which is the same model.

    A run that is shorter than what is averaged over, 1 / momentum iterations, is warned of: what it
    validates and saves is mostly what it began with.
    """

    # Before EMAHook, wherever a recipe puts it.
    priority = 'HIGH'

    def after_load_checkpoint(self, runner, checkpoint: dict) -> None:
        """Drop ``ema_state_dict`` unless the run is resumed."""
        if not runner._resume:
            checkpoint.pop('ema_state_dict', None)

    def before_train(self, runner) -> None:
        """Warn of an average that is longer than the run."""
        for hook in runner.hooks:
            span = averaged_over(hook)
            if span is not None and span > runner.max_iters:
                runner.logger.warning(
                    f'EMAHook: momentum {1 / span:g} averages over {span:.0f} iterations, and the '
                    f'run has {runner.max_iters}: what is validated and saved is mostly what the '
                    f'run began with; a momentum of {_SPANS / runner.max_iters:.2g} fits'
                )


#: Averages that follow one another in a run whose momentum fits.
_SPANS = 10


def averaged_over(hook: Hook) -> Optional[float]:
    """Iterations that an ``EMAHook`` averages over, 1 / momentum; None for others.

    One whose momentum falls from 1 on (``MomentumAnnealingEMA``) keeps up with any run.
    """
    average: Any = getattr(hook, 'ema_model', None) if isinstance(hook, EMAHook) else None
    if type(average) is not ExponentialMovingAverage or not average.momentum:
        return None
    return average.interval / average.momentum


def fitting_momentum(given: float, iterations: int) -> float:
    """A momentum with which a run of so many iterations averages over a tenth of them at most.

    Args:
        given: kept where it fits.
        iterations: of the run, at least 1.
    """
    return max(given, min(0.5, _SPANS / iterations))
