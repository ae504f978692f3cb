"""A Core ML file in a network's place.

It travels as a state dict with one key. Whoever can execute it takes it out; whoever asks for the
network after that is refused by name.
"""

from __future__ import annotations

from typing import Any, NoReturn, Optional

from torch import nn

from ...errors import CheckpointError

#: State-dict key under which a Core ML file's path travels as a checkpoint.
CORE_ML_KEY = '__coreml_program__'


class ProgramMetadata(dict):
    """Module versions (``_metadata``) of a Core ML file's state dict.

    mmengine and torch ask it for every module, parents first, so it notices that the root module, a
    plain network, has let the program pass. mmengine alone would warn about keys and go on with
    random weights.
    """

    def __init__(self, path: str):
        super().__init__()
        self.path = path
        self.taken = False

    def get(self, name: str, default=None):
        """Versions of a module; the root's hold this object itself.

        Raises:
            CheckpointError: a child is asked for before the program is taken.
        """
        if name == '':
            return {CORE_ML_KEY: self}
        if not self.taken:
            raise CheckpointError(
                f'{self.path} is a Core ML file, which this model cannot '
                'execute; add --cfg-options model.type=CoreMLClassifier'
            )
        return default


def take_program(state_dict: dict, prefix: str, local_metadata) -> Optional[str]:
    """Remove and return a Core ML file's path, in a load hook; else None."""
    path = state_dict.pop(prefix + CORE_ML_KEY, None)
    if path is not None and CORE_ML_KEY in (local_metadata or {}):
        local_metadata[CORE_ML_KEY].taken = True
    return path


class ProgramOnlyError(CheckpointError, AttributeError):
    """What a Core ML file in place of a network cannot answer.

    An ``AttributeError``, so that ``hasattr`` says no.
    """


def refuse(path: Any, asked: str) -> NoReturn:
    """Name what was asked of a Core ML file, and what it can do.

    Raises:
        ProgramOnlyError: always.
    """
    raise ProgramOnlyError(
        f'{path} is a Core ML file, loaded in place of the network: it predicts through test_step '
        f'and val_step, but {asked} needs a network with the weights of a torch checkpoint'
    )


def require_network(model: nn.Module, asked: str) -> None:
    """Refuse a model that holds a Core ML file instead of a network.

    Raises:
        ProgramOnlyError: it does.
    """
    for module in model.modules():
        artifact = getattr(module, 'artifact', None)
        if artifact is not None:
            refuse(artifact.path, asked)


class ReplacedPart(nn.Module):
    """Stands where a part of a network was; whatever is asked is refused.

    Args:
        path: the Core ML file.
        name: of the part in its model, e.g. 'backbone'.
    """

    def __init__(self, path: str, name: str):
        super().__init__()
        self._path = path
        self._part = name

    def forward(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse to run.

        Raises:
            ProgramOnlyError: always.
        """
        refuse(self._path, f'the {self._part}')

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            path = self.__dict__.get('_path', 'the file')
            part = self.__dict__.get('_part', 'network')
        refuse(path, f'{part}.{name}')
