"""The settings of each stage, before they are spread over its blocks."""
from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Optional

from .errors import SpecError
from .option_checks import integer
from .spec_values import per_stage, plain_dict, positive_ints


@dataclass(frozen=True)
class StagePlan:
    """One stage's settings before they are spread over its blocks."""
    index: int
    num_blocks: int
    channels: int
    num_conv_branches: int
    stride: int
    strided: bool  # before output_stride took the stride away
    first_dilation: int
    dilation: int
    num_se: int
    act_cfg: Optional[dict]


def num_stages(*sources: Mapping[str, Any]) -> int:
    """The length of the first sequence, in order of precedence; else 4."""
    for source in sources:
        for key in ('num_blocks', 'width_factor'):
            value = source.get(key)
            if isinstance(value, (list, tuple)) and value:
                return len(value)
    return 4


def stage_plans(n: int, cfg, act_cfg, se_cfg, output_stride,
                dilations) -> list[StagePlan]:
    """Spread scalars, check lengths and values; one plan a stage."""
    depths = positive_ints('num_blocks', per_stage(cfg, 'num_blocks', n))
    widths = per_stage(cfg, 'width_factor', n)
    base = cfg.get('base_channels', tuple(64 * 2**i for i in range(n)))
    base = positive_ints('base_channels',
                         per_stage({'base_channels': base},
                                   'base_channels', n))
    convs = per_stage(cfg, 'num_conv_branches', n)
    strides = positive_ints(
        'strides', per_stage({'strides': cfg.get('strides', 2)},
                             'strides', n))
    stem_stride = integer('stem_stride', cfg.get('stem_stride', 2), 1)
    strided = [stride > 1 for stride in strides]
    strides, dilated = _dilate(stem_stride, strides, output_stride, dilations)
    acts = per_stage({'act_cfg': act_cfg}, 'act_cfg', n)
    num_se = _num_se_blocks(cfg, se_cfg, depths)
    return [
        StagePlan(
            index=i,
            num_blocks=depths[i],
            channels=_width(base[i], widths[i], i),
            num_conv_branches=convs[i],
            stride=strides[i],
            strided=strided[i],
            first_dilation=dilated[i][0],
            dilation=dilated[i][1],
            num_se=num_se[i],
            act_cfg=plain_dict(acts[i])) for i in range(n)
    ]


def _width(base: int, factor, index: int) -> int:
    if isinstance(factor, bool) or not isinstance(factor, (int, float)) \
            or not math.isfinite(factor):
        raise SpecError(f'width_factor of stage {index + 1} must be a finite '
                        f'number, got {factor!r}')
    channels = int(base * factor)
    if channels < 1:
        raise SpecError(
            f'stage {index + 1} has no channels: base_channels={base} x '
            f'width_factor={factor}')
    return channels


def _dilate(stem_stride, strides, output_stride, dilations):
    """Strides and (first, other) dilations per stage."""
    n = len(strides)
    if output_stride is None:
        rates = positive_ints(
            'dilations',
            per_stage({'dilations': 1 if dilations is None else dilations},
                      'dilations', n))
        return strides, [(d, d) for d in rates]
    if dilations is not None:
        raise SpecError('give either output_stride or dilations, not both')
    integer('output_stride', output_stride, 1)
    reached, rate, new_strides, rates = stem_stride, 1, [], []
    for stride in strides:
        first = rate
        if reached * stride > output_stride:
            # A trous: the block that used to stride still samples the old
            # grid; the ones after it see a grid that is `stride` finer.
            rate, stride = rate * stride, 1
        reached *= stride
        new_strides.append(stride)
        rates.append((first, rate))
    if reached != output_stride:
        raise SpecError(f'output_stride={output_stride} cannot be reached '
                        f'with stem_stride={stem_stride} and strides='
                        f'{tuple(strides)} (nearest: {reached})')
    return tuple(new_strides), rates


def _num_se_blocks(cfg, se_cfg, depths) -> tuple[int, ...]:
    """SE blocks counted from each stage's end."""
    n = len(depths)
    if se_cfg is None:
        return (0,) * n
    from_arch = cfg['num_se_blocks']
    if isinstance(from_arch, tuple) and not any(from_arch):
        from_arch = 0  # a preset without SE has none in any number of stages
    from_arch = per_stage({'num_se_blocks': from_arch}, 'num_se_blocks', n)
    for i, count in enumerate(from_arch):
        integer(f'num_se_blocks of stage {i + 1}', count)
    # "The last five" of a stage shortened to three blocks are all three.
    placed = tuple(min(a, d) for a, d in zip(from_arch, depths))
    if isinstance(se_cfg, str):
        return placed
    if 'placement' not in se_cfg:
        return placed if any(placed) else depths
    spread = per_stage({'se_cfg.placement': se_cfg['placement']},
                       'se_cfg.placement', n)
    return tuple(
        _last_n(value, depth, i)
        for i, (value, depth) in enumerate(zip(spread, depths)))


def _last_n(value, depth: int, index: int) -> int:
    if value is None or value == 'none':
        return 0
    if value == 'all':
        return depth
    if isinstance(value, int) and not isinstance(value, bool) \
            and 0 <= value <= depth:
        return value
    raise SpecError(f'se_cfg.placement={value!r} for stage {index + 1}: use '
                    f'"none", "all" or a count from 0 to {depth} (the last n '
                    'blocks)')
