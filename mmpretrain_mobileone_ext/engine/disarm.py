"""Take out of a checkpoint what mmengine would execute or delete by it.

mmengine executes config text found in checkpoints: ``Runner.resume`` runs
``meta['config']``, and ``mmengine.infer`` runs the ``cfg`` of the message hub
or of ``meta``. ``CheckpointHook`` deletes, on resume, the files and even the
folders that the message hub names as the previous best. Both are plain text
to a pickle reader, so they are dealt with here.
"""
from pathlib import Path
from typing import Any, Optional

from mmpretrain_mobileone_ext.errors import CheckpointError

_EXECUTED = ('config', 'cfg')
#: Where the config text of a checkpoint is kept, under a name no one runs.
CONFIG_TEXT = 'config_text'


def disarm(checkpoint: dict, path: Optional[Path] = None) -> None:
    """Make the non-tensor parts of a checkpoint harmless, in place.

    ``meta['config']`` and ``meta['cfg']`` become ``meta['config_text']``;
    the message hub loses ``cfg`` (the run's own takes its place), every
    ``best_ckpt`` that is not a ``best_*.pth`` beside the checkpoint, and a
    ``keep_ckpt_ids`` that is not a list of integers.

    Args:
        checkpoint (dict): A loaded checkpoint.
        path (Path, optional): The file it came from; none for a stream.

    Raises:
        CheckpointError: If ``meta`` or ``message_hub`` is not a dict.
    """
    meta = _section(checkpoint, 'meta')
    texts = [meta.pop(key) for key in _EXECUTED if key in meta]
    if texts:
        meta.setdefault(CONFIG_TEXT, texts[-1])
    hub = _section(checkpoint, 'message_hub')
    info = _section(hub, 'runtime_info')
    resumed = _section(hub, 'resumed_keys')
    for key in [key for key in info if _is_harmful(key, info[key], path)]:
        del info[key]
        resumed.pop(key, None)


def _section(parent: dict, key: str) -> dict:
    section = parent.get(key, {})
    if not isinstance(section, dict):
        raise CheckpointError(f'{key!r} must be a dict, but is a '
                              f'{type(section).__name__}')
    return section


def _is_harmful(key: Any, value: Any, path: Optional[Path]) -> bool:
    if key == 'cfg':
        return True
    if key == 'keep_ckpt_ids':
        return type(value) is not list or any(
            type(step) is not int for step in value)
    if type(key) is str and key.startswith('best_ckpt'):
        return path is None or not _is_sibling_best(value, path)
    return False


def _is_sibling_best(value: Any, path: Path) -> bool:
    if type(value) is not str:
        return False
    best = Path(value)
    named = best.name.startswith('best_') and best.name.endswith('.pth')
    return named and best.parent.resolve() == path.parent.resolve()
