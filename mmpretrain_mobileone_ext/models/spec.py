"""What a MobileOne is made of, as validated frozen data (no torch here).

A network is a stem unit and stages of blocks; a block is a 3x3 depthwise
unit followed by a 1x1 pointwise unit; a unit holds parallel branches that
fold into one convolution (paper section 3.2 and table 7, arXiv 2206.04040).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from ..errors import SpecError
from ..utils import checks
from ..utils.checks import integer, layer_cfg, text

BRANCH_KINDS = ('conv', 'scale', 'skip')
SE_UNITS = {
    'both': ('depthwise', 'pointwise'),
    'depthwise': ('depthwise',),
    'pointwise': ('pointwise',),
}
_SE_LAYER_KEYS = ('ratio', 'squeeze_channels', 'divisor', 'bias', 'conv_cfg', 'act_cfg')


def positive_ints(name: str, values: Any) -> tuple[int, ...]:
    """Return ``values`` as a non-empty tuple of ints >= 1."""
    if not isinstance(values, (list, tuple)) or not values:
        raise SpecError(f'{name} must be a non-empty list or tuple of integers, got {values!r}')
    return tuple(integer(f'{name} of stage {i + 1}', v, 1) for i, v in enumerate(values))


def per_stage(cfg: Mapping[str, Any], key: str, num_stages: int) -> tuple:
    """Return ``cfg[key]``, a scalar or a sequence, as one value a stage."""
    value = cfg[key]
    if not isinstance(value, (list, tuple)):
        return (value,) * num_stages
    if len(value) != num_stages:
        raise SpecError(
            f'{key} has {len(value)} values for {num_stages} '
            f'stages (their number follows from num_blocks): '
            f'{value!r}'
        )
    return tuple(value)


def plain_dict(cfg: Any) -> Optional[dict]:
    """Return an activation config as a dict with a ``type``, or None."""
    if cfg is None:
        return None
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise SpecError(
            f'act_cfg must be None or a dict with a "type", or one of these a stage; got {cfg!r}'
        )
    return dict(cfg)


def check_branches(branches: Any) -> tuple[str, ...]:
    """Return branch kinds as a tuple of names from ``BRANCH_KINDS``."""
    return checks.selection('branches', branches, BRANCH_KINDS)


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
        raise SpecError(
            'se_cfg must be None (no SE), "arch" (where the '
            f'architecture places it) or a dict, got {se_cfg!r}'
        )
    args = dict(se_cfg)
    args.pop('placement', None)
    units = args.pop('units', 'both')
    if not isinstance(units, str) or units not in SE_UNITS:
        raise SpecError(f'se_cfg.units={units!r} is not one of {list(SE_UNITS)}')
    unknown = [k for k in args if k not in _SE_LAYER_KEYS]
    if unknown:
        raise SpecError(
            f'se_cfg has unknown keys {unknown}; allowed are '
            f'{["placement", "units", *_SE_LAYER_KEYS]}'
        )
    integer('se_cfg.ratio', args.setdefault('ratio', 16), 1)
    if args.get('squeeze_channels') is not None:
        integer('se_cfg.squeeze_channels', args['squeeze_channels'], 1)
    return args, SE_UNITS[units]


def resolve_out_indices(out_indices: Any, num_stages: int) -> tuple[int, ...]:
    """Return stage indices 0..num_stages-1, negative ones resolved."""
    if isinstance(out_indices, int) and not isinstance(out_indices, bool):
        out_indices = (out_indices,)
    if not isinstance(out_indices, (list, tuple)) or not out_indices:
        raise SpecError(
            'out_indices must be an integer or a non-empty '
            f'sequence of integers, got {out_indices!r}'
        )
    resolved = []
    for index in out_indices:
        if (
            isinstance(index, bool)
            or not isinstance(index, int)
            or not -num_stages <= index < num_stages
        ):
            raise SpecError(
                f'out_indices has {index!r}; a network of '
                f'{num_stages} stages allows {-num_stages} to '
                f'{num_stages - 1}'
            )
        resolved.append(index % num_stages)
    if len(set(resolved)) != len(resolved):
        raise SpecError(f'out_indices={tuple(out_indices)} names a stage twice')
    return tuple(resolved)


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


def stage_plans(n: int, cfg, act_cfg, se_cfg, output_stride, dilations) -> list[StagePlan]:
    """Spread scalars, check lengths and values; one plan a stage."""
    depths = positive_ints('num_blocks', per_stage(cfg, 'num_blocks', n))
    widths = per_stage(cfg, 'width_factor', n)
    base = cfg.get('base_channels', tuple(64 * 2**i for i in range(n)))
    base = positive_ints('base_channels', per_stage({'base_channels': base}, 'base_channels', n))
    convs = per_stage(cfg, 'num_conv_branches', n)
    strides = positive_ints('strides', per_stage({'strides': cfg.get('strides', 2)}, 'strides', n))
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
            act_cfg=plain_dict(acts[i]),
        )
        for i in range(n)
    ]


def _width(base: int, factor, index: int) -> int:
    if (
        isinstance(factor, bool)
        or not isinstance(factor, (int, float))
        or not math.isfinite(factor)
    ):
        raise SpecError(
            f'width_factor of stage {index + 1} must be a finite number, got {factor!r}'
        )
    channels = int(base * factor)
    if channels < 1:
        raise SpecError(
            f'stage {index + 1} has no channels: base_channels={base} x width_factor={factor}'
        )
    return channels


def _dilate(stem_stride, strides, output_stride, dilations):
    """Strides and (first, other) dilations per stage."""
    n = len(strides)
    if output_stride is None:
        rates = positive_ints(
            'dilations',
            per_stage({'dilations': 1 if dilations is None else dilations}, 'dilations', n),
        )
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
        raise SpecError(
            f'output_stride={output_stride} cannot be reached '
            f'with stem_stride={stem_stride} and strides='
            f'{tuple(strides)} (nearest: {reached})'
        )
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
    spread = per_stage({'se_cfg.placement': se_cfg['placement']}, 'se_cfg.placement', n)
    return tuple(_last_n(value, depth, i) for i, (value, depth) in enumerate(zip(spread, depths)))


def _last_n(value, depth: int, index: int) -> int:
    if value is None or value == 'none':
        return 0
    if value == 'all':
        return depth
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= depth:
        return value
    raise SpecError(
        f'se_cfg.placement={value!r} for stage {index + 1}: use '
        f'"none", "all" or a count from 0 to {depth} (the last n '
        'blocks)'
    )


ActCfg = Optional[dict]

_S1_K = (1, 1, 1, 1)
_BLOCKS = (2, 8, 10, 1)
_NO_SE = (0, 0, 0, 0)

#: Variants of paper table 7; ``num_se_blocks`` counts from a stage's end.
PRESETS: dict[str, dict[str, tuple]] = {
    's0': dict(
        num_blocks=_BLOCKS,
        width_factor=(0.75, 1.0, 1.0, 2.0),
        num_conv_branches=(4, 4, 4, 4),
        num_se_blocks=_NO_SE,
    ),
    's1': dict(
        num_blocks=_BLOCKS,
        width_factor=(1.5, 1.5, 2.0, 2.5),
        num_conv_branches=_S1_K,
        num_se_blocks=_NO_SE,
    ),
    's2': dict(
        num_blocks=_BLOCKS,
        width_factor=(1.5, 2.0, 2.5, 4.0),
        num_conv_branches=_S1_K,
        num_se_blocks=_NO_SE,
    ),
    's3': dict(
        num_blocks=_BLOCKS,
        width_factor=(2.0, 2.5, 3.0, 4.0),
        num_conv_branches=_S1_K,
        num_se_blocks=_NO_SE,
    ),
    's4': dict(
        num_blocks=_BLOCKS,
        width_factor=(3.0, 3.5, 3.5, 4.0),
        num_conv_branches=_S1_K,
        num_se_blocks=(0, 0, 5, 1),
    ),
}

_ARCH_KEYS = (
    'num_blocks',
    'width_factor',
    'num_conv_branches',
    'num_se_blocks',
    'base_channels',
    'stem_channels',
    'stem_stride',
    'strides',
)


@dataclass(frozen=True)
class UnitSpec:
    """One re-parameterizable unit: k conv-BN, a scale and a skip branch.

    ``name`` is the module path inside the backbone, for messages.
    ``se_cfg`` holds ``SELayer`` arguments or None; ``act_cfg=None`` is the
    identity. Padding keeps the size at stride 1.
    """

    name: str
    in_channels: int
    out_channels: int
    kernel_size: int
    stride: int = 1
    dilation: int = 1
    groups: int = 1
    num_conv_branches: int = 1
    branches: tuple[str, ...] = ('conv', 'scale', 'skip')
    se_cfg: Optional[dict] = None
    act_cfg: ActCfg = None

    def __post_init__(self):
        text('name', self.name)
        layer_cfg(f'{self.name}: se_cfg', self.se_cfg)
        layer_cfg(f'{self.name}: act_cfg', self.act_cfg)
        for field in ('in_channels', 'out_channels', 'kernel_size', 'stride', 'dilation', 'groups'):
            integer(f'{self.name}: {field}', getattr(self, field), 1)
        integer(f'{self.name}: num_conv_branches', self.num_conv_branches)
        check_branches(self.branches)
        if self.kernel_size % 2 == 0:
            raise SpecError(
                f'{self.name}: kernel_size={self.kernel_size} is even; an odd '
                'kernel is needed so that the 1x1 scale branch has a centre'
            )
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise SpecError(
                f'{self.name}: groups={self.groups} must divide in_channels='
                f'{self.in_channels} and out_channels={self.out_channels}'
            )
        if not (self.num_convs or self.has_scale or self.has_skip):
            raise SpecError(
                f'{self.name}: no branch is left in this {self.kernel_size}x'
                f'{self.kernel_size} unit ({self.in_channels} -> '
                f'{self.out_channels} channels, stride {self.stride}) with '
                f'num_conv_branches={self.num_conv_branches} and branches='
                f'{self.branches}; "scale" needs a kernel > 1, "skip" needs '
                'equal channels and stride 1'
            )

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel_size // 2)

    @property
    def num_convs(self) -> int:
        return self.num_conv_branches if 'conv' in self.branches else 0

    @property
    def has_scale(self) -> bool:
        return 'scale' in self.branches and self.kernel_size > 1

    @property
    def has_skip(self) -> bool:
        return (
            'skip' in self.branches and self.stride == 1 and self.in_channels == self.out_channels
        )


@dataclass(frozen=True)
class NetworkSpec:
    """A stem unit and, per stage, its units (depthwise, pointwise, ...)."""

    stem: UnitSpec
    stages: tuple[tuple[UnitSpec, ...], ...]


def resolve_arch(arch: Union[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of a preset name or an ``arch`` dict.

    Raises:
        SpecError: unknown preset, unknown key, or a missing
            ``num_blocks``/``width_factor``.
    """
    if isinstance(arch, str):
        if arch not in PRESETS:
            raise SpecError(f'arch={arch!r} is not one of {list(PRESETS)} and not a dict')
        return dict(PRESETS[arch])
    if not isinstance(arch, Mapping):
        raise SpecError(f'arch must be one of {list(PRESETS)} or a dict, got {type(arch).__name__}')
    unknown = [k for k in arch if k not in _ARCH_KEYS]
    if unknown:
        raise SpecError(f'arch has unknown keys {unknown}; allowed are {list(_ARCH_KEYS)}')
    missing = [k for k in ('num_blocks', 'width_factor') if k not in arch]
    if missing:
        raise SpecError(f'arch dict lacks {missing}')
    arch = {'num_conv_branches': 1, 'num_se_blocks': 0, **arch}
    _check_se_counts(arch['num_se_blocks'], arch['num_blocks'])
    return arch


