"""What may be loaded into a network: weights that fit, or a file in its place.

mmengine loads with ``strict=False`` and only warns, so a wrong checkpoint ends in random weights
and exit code 0. :func:`check_incoming` runs as a load hook of our modules, before anything is
copied.

A Core ML file travels as a state dict with one key. Whoever can execute it takes it out; whoever
asks for the network after that is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn, Optional

from mmengine.logging import print_log
from torch import Tensor, nn

from ..errors import CheckpointError
from .block import MobileOneBlock
from .fold import fold_incoming
from .state_dict import BACKBONE, MMPRETRAIN, check_dtypes, check_finite, recognize, translate

#: State-dict key under which a Core ML file's path travels as a checkpoint.
CORE_ML_KEY = '__coreml_program__'


def check_incoming(
    module: nn.Module, state_dict: dict, prefix: str, replaceable: Sequence[str] = ()
) -> list[str]:
    """Take what fits, as it has to be, and refuse the rest.

    Names of Apple's and timm's code become ours, branches fold for folded blocks, then keys,
    shapes, dtypes and values are looked at.

    Args:
        module: the module that is about to load.
        state_dict: its keys start with ``prefix``; changed in place where keys are renamed or
            branches folded.
        replaceable: key prefixes (relative) that may be missing, extra or of another shape: a head
            for other classes.

    Returns:
        Relative keys of ``module`` under ``replaceable`` that the state dict does not fill.

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped keys, another kind of number, or
            weights that are not finite.
    """
    translate_incoming(module, state_dict, prefix)
    for name, block in module.named_modules():
        if isinstance(block, MobileOneBlock):
            fold_incoming(block, state_dict, f'{prefix}{name}.' if name else prefix)
    own = module.state_dict()
    given = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    unfilled = [k for k in own if k not in given and not k.endswith('num_batches_tracked')]
    extra = [k for k in given if k not in own]
    reshaped = [
        k
        for k in own
        if k in given and isinstance(given[k], Tensor) and given[k].shape != own[k].shape
    ]
    open_ends = tuple(replaceable)
    bad = [[k for k in keys if not k.startswith(open_ends)] for keys in (unfilled, extra, reshaped)]
    if any(bad):
        raise CheckpointError(_explain(module, own, given, *bad))
    loaded = {
        k: v for k, v in given.items() if k in own and getattr(v, 'shape', None) == own[k].shape
    }
    check_dtypes(loaded, own, prefix)
    check_finite(module, loaded, prefix)
    return [k for k in (*unfilled, *reshaped) if k.startswith(open_ends)]


def _explain(
    module: nn.Module, own: dict, given: dict, missing: list, extra: list, reshaped: list
) -> str:
    what = f'the checkpoint does not fit {type(module).__name__}: '
    if not given:
        return (
            what + 'it holds no weights for it (those of Apple and timm '
            'are for a DeployableClassifier or the backbone alone)'
        )
    if not set(own) & set(given) and any(k.startswith('backbone.') for k in given):
        return what + 'its keys start with "backbone."; load it with prefix=\'backbone.\''
    if any('branch_reparam.' in k for k in extra) and not any('branch_reparam.' in k for k in own):
        return (
            what + 'it is a deploy checkpoint (folded), the model is in '
            'branch form; build the model with deploy=True (--cfg-options '
            'model.backbone.deploy=True) or load the training checkpoint'
        )
    parts = []
    for title, keys in (('missing', missing), ('unexpected', extra)):
        if keys:
            parts.append(f'{len(keys)} {title} keys ({_some(keys)})')
    if reshaped:
        key = reshaped[0]
        parts.append(
            f'{len(reshaped)} keys of another shape ({key}: {tuple(given[key].shape)} in the '
            f'checkpoint, {tuple(own[key].shape)} in the model)'
        )
    return what + '; '.join(parts)


def _some(keys: list, limit: int = 3) -> str:
    more = ', ...' if len(keys) > limit else ''
    return ', '.join(keys[:limit]) + more


def translate_incoming(module: nn.Module, state_dict: dict, prefix: str) -> None:
    """Rename weights of Apple or timm in place; leave all others alone.

    A network whose names have ``backbone.`` in them gets the head too; a backbone alone has no
    place for it. What was recognized is logged.

    Args:
        module: a classifier with a ``backbone``, or the backbone.
        state_dict: the module's keys start with ``prefix``.
    """
    given = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    found = recognize(given)
    if found is None:
        return
    whole = hasattr(module, 'backbone')
    renamed = translate(given, found, MMPRETRAIN if whole else BACKBONE)
    if not whole:
        renamed = {k: v for k, v in renamed.items() if not k.startswith('head.fc.')}
    for name in given:
        del state_dict[prefix + name]
    state_dict.update({prefix + k: v for k, v in renamed.items()})
    dropped = ', its head left out' if found.has_head and not whole else ''
    print_log(f'{type(module).__name__} loads weights of {found.summary}{dropped}', 'current')


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
