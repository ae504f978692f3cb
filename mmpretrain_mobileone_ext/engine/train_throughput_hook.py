"""How many images a second each worker trains on."""
from __future__ import annotations

import time
from typing import Any

from mmengine.dist import all_gather_object
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..option_checks import integer
from .schedule_preview import leaves_preview


@HOOKS.register_module()
class TrainThroughputHook(Hook):
    """Log the training's images a second, of each rank and of all.

    Every ``interval`` iterations of an epoch: a log line with the rate of
    each rank, and the scalar ``train/throughput``, their sum. A rate is
    images over wall time since the line before, loading included; the first
    ``warmup`` iterations of an epoch, in which workers start, are left out,
    and so is what happens between epochs.

    Args:
        interval: iterations between two lines.
        warmup: iterations of each epoch that are not counted.

    Raises:
        SpecError: no positive interval, a negative warm-up.
    """

    # After the iteration's work, before LoggerHook (BELOW_NORMAL) logs.
    priority = 'NORMAL'

    def __init__(self, interval: int = 50, warmup: int = 5):
        self.interval = integer('TrainThroughputHook: interval', interval, 1)
        self.warmup = integer('TrainThroughputHook: warmup', warmup)
        self._images = 0
        self._start = 0.0

    def before_run(self, runner) -> None:
        """Leave a run that has no images to count."""
        leaves_preview(self, runner)

    def before_train_epoch(self, runner) -> None:
        """Start counting anew."""
        self._restart()

    def after_train_iter(self, runner, batch_idx: int, data_batch: Any = None,
                         outputs: Any = None) -> None:
        """Count the images; every ``interval`` iterations say how fast."""
        if batch_idx < self.warmup:
            self._restart()
            return
        self._images += len(data_batch['inputs'])
        if not self.every_n_inner_iters(batch_idx, self.interval):
            return
        seconds = time.perf_counter() - self._start
        rates = all_gather_object(self._images / seconds)
        total = sum(rates)
        runner.message_hub.update_scalar('train/throughput', total)
        each = ', '.join(f'{rate:.0f}' for rate in rates)
        runner.logger.info(f'TrainThroughputHook: {total:.0f} img/s; by '
                           f'worker {each}')
        self._restart()

    def _restart(self) -> None:
        self._images = 0
        self._start = time.perf_counter()
