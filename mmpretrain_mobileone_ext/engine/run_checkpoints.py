"""The checkpoints that a run keeps: its best ones and its last."""
from __future__ import annotations

from pathlib import Path
from typing import Any, Optional


def best_checkpoints(runner: Any) -> list[Path]:
    """Existing best checkpoints, one for each figure of ``save_best``."""
    known = runner.message_hub.runtime_info
    paths = [_moved(runner, v) for k, v in known.items()
             if k.startswith('best_ckpt') and v]
    return [p for p in dict.fromkeys(paths) if p.is_file()]


def last_checkpoint(runner: Any) -> Optional[Path]:
    """The checkpoint that was saved last, or None."""
    path = runner.message_hub.runtime_info.get('last_ckpt')
    found = _moved(runner, path) if path else None
    return found if found and found.is_file() else None


def kept_checkpoints(runner: Any) -> list[Path]:
    """The last checkpoint and the best ones, each once."""
    last = last_checkpoint(runner)
    found = [*([last] if last else []), *best_checkpoints(runner)]
    return list(dict.fromkeys(found))


def _moved(runner: Any, path: str) -> Path:
    """A run may be moved before it is resumed: its own folder comes first."""
    own = Path(runner.work_dir) / Path(path).name
    return own if own.is_file() else Path(path)
