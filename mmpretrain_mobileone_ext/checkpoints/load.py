"""Checkpoint files: read as untrusted data, written whole or not at all.

mmengine executes config text found in checkpoints: ``Runner.resume`` runs
``meta['config']``, and ``mmengine.infer`` runs the ``cfg`` of the message hub
or of ``meta``. ``CheckpointHook`` deletes, on resume, the files and even the
folders that the message hub names as the previous best, and hooks write
beside the checkpoint that it names as the last. All are plain text to a
pickle reader, so they are dealt with here.

The format is a JSON header and raw numbers: nothing in it can run. The
library refuses numbers that overlap or are left over.

Loading one executes nothing it contains, on any torch version: see
``restricted_load`` for the file, ``restricted_pickle`` for its pickle and
``disarm`` for the text in it that mmengine would execute.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, Callable, List, Optional, Union

import torch
from mmengine.logging import print_log

from ..errors import CheckpointError
from ..models.state_dict import unpack
from ..utils.explain import is_out_of_memory
from ..utils.files import existing_file, write_whole
from .rebuild import brief
from .safe_pickle import restricted_load
from .storages import restorer

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
        raise CheckpointError(f'{key!r} must be a dict, but is a {type(section).__name__}')
    return section


def _harmless(key: Any, value: Any, path: Optional[Path]) -> Optional[tuple]:
    """The value that may stay, in a tuple; None where none may."""
    if key == 'cfg':
        return None
    if key == 'keep_ckpt_ids':
        plain = type(value) is list and all(type(step) is int for step in value)
        return (value,) if plain else None
    if type(key) is str and key.startswith((_LAST, _BEST)):
        beside = _beside(value, path, best=key.startswith(_BEST))
        return None if beside is None else (beside,)
    return (value,)


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
    if (
        '\0' in value
        or not os.path.isfile(beside)
        or os.path.dirname(os.path.realpath(beside)) != folder
    ):
        return None
    same = os.path.abspath(value) == os.path.abspath(beside)
    return value if same else beside


#: Bytes of the header; a tensor takes about 100, and 20 us and 1 kB to load.
_HEADER = 4 << 20


def is_safetensors(file: Path) -> bool:
    """Whether a file's name says so; the format has no magic number."""
    return file.suffix == '.safetensors'


def load_safetensors(file: Path, map_location: Any = 'cpu') -> dict:
    """The file's tensors by name.

    Args:
        file: an existing file.
        map_location: as of torch.load.

    Raises:
        CheckpointError: safetensors is not installed or refuses the file, or
            its header is larger than 4 MiB.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise CheckpointError(
            'a .safetensors file needs the package safetensors: pip install safetensors'
        ) from error
    try:
        state = load(_read(file))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'not a readable .safetensors file: {error}') from error
    if not state:
        raise CheckpointError('the .safetensors file holds no tensor')
    restore = restorer(map_location)
    return {name: _moved(tensor, restore) for name, tensor in state.items()}


def _read(file: Path) -> bytes:
    """The whole file: its tensors must not change with it later.

    The library's own reader of files maps them into memory.
    """
    with open(file, 'rb') as handle:
        header = int.from_bytes(handle.read(8), 'little')
        if header > min(_HEADER, os.fstat(handle.fileno()).st_size):
            raise CheckpointError(
                f'not a readable .safetensors file: a header of {header} '
                f'bytes; at most {_HEADER} are read'
            )
        handle.seek(0)
        return handle.read()


def _moved(tensor: torch.Tensor, restore: Any) -> torch.Tensor:
    storage = restore(tensor.untyped_storage(), 'cpu')
    return torch.empty(0, dtype=tensor.dtype, device=storage.device).set_(
        storage, tensor.storage_offset(), tensor.shape, tensor.stride()
    )


PathLike = Union[str, Path]


def load_checkpoint_file(
    path: PathLike, map_location: Any = 'cpu', name: Optional[str] = None
) -> dict:
    """Load a checkpoint that nothing is known about.

    Accepted are files of torch.save, zip or legacy format, with a dict of
    tensors in ``'state_dict'`` or at the top: mmengine Runner files with
    their history, published weights, plain state dicts. So are
    ``.safetensors`` files and timm's, whose ``'state_dict_ema'``, or
    ``'model'``, becomes ``'state_dict'``. Config text in
    ``meta`` moves to ``meta['config_text']``; see :func:`disarm.disarm`.

    Args:
        path (str or Path): Local file; ``~`` is expanded.
        map_location: As of torch.load. Defaults to 'cpu'.
        name (str, optional): What messages call the file. Defaults to its
            path.

    Returns:
        dict: The checkpoint.

    Raises:
        CheckpointError: If the file is missing, empty, damaged, not a
            checkpoint, or asks to run anything; in one line that names it.
    """
    file = existing_file(path)
    try:
        if is_safetensors(file):
            return {'state_dict': load_safetensors(file, map_location)}
        with open(file, 'rb') as handle:
            loaded = restricted_load(handle, map_location)
        return checked_checkpoint(loaded, file)
    except CheckpointError as error:
        raise CheckpointError(f'{name or file}: {error}') from None
    # Hostile bytes reach much of torch: any error there is the file's.
    except Exception as error:
        if is_out_of_memory(error):
            raise CheckpointError(
                f'{name or file}: there is not enough memory to load it'
            ) from error
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise CheckpointError(
            f'{name or file}: not a readable checkpoint (truncated, damaged '
            f'or another format): {reason[:300]}'
        ) from error


def checked_checkpoint(loaded: Any, path: Any = None) -> dict:
    """A loaded object as a disarmed checkpoint.

    Raises:
        CheckpointError: If it is no dict, or its state dict is no dict of
            tensors by name.
    """
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f'a checkpoint must hold a dict, but this one holds a {type(loaded).__name__}'
        )
    loaded = _one_state_dict(loaded)
    if 'state_dict' in loaded:
        _check_tensors(loaded['state_dict'], "'state_dict'")
        disarm(loaded, path)
    else:
        _check_tensors(loaded, "no 'state_dict', so the file itself")
    return loaded


def _one_state_dict(loaded: dict) -> dict:
    """timm's names for a file's weights, as mmengine's."""
    key, state = unpack(loaded)
    if key in ('', 'state_dict'):
        return loaded
    print_log(f"the checkpoint's weights are those in {key!r}", 'current')
    return {**{k: v for k, v in loaded.items() if k != key}, 'state_dict': state}


