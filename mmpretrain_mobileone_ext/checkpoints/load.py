"""Checkpoint files: read as untrusted data, written whole or not at all.

Loading one runs nothing that it contains, on any torch version: ``restricted_load`` reads files of
torch.save, and a ``.safetensors`` file is a JSON header and raw numbers. What is left is text that
mmengine would act on. ``Runner.resume`` runs ``meta['config']``, and ``mmengine.infer`` runs the
``cfg`` of the message hub or of ``meta``. ``CheckpointHook`` deletes, on resume, the files and even
the folders that the message hub names as the previous best, and hooks write beside the checkpoint
that it names as the last. :func:`disarm` makes that text harmless.
"""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO, Callable, Optional, Union

import torch
from mmengine.logging import print_log

from ..errors import CheckpointError
from ..models.loading.state_dict import unpack
from ..utils.files import existing_file, write_whole
from .rebuild import brief
from .safe_pickle import restricted_load
from .storages import restorer
from .zip_records import reading

PathLike = Union[str, Path]

_EXECUTED = ('config', 'cfg')
_LAST, _BEST = 'last_ckpt', 'best_ckpt'
#: Where the config text of a checkpoint is kept, under a name no one runs.
CONFIG_TEXT = 'config_text'
#: Bytes of a safetensors header; a tensor takes about 100, and 20 us and 1 kB to load.
_HEADER = 4 << 20


def load_checkpoint_file(
    path: PathLike, map_location: Any = 'cpu', name: Optional[str] = None
) -> dict:
    """Load a checkpoint that nothing is known about.

    Accepted are files of torch.save, zip or legacy format, with a dict of tensors in
    ``'state_dict'`` or at the top: mmengine Runner files with their history, published weights,
    plain state dicts. So are ``.safetensors`` files and timm's, whose ``'state_dict_ema'``, or
    ``'model'``, becomes ``'state_dict'``. Config text in ``meta`` moves to ``meta['config_text']``;
    see :func:`disarm`.

    Args:
        path (str or Path): Local file; ``~`` is expanded.
        map_location: As of torch.load. Defaults to 'cpu'.
        name (str, optional): What messages call the file. Defaults to its path.

    Returns:
        dict: The checkpoint.

    Raises:
        CheckpointError: If the file is missing, empty, damaged, not a checkpoint, or asks to run
            anything; in one line that names it.
    """
    file = existing_file(path)
    try:
        with reading(), open(file, 'rb') as handle:
            is_torchs = file.suffix != '.safetensors'  # which has no magic number
            load = restricted_load if is_torchs else _load_safetensors
            return checked_checkpoint(load(handle, map_location), file)
    except CheckpointError as error:
        raise CheckpointError(f'{name or file}: {error}') from None


def checked_checkpoint(loaded: Any, path: Optional[Path] = None) -> dict:
    """A loaded object as a disarmed checkpoint.

    Raises:
        CheckpointError: If it is no dict, or its state dict is no dict of tensors by name.
    """
    if not isinstance(loaded, dict):
        raise CheckpointError(
            f'a checkpoint must hold a dict, but this one holds a {type(loaded).__name__}'
        )
    key, state = unpack(loaded)
    if key not in ('', 'state_dict'):  # timm's names
        print_log(f"the checkpoint's weights are those in {key!r}", 'current')
        loaded = {**{k: v for k, v in loaded.items() if k != key}, 'state_dict': state}
    if 'state_dict' in loaded:
        _check_tensors(loaded['state_dict'], "'state_dict'")
        disarm(loaded, path)
    else:
        _check_tensors(loaded, "no 'state_dict', so the file itself")
    return loaded


def _check_tensors(state: Any, where: str) -> None:
    if not isinstance(state, dict):
        raise CheckpointError(f'{where} must be a dict of tensors, but is a {type(state).__name__}')
    others = [k for k, v in state.items() if type(k) is not str or not isinstance(v, torch.Tensor)]
    if not others and state:
        return
    shown = ', '.join(f'{brief(key)} ({type(state[key]).__name__})' for key in others[:5])
    rest = '' if len(others) <= 5 else f' and {len(others) - 5} more'
    fault = f'not a tensor: {shown}{rest}' if state else 'it is empty'
    raise CheckpointError(f'{where} must be a dict of tensors by name; {fault}')


