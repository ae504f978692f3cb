"""Checks of single values of an architecture; each raises ``SpecError``."""
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Optional

from . import option_checks
from .errors import SpecError
from .option_checks import integer

BRANCH_KINDS = ('conv', 'scale', 'skip')
SE_UNITS = {
    'both': ('depthwise', 'pointwise'),
    'depthwise': ('depthwise', ),
    'pointwise': ('pointwise', ),
}
_SE_LAYER_KEYS = ('ratio', 'squeeze_channels', 'divisor', 'bias', 'conv_cfg',
                  'act_cfg')


def positive_ints(name: str, values: Any) -> tuple[int, ...]:
    """Return ``values`` as a non-empty tuple of ints >= 1."""
    if not isinstance(values, (list, tuple)) or not values:
        raise SpecError(f'{name} must be a non-empty list or tuple of '
                        f'integers, got {values!r}')
    return tuple(
        integer(f'{name} of stage {i + 1}', v, 1)
        for i, v in enumerate(values))


def per_stage(cfg: Mapping[str, Any], key: str, num_stages: int) -> tuple:
    """Return ``cfg[key]``, a scalar or a sequence, as one value a stage."""
    value = cfg[key]
    if not isinstance(value, (list, tuple)):
        return (value, ) * num_stages
    if len(value) != num_stages:
        raise SpecError(f'{key} has {len(value)} values for {num_stages} '
                        f'stages (their number follows from num_blocks): '
                        f'{value!r}')
    return tuple(value)


def plain_dict(cfg: Any) -> Optional[dict]:
    """Return an activation config as a dict with a ``type``, or None."""
    if cfg is None:
        return None
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise SpecError('act_cfg must be None or a dict with a "type", '
                        f'or one of these a stage; got {cfg!r}')
    return dict(cfg)


def check_branches(branches: Any) -> tuple[str, ...]:
    """Return branch kinds as a tuple of names from ``BRANCH_KINDS``."""
    return option_checks.selection('branches', branches, BRANCH_KINDS)


def split_se_cfg(se_cfg: Any) -> tuple[Optional[dict], tuple[str, ...]]:
    """Split ``se_cfg`` into SELayer arguments and the units that get one.

    Returns ``(None, ())`` for None (no SE anywhere) and the paper's ratio of
    16 on both units for ``'arch'``.
    """
    if se_cfg is None:
        return None, ()
    if isinstance(se_cfg, str) and se_cfg == 'arch':
        return dict(ratio=16), SE_UNITS['both']
    if not isinstance(se_cfg, Mapping):
        raise SpecError('se_cfg must be None (no SE), "arch" (where the '
                        f'architecture places it) or a dict, got {se_cfg!r}')
    args = dict(se_cfg)
    args.pop('placement', None)
    units = args.pop('units', 'both')
    if not isinstance(units, str) or units not in SE_UNITS:
        raise SpecError(f'se_cfg.units={units!r} is not one of '
                        f'{list(SE_UNITS)}')
    unknown = [k for k in args if k not in _SE_LAYER_KEYS]
    if unknown:
        raise SpecError(f'se_cfg has unknown keys {unknown}; allowed are '
                        f'{["placement", "units", *_SE_LAYER_KEYS]}')
    integer('se_cfg.ratio', args.setdefault('ratio', 16), 1)
    if args.get('squeeze_channels') is not None:
        integer('se_cfg.squeeze_channels', args['squeeze_channels'], 1)
    return args, SE_UNITS[units]


def resolve_out_indices(out_indices: Any, num_stages: int) -> tuple[int, ...]:
    """Return stage indices 0..num_stages-1, negative ones resolved."""
    if isinstance(out_indices, int) and not isinstance(out_indices, bool):
        out_indices = (out_indices, )
    if not isinstance(out_indices, (list, tuple)) or not out_indices:
        raise SpecError('out_indices must be an integer or a non-empty '
                        f'sequence of integers, got {out_indices!r}')
    resolved = []
    for index in out_indices:
        if isinstance(index, bool) or not isinstance(index, int) \
                or not -num_stages <= index < num_stages:
            raise SpecError(f'out_indices has {index!r}; a network of '
                            f'{num_stages} stages allows {-num_stages} to '
                            f'{num_stages - 1}')
        resolved.append(index % num_stages)
    if len(set(resolved)) != len(resolved):
        raise SpecError(f'out_indices={tuple(out_indices)} names a stage '
                        'twice')
    return tuple(resolved)
