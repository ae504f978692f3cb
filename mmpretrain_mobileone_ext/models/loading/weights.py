"""Which weights may be loaded into a network.

mmengine loads with ``strict=False`` and only warns, so a wrong checkpoint ends in random weights
and exit code 0. :func:`check_incoming` runs as a load hook of our modules, before anything is
copied.
"""

from __future__ import annotations

from collections.abc import Sequence

from mmengine.logging import print_log
from torch import Tensor, nn

from ...errors import CheckpointError
from ..block import MobileOneBlock
from ..fold import fold_incoming
from ..quantization import fit_quantizers
from .state_dict import BACKBONE, MMPRETRAIN, check_dtypes, check_finite, recognize, translate


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
    fit_quantizers(module, state_dict, prefix)
    for name, block in module.named_modules():
        if isinstance(block, MobileOneBlock):
            fold_incoming(block, state_dict, f'{prefix}{name}.' if name else prefix)
    own = module.state_dict()
    given = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    unfilled = [k for k in own if k not in given and not _may_be_missing(k)]
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


def _may_be_missing(key: str) -> bool:
    return key.endswith('num_batches_tracked') or '.quantizer.' in f'.{key}'


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
