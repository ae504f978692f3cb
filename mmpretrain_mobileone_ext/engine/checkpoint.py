"""Checkpoint files: read as untrusted data, written whole or not at all.

Loading one executes nothing it contains, on any torch version: see
``restricted_load`` for the file, ``restricted_pickle`` for its pickle and
``disarm`` for the text in it that mmengine would execute.
"""
import hashlib
from pathlib import Path
from typing import Any, BinaryIO, Callable, List, Optional, Union

import torch
from mmengine.logging import print_log

from mmpretrain_mobileone_ext.atomic_file import write_whole
from mmpretrain_mobileone_ext.errors import CheckpointError
from mmpretrain_mobileone_ext.explain import is_out_of_memory
from mmpretrain_mobileone_ext.foreign.recognize import unpack

from .admitted import brief
from .disarm import disarm
from .restricted_load import restricted_load
from .safetensors_file import is_safetensors, load_safetensors

_CHUNK = 1 << 20
PathLike = Union[str, Path]


def load_checkpoint_file(path: PathLike, map_location: Any = 'cpu',
                         name: Optional[str] = None) -> dict:
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
            raise CheckpointError(f'{name or file}: there is not enough '
                                  'memory to load it') from error
        reason = ' '.join(f'{type(error).__name__}: {error}'.split())
        raise CheckpointError(
            f'{name or file}: not a readable checkpoint (truncated, damaged '
            f'or another format): {reason[:300]}') from error


def existing_file(path: PathLike) -> Path:
    """The path of a non-empty file, ``~`` expanded.

    Raises:
        CheckpointError: If it is missing, empty or no file.
    """
    file = Path(path).expanduser()
    if not file.exists():
        raise CheckpointError(f'{file}: no such checkpoint file')
    if not file.is_file():
        raise CheckpointError(f'{file}: a checkpoint must be a file, but this '
                              'is a directory or a device')
    if file.stat().st_size == 0:
        raise CheckpointError(f'{file}: the checkpoint file is empty')
    return file


def checked_checkpoint(loaded: Any, path: Any = None) -> dict:
    """A loaded object as a disarmed checkpoint.

    Raises:
        CheckpointError: If it is no dict, or its state dict is no dict of
            tensors by name.
    """
    if not isinstance(loaded, dict):
        raise CheckpointError(
            'a checkpoint must hold a dict, but this one holds a '
            f'{type(loaded).__name__}')
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
    return {**{k: v for k, v in loaded.items() if k != key},
            'state_dict': state}


def _check_tensors(state: Any, where: str) -> None:
    if not isinstance(state, dict):
        raise CheckpointError(f'{where} must be a dict of tensors, but is a '
                              f'{type(state).__name__}')
    others = [
        key for key, value in state.items()
        if type(key) is not str or not isinstance(value, torch.Tensor)
    ]
    if others or not state:
        raise CheckpointError(f'{where} must be a dict of tensors by name; '
                              f'{_few(others, state)}')


def _few(others: List[Any], state: dict) -> str:
    if not state:
        return 'it is empty'
    shown = ', '.join(f'{brief(key)} ({type(state[key]).__name__})'
                      for key in others[:5])
    rest = '' if len(others) <= 5 else f' and {len(others) - 5} more'
    return f'not a tensor: {shown}{rest}'


def file_sha256(path: PathLike) -> str:
    """SHA-256 of a file's bytes, 64 lower-case hexadecimal digits.

    Raises:
        CheckpointError: If the file is missing, empty or no file.
    """
    digest = hashlib.sha256()
    with open(existing_file(path), 'rb') as handle:
        for chunk in iter(lambda: handle.read(_CHUNK), b''):
            digest.update(chunk)
    return digest.hexdigest()


def free_target(out: PathLike, source: PathLike, force: bool) -> Path:
    """Where to write what is made from ``source``, ``~`` expanded.

    Raises:
        CheckpointError: it is the source itself, or exists without
            ``force``.
    """
    target = Path(out).expanduser()
    if target.resolve() == Path(source).expanduser().resolve():
        raise CheckpointError(f'{target}: the result would replace the '
                              'training checkpoint or weights it is made from')
    if target.exists() and not force:
        raise CheckpointError(f'{target} exists already; give --force to '
                              'replace it')
    return target


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
        raise CheckpointError(f'{target} cannot be written: '
                              f'{error}') from error
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
