"""Read ``.safetensors`` files, the format that timm publishes.

The format is a JSON header and raw numbers: nothing in it can run.
"""
from __future__ import annotations

from pathlib import Path
from typing import Any

from ..errors import CheckpointError


def is_safetensors(file: Path) -> bool:
    """Whether a file's name says so; the format has no magic number."""
    return file.suffix == '.safetensors'


def load_safetensors(file: Path, map_location: Any = 'cpu') -> dict:
    """The file's tensors by name.

    Args:
        file: an existing file.
        map_location: a device or its name; 'cpu' for anything else that
            torch.load would take.

    Raises:
        CheckpointError: safetensors is not installed or refuses the file.
    """
    try:
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    except ImportError as error:
        raise CheckpointError(
            'a .safetensors file needs the package safetensors: '
            'pip install safetensors') from error
    device = map_location if isinstance(map_location, str) else 'cpu'
    try:
        state = load_file(str(file), device=device)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f'not a readable .safetensors file: {error}') from error
    if not state:
        raise CheckpointError('the .safetensors file holds no tensor')
    return state
