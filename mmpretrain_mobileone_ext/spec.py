"""What a MobileOne is made of, as validated frozen data (no torch here).

A network is a stem unit and stages of blocks; a block is a 3x3 depthwise
unit followed by a 1x1 pointwise unit; a unit holds parallel branches that
fold into one convolution (paper section 3.2 and table 7, arXiv 2206.04040).
"""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from .errors import SpecError
from .option_checks import integer, layer_cfg, text
from .spec_values import check_branches, split_se_cfg
from .stage_plan import StagePlan, num_stages, stage_plans

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
        num_se_blocks=_NO_SE),
    's1': dict(
        num_blocks=_BLOCKS,
        width_factor=(1.5, 1.5, 2.0, 2.5),
        num_conv_branches=_S1_K,
        num_se_blocks=_NO_SE),
    's2': dict(
        num_blocks=_BLOCKS,
        width_factor=(1.5, 2.0, 2.5, 4.0),
        num_conv_branches=_S1_K,
        num_se_blocks=_NO_SE),
    's3': dict(
        num_blocks=_BLOCKS,
        width_factor=(2.0, 2.5, 3.0, 4.0),
        num_conv_branches=_S1_K,
        num_se_blocks=_NO_SE),
    's4': dict(
        num_blocks=_BLOCKS,
        width_factor=(3.0, 3.5, 3.5, 4.0),
        num_conv_branches=_S1_K,
        num_se_blocks=(0, 0, 5, 1)),
}

_ARCH_KEYS = ('num_blocks', 'width_factor', 'num_conv_branches',
              'num_se_blocks', 'base_channels', 'stem_channels',
              'stem_stride', 'strides')


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
        for field in ('in_channels', 'out_channels', 'kernel_size', 'stride',
                      'dilation', 'groups'):
            integer(f'{self.name}: {field}', getattr(self, field), 1)
        integer(f'{self.name}: num_conv_branches', self.num_conv_branches)
        check_branches(self.branches)
        if self.kernel_size % 2 == 0:
            raise SpecError(
                f'{self.name}: kernel_size={self.kernel_size} is even; an odd '
                'kernel is needed so that the 1x1 scale branch has a centre')
        if self.in_channels % self.groups or self.out_channels % self.groups:
            raise SpecError(
                f'{self.name}: groups={self.groups} must divide in_channels='
                f'{self.in_channels} and out_channels={self.out_channels}')
        if not (self.num_convs or self.has_scale or self.has_skip):
            raise SpecError(
                f'{self.name}: no branch is left in this {self.kernel_size}x'
                f'{self.kernel_size} unit ({self.in_channels} -> '
                f'{self.out_channels} channels, stride {self.stride}) with '
                f'num_conv_branches={self.num_conv_branches} and branches='
                f'{self.branches}; "scale" needs a kernel > 1, "skip" needs '
                'equal channels and stride 1')

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
        return ('skip' in self.branches and self.stride == 1
                and self.in_channels == self.out_channels)


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
            raise SpecError(f'arch={arch!r} is not one of {list(PRESETS)} '
                            'and not a dict')
        return dict(PRESETS[arch])
    if not isinstance(arch, Mapping):
        raise SpecError(f'arch must be one of {list(PRESETS)} or a dict, '
                        f'got {type(arch).__name__}')
    unknown = [k for k in arch if k not in _ARCH_KEYS]
    if unknown:
        raise SpecError(f'arch has unknown keys {unknown}; allowed are '
                        f'{list(_ARCH_KEYS)}')
    missing = [k for k in ('num_blocks', 'width_factor') if k not in arch]
    if missing:
        raise SpecError(f'arch dict lacks {missing}')
    arch = {'num_conv_branches': 1, 'num_se_blocks': 0, **arch}
    _check_se_counts(arch['num_se_blocks'], arch['num_blocks'])
    return arch


def _check_se_counts(counts: Any, depths: Any) -> None:
    """Refuse more SE blocks than blocks, where both are written out."""
    if not isinstance(counts, (list, tuple)) or \
            not isinstance(depths, (list, tuple)):
        return
    for i, (count, depth) in enumerate(zip(counts, depths)):
        if isinstance(count, int) and isinstance(depth, int) and \
                count > depth:
            raise SpecError(f'num_se_blocks of stage {i + 1} is {count}, but '
                            f'num_blocks gives it {depth}')


def build_network_spec(arch: Union[str, Mapping[str, Any]],
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
                       dilations=None) -> NetworkSpec:
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
        strides=strides)
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
        num_conv_branches=integer('stem_num_conv_branches',
                                  num_conv_branches),
        branches=branches,
        act_cfg=plans[0].act_cfg)


def _stage(plan: StagePlan, in_channels: int, branches, se_args,
           se_units) -> tuple[UnitSpec, ...]:
    units: list[UnitSpec] = []
    for block in range(plan.num_blocks):
        use_se = block >= plan.num_blocks - plan.num_se
        # No skip where the stride was: weights of the strided network load.
        skipless = block == 0 and plan.strided
        common: dict[str, Any] = dict(
            num_conv_branches=plan.num_conv_branches, act_cfg=plan.act_cfg)
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
                branches=tuple(b for b in branches
                               if not (skipless and b == 'skip')),
                se_cfg=se_args if use_se and 'depthwise' in se_units else None,
                **common))
        units.append(
            UnitSpec(
                f'{name}.{2 * block + 1}',
                in_channels,
                plan.channels,
                kernel_size=1,
                branches=branches,
                se_cfg=se_args if use_se and 'pointwise' in se_units else None,
                **common))
        in_channels = plan.channels
    return tuple(units)
