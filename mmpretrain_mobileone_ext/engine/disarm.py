"""Take out of a checkpoint what mmengine would execute, delete or follow.

mmengine executes config text found in checkpoints: ``Runner.resume`` runs
``meta['config']``, and ``mmengine.infer`` runs the ``cfg`` of the message hub
or of ``meta``. ``CheckpointHook`` deletes, on resume, the files and even the
folders that the message hub names as the previous best, and hooks write
beside the checkpoint that it names as the last. All are plain text to a
pickle reader, so they are dealt with here.
"""
import os
from pathlib import Path, PureWindowsPath
from typing import Any, Optional

from mmpretrain_mobileone_ext.errors import CheckpointError

_EXECUTED = ('config', 'cfg')
_LAST, _BEST = 'last_ckpt', 'best_ckpt'
#: Where the config text of a checkpoint is kept, under a name no one runs.
CONFIG_TEXT = 'config_text'


def disarm(checkpoint: dict, path: Optional[Path] = None) -> None:
    """Make the non-tensor parts of a checkpoint harmless, in place.

    ``meta['config']`` and ``meta['cfg']`` become ``meta['config_text']``;
    the message hub loses ``cfg`` (the run's own takes its place) and a
    ``keep_ckpt_ids`` that is not a list of integers. Of ``last_ckpt`` and
    each ``best_ckpt`` only the file's name is believed: it becomes the file
    of that name beside the checkpoint, wherever the folder was when it was
    written, and goes where there is none. A best file is a ``best_*.pth``.

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
    for key in list(info):
        kept = _harmless(key, info[key], path)
        if kept is None:
            del info[key]
            resumed.pop(key, None)
        else:
            info[key] = kept[0]


def _section(parent: dict, key: str) -> dict:
    section = parent.get(key, {})
    if not isinstance(section, dict):
        raise CheckpointError(f'{key!r} must be a dict, but is a '
                              f'{type(section).__name__}')
    return section


def _harmless(key: Any, value: Any, path: Optional[Path]) -> Optional[tuple]:
    """The value that may stay, in a tuple; None where none may."""
    if key == 'cfg':
        return None
    if key == 'keep_ckpt_ids':
        plain = type(value) is list and all(
            type(step) is int for step in value)
        return (value, ) if plain else None
    if type(key) is str and key.startswith((_LAST, _BEST)):
        beside = _beside(value, path, best=key.startswith(_BEST))
        return None if beside is None else (beside, )
    return (value, )


def _beside(value: Any, path: Optional[Path], best: bool) -> Optional[str]:
    """The file beside ``path`` that has the name of the path ``value``."""
    if path is None or type(value) is not str:
        return None
    # Knows the separators of both kinds of machine.
    name = PureWindowsPath(value).name
    if best and not (name.startswith('best_') and name.endswith('.pth')):
        return None
    folder = os.path.realpath(path.parent)
    beside = os.path.join(path.parent, name)
    # Neither a folder, which would be deleted with all that is in it, nor a
    # link that leads out.
    if '\0' in value or not os.path.isfile(beside) or \
            os.path.dirname(os.path.realpath(beside)) != folder:
        return None
    same = os.path.abspath(value) == os.path.abspath(beside)
    return value if same else beside
