"""Read ``.safetensors`` files, the format that timm publishes.

The format is a JSON header and raw numbers: nothing in it can run. The
library refuses numbers that overlap or are left over.
"""
from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from .storages import restorer

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
            'a .safetensors file needs the package safetensors: '
            'pip install safetensors') from error
    try:
        state = load(_read(file))
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f'not a readable .safetensors file: {error}') from error
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
                f'bytes; at most {_HEADER} are read')
        handle.seek(0)
        return handle.read()


def _moved(tensor: torch.Tensor, restore: Any) -> torch.Tensor:
    storage = restore(tensor.untyped_storage(), 'cpu')
    return torch.empty(0, dtype=tensor.dtype, device=storage.device).set_(
        storage, tensor.storage_offset(), tensor.shape, tensor.stride())
