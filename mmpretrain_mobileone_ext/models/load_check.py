"""Refuse state dicts that would leave a network with random weights.

mmengine loads with ``strict=False`` and only warns, so a wrong checkpoint
ends in random weights and exit code 0. These checks run as load hooks of
our modules, before anything is copied.
"""
from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from ..errors import CheckpointError
from .block import MobileOneBlock
from .fold_on_load import fold_incoming
from .load_values import check_dtypes, check_finite
from .translate_on_load import translate_incoming


def check_incoming(module: nn.Module,
                   state_dict: dict,
                   prefix: str,
                   replaceable: Sequence[str] = ()) -> list[str]:
    """Take what fits, as it has to be, and refuse the rest.

    Names of Apple's and timm's code become ours, branches fold for folded
    blocks, then keys, shapes, dtypes and values are looked at.

    Args:
        module: the module that is about to load.
        state_dict: its keys start with ``prefix``; changed in place where
            keys are renamed or branches folded.
        replaceable: key prefixes (relative) that may be missing, extra or
            of another shape: a head for other classes.

    Returns:
        Relative keys of ``module`` under ``replaceable`` that the state dict
        does not fill.

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped keys, another
            kind of number, or weights that are not finite.
    """
    translate_incoming(module, state_dict, prefix)
    for name, block in module.named_modules():
        if isinstance(block, MobileOneBlock):
            fold_incoming(block, state_dict, _join(prefix, name))
    own = module.state_dict()
    given = {
        k[len(prefix):]: v
        for k, v in state_dict.items() if k.startswith(prefix)
    }
    unfilled = [
        k for k in own
        if k not in given and not k.endswith('num_batches_tracked')
    ]
    extra = [k for k in given if k not in own]
    reshaped = [
        k for k in own if k in given and isinstance(given[k], Tensor)
        and given[k].shape != own[k].shape
    ]
    open_ends = tuple(replaceable)
    bad = [[k for k in keys if not k.startswith(open_ends)] if open_ends else
           keys for keys in (unfilled, extra, reshaped)]
    if any(bad):
        raise CheckpointError(_explain(module, own, given, *bad))
    loaded = {k: v for k, v in given.items() if k in own
              and getattr(v, 'shape', None) == own[k].shape}
    check_dtypes(loaded, own, prefix)
    check_finite(module, loaded, prefix)
    if not open_ends:
        return []
    return [k for k in (*unfilled, *reshaped) if k.startswith(open_ends)]


def _join(prefix: str, name: str) -> str:
    return f'{prefix}{name}.' if name else prefix


def _explain(module: nn.Module, own: dict, given: dict, missing: list,
             extra: list, reshaped: list) -> str:
    what = f'the checkpoint does not fit {type(module).__name__}: '
    if not given:
        return (what + 'it holds no weights for it (those of Apple and timm '
                'are for a DeployableClassifier or the backbone alone)')
    if not set(own) & set(given) and any(
            k.startswith('backbone.') for k in given):
        return (what + 'its keys start with "backbone."; load it with '
                "prefix='backbone.'")
    if any('branch_reparam.' in k for k in extra) and not any(
            'branch_reparam.' in k for k in own):
        return (what + 'it is a deploy checkpoint (folded), the model is in '
                'branch form; build the model with deploy=True (--cfg-options '
                'model.backbone.deploy=True) or load the training checkpoint')
    parts = []
    for title, keys in (('missing', missing), ('unexpected', extra)):
        if keys:
            parts.append(f'{len(keys)} {title} keys ({_some(keys)})')
    if reshaped:
        key = reshaped[0]
        parts.append(
            f'{len(reshaped)} keys of another shape ({key}: '
            f'{tuple(given[key].shape)} in the checkpoint, '
            f'{tuple(own[key].shape)} in the model)')
    return what + '; '.join(parts)


def _some(keys: list, limit: int = 3) -> str:
    more = ', ...' if len(keys) > limit else ''
    return ', '.join(keys[:limit]) + more
