"""How a Core ML file's path travels as a checkpoint, and who may take it."""
from __future__ import annotations

from typing import Optional

from ..errors import CheckpointError

#: State-dict key under which a Core ML file's path travels as a checkpoint.
CORE_ML_KEY = '__coreml_program__'


class ProgramMetadata(dict):
    """Module versions (``_metadata``) of a Core ML file's state dict.

    mmengine and torch ask it for every module, parents first, so it notices
    that the root module, a plain network, has let the program pass. mmengine
    alone would warn about keys and go on with random weights.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.taken = False

    def get(self, name: str, default=None):
        """Versions of a module; the root's hold this object itself.

        Raises:
            CheckpointError: a child is asked for before the program is
                taken.
        """
        if name == '':
            return {CORE_ML_KEY: self}
        if not self.taken:
            raise CheckpointError(
                f'{self.path} is a Core ML file, which this model cannot '
                'execute; add --cfg-options model.type=CoreMLClassifier')
        return default


def take_program(state_dict: dict, prefix: str,
                 local_metadata) -> Optional[str]:
    """Remove and return a Core ML file's path, in a load hook; else None."""
    path = state_dict.pop(prefix + CORE_ML_KEY, None)
    if path is not None and CORE_ML_KEY in (local_metadata or {}):
        local_metadata[CORE_ML_KEY].taken = True
    return path
