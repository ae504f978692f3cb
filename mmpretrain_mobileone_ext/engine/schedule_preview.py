"""Runs that only draw a schedule, with neither network nor images."""
from __future__ import annotations

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader


def leaves_preview(hook: Hook, runner) -> bool:
    """Take a hook out of a run that steps schedulers and nothing else.

    MMPretrain's ``vis_scheduler.py`` runs a config's hooks on a stand-in for
    the network and a list of numbers for the data; it neither scores nor
    saves. A hook that works on networks, images or files has nothing to do
    there, and nothing to refuse.

    Args:
        hook: asks in its ``before_run``.
        runner: of the run.

    Returns:
        Whether it was such a run.
    """
    if not _previews_schedule(runner):
        return False
    # A new list: the runner is going through the old one.
    runner._hooks = [other for other in runner.hooks if other is not hook]
    return True


def _previews_schedule(runner) -> bool:
    train, *scores = (getattr(runner, f'_{stage}_loop', None)
                      for stage in ('train', 'val', 'test'))
    if not isinstance(train, BaseLoop) or \
            isinstance(train.dataloader, DataLoader):
        return False
    return not any(isinstance(loop, BaseLoop) for loop in scores) and \
        not any(isinstance(hook, CheckpointHook) for hook in runner.hooks)
