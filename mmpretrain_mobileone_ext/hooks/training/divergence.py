"""Stop a training that cannot come to anything."""

from __future__ import annotations

import math
from typing import Any, Optional

import torch
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ...errors import DivergedError
from ...utils.checks import integer, number

#: In every error of this hook, by which others tell it in a log.
DIVERGED = 'the training has diverged'


@HOOKS.register_module()
class DivergenceHook(Hook):
    """End a run whose loss is no number any more, or stays far above where it began.

    The loss began with the larger one of the first iteration's and ``floor``. A run is ended where
    ``patience`` iterations on end have a loss above ``factor`` times that. Checkpoints that were
    saved before stay.

    Args:
        factor: multiple of the first loss, above 1.
        patience: iterations.
        floor: that the first loss counts at least: a network that knows its data begins near 0.
            The loss of a guess among C classes is ln C.

    Raises:
        SpecError: a wrong argument.
        DivergedError: what the loss is, where, and with which learning rate.
    """

    priority = 'VERY_HIGH'  # before the loss is averaged, or anything is saved

    def __init__(self, factor: float = 3.0, patience: int = 50, floor: float = 1.0):
        self.factor = number('DivergenceHook: factor', factor, 1)
        self.patience = integer('DivergenceHook: patience', patience, 1)
        self.floor = number('DivergenceHook: floor', floor, 0)
        self._first: Optional[float] = None
        self._above = 0

    def before_train(self, runner) -> None:
        """Forget an earlier run."""
        self._first, self._above = None, 0

    def after_train_iter(
        self, runner, batch_idx: int, data_batch: Any = None, outputs: Any = None
    ) -> None:
        """Look at the loss of an iteration."""
        loss = _loss(outputs)
        if loss is None:
            return
        if not math.isfinite(loss):
            raise DivergedError(f'the loss is {loss:g} {_where(runner)}')
        if self._first is None:
            self._first = loss
        bound = self.factor * max(self._first, self.floor)
        self._above = self._above + 1 if loss > bound else 0
        if self._above >= self.patience:
            raise DivergedError(
                f'the loss, {loss:.3g}, has been above {bound:.3g} ({self.factor:g} times what it '
                f'began with) for {self.patience} iterations {_where(runner)}'
            )


def _loss(outputs: Any) -> Optional[float]:
    loss = outputs.get('loss') if isinstance(outputs, dict) else None
    return None if loss is None else float(torch.as_tensor(loss).detach())


def _where(runner) -> str:
    rates = runner.optim_wrapper.get_lr()
    rates = [rate for found in rates.values() for rate in found] if rates else []
    rate = f' at a learning rate of {max(rates):.2g}' if rates else ''
    return (
        f'in iteration {runner.iter + 1}{rate}: {DIVERGED}; choose a smaller '
        'learning rate (--lr of finetune, optim_wrapper.optimizer.lr of a config)'
    )