def disarm(checkpoint: dict, path: Optional[Path] = None) -> None:
    """Make the non-tensor parts of a checkpoint harmless, in place.

    ``meta['config']`` and ``meta['cfg']`` become ``meta['config_text']``; the message hub loses
    ``cfg`` (the run's own takes its place) and a ``keep_ckpt_ids`` that is not a list of integers.
    Of ``last_ckpt`` and each ``best_ckpt`` only the file's name is believed: it becomes the file of
    that name beside the checkpoint, wherever the folder was when it was written, and goes where
    there is none. A best file is a ``best_*.pth``.

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
    info, resumed = _section(hub, 'runtime_info'), _section(hub, 'resumed_keys')
    for key in list(info):
        if not _mend_entry(info, key, path):
            del info[key]
            resumed.pop(key, None)


def _mend_entry(info: dict, key: Any, path: Optional[Path]) -> bool:
    """Mend an entry that names a file; whether it may stay."""
    value = info[key]
    if key == 'keep_ckpt_ids':
        return type(value) is list and all(type(step) is int for step in value)
    if type(key) is str and key.startswith((_LAST, _BEST)):
        info[key] = _beside(value, path, best=key.startswith(_BEST))
        return info[key] is not None
    return key != 'cfg'


def _section(parent: dict, key: str) -> dict:
    section = parent.get(key, {})
    if not isinstance(section, dict):
        raise CheckpointError(f'{key!r} must be a dict, but is a {type(section).__name__}')
    return section


def _beside(value: Any, path: Optional[Path], best: bool) -> Optional[str]:
    """The file beside ``path`` that has the name of the path ``value``."""
    if path is None or type(value) is not str or '\0' in value:
        return None
    # Knows the separators of both kinds of machine.
    name = PureWindowsPath(value).name
    if best and not (name.startswith('best_') and name.endswith('.pth')):
        return None
    beside = os.path.join(path.parent, name)
    # Neither a folder, which would be deleted with all that is in it, nor a link that leads out.
    inside = os.path.dirname(os.path.realpath(beside)) == os.path.realpath(path.parent)
    if not (os.path.isfile(beside) and inside):
        return None
    return value if os.path.abspath(value) == os.path.abspath(beside) else beside


def _load_safetensors(handle: BinaryIO, map_location: Any) -> dict:
    """The tensors of a ``.safetensors`` file by name, as a checkpoint."""
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load
    except ImportError as error:
        raise CheckpointError(
            'a .safetensors file needs the package safetensors: pip install safetensors'
        ) from error
    header = int.from_bytes(handle.read(8), 'little')
    if header > min(_HEADER, os.fstat(handle.fileno()).st_size):
        raise CheckpointError(
            f'not a readable .safetensors file: a header of {header} '
            f'bytes; at most {_HEADER} are read'
        )
    handle.seek(0)
    try:
        # Read whole: the library's own reader maps the file into memory, and tensors must not
        # change with it later. It refuses numbers that overlap or are left over.
        state = load(handle.read())
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f'not a readable .safetensors file: {error}') from error
    if not state:
        raise CheckpointError('the .safetensors file holds no tensor')
    restore = restorer(map_location)
    return {'state_dict': {name: _moved(tensor, restore) for name, tensor in state.items()}}


def _moved(tensor: torch.Tensor, restore: Any) -> torch.Tensor:
    storage = restore(tensor.untyped_storage(), 'cpu')
    return torch.empty(0, dtype=tensor.dtype, device=storage.device).set_(
        storage, tensor.storage_offset(), tensor.shape, tensor.stride()
    )


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
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CheckpointError(f'{target} cannot be written: {error}') from error
    return write_whole(target, lambda made: _save(checkpoint, made), CheckpointError)


def _save(checkpoint: dict, made: Path) -> None:
    """torch.save; what the disk refuses is raised as the system says it.

    torch finds at the end that its zip file is not as long as it should be, and raises that in
    place of the error of the write.
    """
    with open(made, 'xb') as handle:
        witness: Any = _Witness(handle)
        try:
            torch.save(checkpoint, witness)
        except RuntimeError as error:
            raise (witness.refusal or error) from None


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