def _check_se_counts(counts: Any, depths: Any) -> None:
    """Refuse more SE blocks than blocks, where both are written out."""
    if not isinstance(counts, (list, tuple)) or not isinstance(depths, (list, tuple)):
        return
    for i, (count, depth) in enumerate(zip(counts, depths)):
        if isinstance(count, int) and isinstance(depth, int) and count > depth:
            raise SpecError(
                f'num_se_blocks of stage {i + 1} is {count}, but num_blocks gives it {depth}'
            )


def build_network_spec(
    arch: Union[str, Mapping[str, Any]],
    *,
    num_conv_branches=None,
    width_factor=None,
    num_blocks=None,
    base_channels=None,
    stem_channels: Optional[int] = None,
    stem_stride: Optional[int] = None,
    stem_num_conv_branches: int = 1,
    strides=None,
    act_cfg: Union[ActCfg, Sequence[ActCfg]] = None,
    se_cfg: Union[str, Mapping, None] = 'arch',
    branches: Sequence[str] = ('conv', 'scale', 'skip'),
    in_channels: int = 3,
    output_stride: Optional[int] = None,
    dilations=None,
) -> NetworkSpec:
    """Resolve presets and overrides into a validated :class:`NetworkSpec`.

    Arguments are those of
    :class:`~mmpretrain_mobileone_ext.models.ConfigurableMobileOne`; an
    explicit argument wins over the same key of ``arch``.

    Raises:
        SpecError: for any value that cannot be built, in one line.
    """
    given = dict(
        num_conv_branches=num_conv_branches,
        width_factor=width_factor,
        num_blocks=num_blocks,
        base_channels=base_channels,
        stem_channels=stem_channels,
        stem_stride=stem_stride,
        strides=strides,
    )
    cfg = resolve_arch(arch)
    count = num_stages(given, cfg)
    cfg.update({k: v for k, v in given.items() if v is not None})
    branches = check_branches(branches)
    se_args, se_units = split_se_cfg(se_cfg)
    plans = stage_plans(count, cfg, act_cfg, se_cfg, output_stride, dilations)
    stem = _stem(cfg, plans, in_channels, stem_num_conv_branches, branches)
    stages, channels = [], stem.out_channels
    for plan in plans:
        stages.append(_stage(plan, channels, branches, se_args, se_units))
        channels = plan.channels
    return NetworkSpec(stem, tuple(stages))