def _check_tensors(state: Any, where: str) -> None:
    if not isinstance(state, dict):
        raise CheckpointError(f'{where} must be a dict of tensors, but is a {type(state).__name__}')
    others = [
        key
        for key, value in state.items()
        if type(key) is not str or not isinstance(value, torch.Tensor)
    ]
    if others or not state:
        raise CheckpointError(f'{where} must be a dict of tensors by name; {_few(others, state)}')


def _few(others: List[Any], state: dict) -> str:
    if not state:
        return 'it is empty'
    shown = ', '.join(f'{brief(key)} ({type(state[key]).__name__})' for key in others[:5])
    rest = '' if len(others) <= 5 else f' and {len(others) - 5} more'
    return f'not a tensor: {shown}{rest}'


def save_checkpoint_atomic(checkpoint: dict, path: PathLike) -> Path:
    """Write a checkpoint so that ``path`` is the old file or the whole new.

    Args:
        checkpoint (dict): What torch.save takes.
        path (str or Path): Target; its folder is made if missing.

    Returns:
        Path: The file written.

    Raises:
        CheckpointError: If the disk refuses; the old file is still there.
    """
    target = Path(path).expanduser()

    def write(made: Path) -> None:
        with open(made, 'xb') as handle:
            _save(checkpoint, handle)

    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f'{target} cannot be written: {error}') from error
    return write_whole(target, write, CheckpointError)


def _save(checkpoint: dict, handle: BinaryIO) -> None:
    """torch.save; what the disk refuses is raised as the system says it.

    torch finds at the end that its zip file is not as long as it should be,
    and raises that in place of the error of the write.
    """
    witness: Any = _Witness(handle)
    try:
        torch.save(checkpoint, witness)
    except RuntimeError:
        if witness.refusal is None:
            raise
        raise witness.refusal from None


class _Witness:
    """A file to write to that remembers the first refusal."""

    def __init__(self, handle: BinaryIO):
        self._handle = handle
        self.refusal: Optional[OSError] = None

    def write(self, data: Any) -> int:
        return self._asked(self._handle.write, data)

    def flush(self) -> None:
        self._asked(self._handle.flush)

    def _asked(self, call: Callable[..., Any], *args: Any) -> Any:
        try:
            return call(*args)
        except OSError as error:
            self.refusal = self.refusal or error
            raise
