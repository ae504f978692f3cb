"""The checkpoints that a run keeps, and the folders that are its own."""
from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Optional

from mmengine.hooks import CheckpointHook


def best_checkpoints(runner: Any) -> list[Path]:
    """Existing best checkpoints, one for each figure of ``save_best``."""
    known = runner.message_hub.runtime_info
    paths = [Path(v) for k, v in known.items()
             if k.startswith('best_ckpt') and v]
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

    The checkpoint's own where that is one of the run's, else the work dir:
    a run that was resumed from another's checkpoint writes nothing there.
    """
    own = _is_own(runner, checkpoint)
    return checkpoint.parent if own else Path(runner.work_dir)


def spare_others(runner: Any) -> None:
    """Let ``CheckpointHook`` delete no best checkpoint of another run.

    A run that is resumed from a checkpoint elsewhere knows the best one that
    lies there, and the hook would delete it as soon as it has a better one.
    """
    for saver in _savers(runner):
        if not _is_own(runner, getattr(saver, 'best_ckpt_path', None)):
            saver.best_ckpt_path = None
        known = getattr(saver, 'best_ckpt_path_dict', {})
        for name, path in known.items():
            if not _is_own(runner, path):
                known[name] = None


def _savers(runner: Any) -> Iterable[Any]:
    return (h for h in runner.hooks if isinstance(h, CheckpointHook))


def _is_own(runner: Any, path: Any) -> bool:
    """Whether a file lies where the run keeps its files; None does."""
    if path is None:
        return True
    folders = [runner.work_dir,
               *(s.out_dir for s in _savers(runner) if s.out_dir)]
    own = {Path(folder).resolve() for folder in folders}
    return Path(path).parent.resolve() in own