def _stem(cfg, plans, in_channels, num_conv_branches, branches) -> UnitSpec:
    base = cfg.get('base_channels', 64)
    cap = base if isinstance(base, int) else base[0]
    channels = cfg.get('stem_channels', min(cap, plans[0].channels))
    return UnitSpec(
        'stage0',
        integer('in_channels', in_channels, 1),
        integer('stem_channels', channels, 1),
        kernel_size=3,
        stride=cfg.get('stem_stride', 2),
        num_conv_branches=integer('stem_num_conv_branches', num_conv_branches),
        branches=branches,
        act_cfg=plans[0].act_cfg,
    )


def _stage(plan: StagePlan, in_channels: int, branches, se_args, se_units) -> tuple[UnitSpec, ...]:
    units: list[UnitSpec] = []
    for block in range(plan.num_blocks):
        use_se = block >= plan.num_blocks - plan.num_se
        # No skip where the stride was: weights of the strided network load.
        skipless = block == 0 and plan.strided
        common: dict[str, Any] = dict(
            num_conv_branches=plan.num_conv_branches, act_cfg=plan.act_cfg
        )
        name = f'stage{plan.index + 1}'
        units.append(
            UnitSpec(
                f'{name}.{2 * block}',
                in_channels,
                in_channels,
                kernel_size=3,
                stride=1 if block else plan.stride,
                dilation=plan.dilation if block else plan.first_dilation,
                groups=in_channels,
                branches=tuple(b for b in branches if not (skipless and b == 'skip')),
                se_cfg=se_args if use_se and 'depthwise' in se_units else None,
                **common,
            )
        )
        units.append(
            UnitSpec(
                f'{name}.{2 * block + 1}',
                in_channels,
                plan.channels,
                kernel_size=1,
                branches=branches,
                se_cfg=se_args if use_se and 'pointwise' in se_units else None,
                **common,
            )
        )
        in_channels = plan.channels
    return tuple(units)
