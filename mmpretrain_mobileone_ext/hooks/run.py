"""What hooks ask about their run: the order of hooks, its checkpoints, its kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Optional, Union

from mmengine.hooks import CheckpointHook, Hook
from mmengine.runner import BaseLoop
from torch.utils.data import DataLoader

from ..errors import SpecError

Kinds = Sequence[type]


def check_order(hooks: Sequence[Hook], own: Hook, *, after: Kinds = (), before: Kinds = ()) -> None:
    """Refuse a priority that puts ``own`` on the wrong side of another.

    Args:
        hooks: all hooks of the run, in the order in which they are called.
        own: one of them.
        after: kinds of hooks that ``own`` has to follow.
        before: kinds of hooks that ``own`` has to precede.

    Raises:
        SpecError: names the hooks and the priority.
    """
    place = next(i for i, hook in enumerate(hooks) if hook is own)
    sides = (('after', after, hooks[place:]), ('before', before, hooks[:place]))
    rule = ' and '.join(
        f'{word} {" and ".join(kind.__name__ for kind in kinds)}'
        for word, kinds, _ in sides
        if kinds
    )
    for word, kinds, wrong in sides:
        found = [kind.__name__ for kind in kinds if any(isinstance(hook, kind) for hook in wrong)]
        if found:
            raise SpecError(
                f'{type(own).__name__}: priority={own.priority!r} puts {found[0]} {word} '
                f'it; it must come {rule}'
            )


def best_checkpoints(runner: Any) -> list[Path]:
    """Existing best checkpoints, one for each figure of ``save_best``."""
    known = runner.message_hub.runtime_info
    paths = [Path(v) for k, v in known.items() if k.startswith('best_ckpt') and v]
    return [p for p in dict.fromkeys(paths) if p.is_file()]


def last_checkpoint(runner: Any) -> Optional[Path]:
    """The checkpoint that was saved last, or None."""
    path = runner.message_hub.runtime_info.get('last_ckpt')
    return Path(path) if path and Path(path).is_file() else None


def kept_checkpoints(runner: Any) -> list[Path]:
    """The last checkpoint and the best ones, each once."""
    last = last_checkpoint(runner)
    found = [*([last] if last else []), *best_checkpoints(runner)]
    return list(dict.fromkeys(found))


def place_beside(runner: Any, checkpoint: Path) -> Path:
    """The folder for what is made from ``checkpoint``.

    The checkpoint's own where that is one of the run's, else the work dir: a run that was resumed
    from another's checkpoint writes nothing there.
    """
    own = _is_own(runner, checkpoint)
    return checkpoint.parent if own else Path(runner.work_dir)


def spare_others(runner: Any) -> None:
    """Let ``CheckpointHook`` delete no best checkpoint of another run.

    A run that is resumed from a checkpoint elsewhere knows the best one that lies there, and the
    hook would delete it as soon as it has a better one.
    """
    for saver in _savers(runner):
        if not _is_own(runner, getattr(saver, 'best_ckpt_path', None)):
            saver.best_ckpt_path = None
        known = getattr(saver, 'best_ckpt_path_dict', {})
        known.update({name: None for name, path in known.items() if not _is_own(runner, path)})


def _savers(runner: Any) -> Iterable[Any]:
    return (h for h in runner.hooks if isinstance(h, CheckpointHook))


def _is_own(runner: Any, path: Any) -> bool:
    """Whether a file lies where the run keeps its files; None does."""
    if path is None:
        return True
    folders = [runner.work_dir, *(s.out_dir for s in _savers(runner) if s.out_dir)]
    own = {Path(folder).resolve() for folder in folders}
    return Path(path).parent.resolve() in own


def first_of(when: Union[int, float], total: int) -> int:
    """The first epoch or iteration of a phase: its number, or a share of ``total``."""
    # 0.29 of 100 is 28.999999999999996.
    return when if isinstance(when, int) else int(when * total + 1e-9)


def leaves_preview(hook: Hook, runner) -> bool:
    """Take a hook out of a run that steps schedulers and nothing else.

    MMPretrain's ``vis_scheduler.py`` runs a config's hooks on a stand-in for the network and a list
    of numbers for the data; it neither scores nor saves. A hook that works on networks, images or
    files has nothing to do there, and nothing to refuse.

    Args:
        hook: asks in its ``before_run``.
        runner: of the run.

    Returns:
        Whether it was such a run.
    """
    train, *scores = (getattr(runner, f'_{stage}_loop', None) for stage in ('train', 'val', 'test'))
    works = any(isinstance(loop, BaseLoop) for loop in scores) or any(_savers(runner))
    if works or not isinstance(train, BaseLoop) or isinstance(train.dataloader, DataLoader):
        return False
    # A new list: the runner is going through the old one.
    runner._hooks = [other for other in runner.hooks if other is not hook]
    return True
