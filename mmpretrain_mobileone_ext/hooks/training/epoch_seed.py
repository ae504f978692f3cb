"""Random numbers that follow from the epoch, so that a resume is exact."""

from __future__ import annotations

import random
from functools import partial
from typing import Optional

import numpy as np
import torch
from mmengine.dataset import worker_init_fn
from mmengine.dist import broadcast_object_list, get_rank
from mmengine.hooks import Hook
from mmengine.registry import HOOKS

from ..run import leaves_preview

#: A prime beyond the ranks and workers of any run, so that no two meet.
_STRIDE = 1_000_003
_SEEDS = 2**31


@HOOKS.register_module()
class EpochSeedHook(Hook):
    """Seed every training epoch by its number.

    mmengine seeds once, at the start of a process, and saves no state of the generators: after
    ``--resume`` augmentation and dropout draw other numbers than in a run that was not interrupted.
    With this hook Python, NumPy and torch start each epoch from the run's seed, the rank and the
    epoch, in the main process and in its workers, and the order of the images follows from the same
    seed; persistent workers are started anew. A run that was killed and resumed then equals one
    that was not, where the arithmetic is deterministic.

    A checkpoint holds the seed of its run, so none has to be set. What a checkpoint does not hold
    is lost all the same: gradients that are being accumulated when an epoch ends.
    """

    # Before any hook that draws numbers.
    priority = 'VERY_HIGH'

    def before_run(self, runner) -> None:
        """Leave a run that has no images to draw."""
        leaves_preview(self, runner)

    def before_train(self, runner) -> None:
        """Agree on the seed of rank 0, the one that is saved."""
        seeds = [runner.seed]
        broadcast_object_list(seeds)
        self._seed = seeds[0]
        counts = getattr(runner.optim_wrapper, '_accumulative_counts', 1)
        if len(runner.train_dataloader) % counts:
            runner.logger.warning(
                f'EpochSeedHook: {len(runner.train_dataloader)} iterations an '
                f'epoch are no multiple of accumulative_counts={counts}, so '
                'a resumed run lacks the gradients of the last ones'
            )

    def before_train_epoch(self, runner) -> None:
        """Seed this process and the workers of the epoch."""
        seed = epoch_seed(self._seed, runner.epoch)
        seed_all(seed + get_rank())
        loader = runner.train_dataloader
        if hasattr(loader.sampler, 'seed'):
            # It adds the epoch itself.
            loader.sampler.seed = self._seed
        if loader.num_workers:
            loader.worker_init_fn = partial(
                worker_init_fn,
                num_workers=loader.num_workers,
                rank=get_rank(),
                seed=seed,
                disable_subprocess_warning=True,
            )
        # Workers that persist keep the generators that they started with.
        loader._iterator = None


def epoch_seed(seed: Optional[int], epoch: int) -> int:
    """A seed for one epoch, the same on all ranks."""
    return ((seed or 0) + _STRIDE * (epoch + 1)) % _SEEDS


def seed_all(seed: int) -> None:
    """Seed Python, NumPy and torch with all its devices."""
    random.seed(seed)
    np.random.seed(seed % _SEEDS)
    torch.manual_seed(seed)
