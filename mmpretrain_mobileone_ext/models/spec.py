"""What a MobileOne is made of, as validated frozen data (no torch here).

A network is a stem unit and stages of units, 3x3 depthwise and 1x1 pointwise in turn. A unit holds
parallel branches that fold into one convolution (paper section 3.2 and table 7, arXiv 2206.04040).
``BRANCH_KINDS`` is the one place that says what kinds of branches there are; ``PRESETS`` holds s0
to s4.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

from ..errors import SpecError
from ..utils.checks import integer, layer_cfg, number, selection, text

ActCfg = Optional[dict]


@dataclass(frozen=True)
class BranchKind:
    """A kind of branch, a row of ``BRANCH_KINDS``.

    Attributes:
        name: as in ``branches=('conv', ...)``.
        module: its name in a block, hence its state-dict key.
        count: how many of them a unit has if the kind is asked for.
        kernel_size: of its convolution, centred in that of the unit. None: it has no convolution
            and normalizes the input as it is.
        is_list: the module is a list, as a unit can have several of them.
        apple, timm: what these code bases call the module, if they have it.
        needs: what a unit must have for one, in words.
    """

    name: str
    module: str
    count: Callable[[UnitSpec], int]
    kernel_size: Optional[Callable[[UnitSpec], int]] = None
    is_list: bool = False
    apple: str = ''
    timm: str = ''
    needs: str = ''


#: In the order in which they are folded. Blocks register and add up branches in the reverse order,
#: as mmpretrain does.
BRANCH_KINDS = (
    BranchKind(
        name='conv',
        module='branch_conv_list',
        count=lambda unit: unit.num_conv_branches,
        kernel_size=lambda unit: unit.kernel_size,
        is_list=True,
        apple='rbr_conv',
        timm='conv_kxk',
    ),
    BranchKind(
        name='scale',
        module='branch_scale',
        count=lambda unit: int(unit.kernel_size > 1),
        kernel_size=lambda unit: 1,
        apple='rbr_scale',
        timm='conv_scale',
        needs='a kernel > 1',
    ),
    BranchKind(
        name='skip',
        module='branch_norm',
        count=lambda unit: int(unit.stride == 1 and unit.in_channels == unit.out_channels),
        apple='rbr_skip',
        timm='identity',
        needs='equal channels and stride 1',
    ),
)
_KINDS = {kind.name: kind for kind in BRANCH_KINDS}


@dataclass(frozen=True)
class UnitSpec:
    """One re-parameterizable unit: parallel branches, SE and activation.

    ``name`` is the module path inside the backbone, for messages. ``se_cfg`` holds ``SELayer``
    arguments or None; ``act_cfg=None`` is the identity. Padding keeps the size at stride 1.
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
        if not any(map(self.count, BRANCH_KINDS)):
            needs = ', '.join(f'"{k.name}" needs {k.needs}' for k in BRANCH_KINDS if k.needs)
            raise SpecError(
                f'{self.name}: no branch is left in this {self.kernel_size}x{self.kernel_size} '
                f'unit ({self.in_channels} -> {self.out_channels} channels, stride {self.stride}) '
                f'with num_conv_branches={self.num_conv_branches} and branches={self.branches}; '
                f'{needs}'
            )

    def count(self, kind: BranchKind) -> int:
        """How many branches of a kind the unit has."""
        return kind.count(self) if kind.name in self.branches else 0

    @property
    def num_convs(self) -> int:
        return self.count(_KINDS['conv'])

    @property
    def has_skip(self) -> bool:
        return self.count(_KINDS['skip']) > 0

    @property
    def is_pointwise(self) -> bool:
        """Whether a matrix product computes the folded convolution."""
        return self.kernel_size == self.stride == self.groups == 1

    @property
    def is_depthwise(self) -> bool:
        return self.groups == self.in_channels == self.out_channels

    @property
    def padding(self) -> int:
        return self.dilation * (self.kernel_size // 2)

    @property
    def group_width(self) -> int:
        """Input channels of a group."""
        return self.in_channels // self.groups

    @property
    def taps(self) -> int:
        """Values that one output value depends on."""
        return self.group_width * self.kernel_size**2


@dataclass(frozen=True)
class NetworkSpec:
    """A stem unit and, per stage, its units (depthwise, pointwise, ...)."""

    stem: UnitSpec
    stages: tuple[tuple[UnitSpec, ...], ...]


def check_branches(branches: Any) -> tuple[str, ...]:
    """Return names of branch kinds as a tuple.

    Raises:
        SpecError: another name, none at all, or one twice.
    """
    return selection('branches', branches, _KINDS)


_S1_TO_S3 = dict(
    num_blocks=(2, 8, 10, 1), num_conv_branches=(1, 1, 1, 1), num_se_blocks=(0, 0, 0, 0)
)

#: Variants of paper table 7; ``num_se_blocks`` counts from a stage's end.
PRESETS: dict[str, dict[str, tuple]] = {
    's0': dict(_S1_TO_S3, width_factor=(0.75, 1.0, 1.0, 2.0), num_conv_branches=(4, 4, 4, 4)),
    's1': dict(_S1_TO_S3, width_factor=(1.5, 1.5, 2.0, 2.5)),
    's2': dict(_S1_TO_S3, width_factor=(1.5, 2.0, 2.5, 4.0)),
    's3': dict(_S1_TO_S3, width_factor=(2.0, 2.5, 3.0, 4.0)),
    's4': dict(_S1_TO_S3, width_factor=(3.0, 3.5, 3.5, 4.0), num_se_blocks=(0, 0, 5, 1)),
}

_ARCH_KEYS = (
    *('num_blocks', 'width_factor', 'num_conv_branches', 'num_se_blocks'),
    *('base_channels', 'stem_channels', 'stem_stride', 'strides'),
)


def resolve_arch(arch: Union[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the settings of a preset name or an ``arch`` dict.

    Raises:
        SpecError: unknown preset, unknown key, or a missing ``num_blocks``/``width_factor``.
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

    Arguments are those of :class:`~mmpretrain_mobileone_ext.models.ConfigurableMobileOne`; an
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
    count = _num_stages(given, cfg)
    cfg.update({k: v for k, v in given.items() if v is not None})
    branches = check_branches(branches)
    se_args, se_units = _split_se_cfg(se_cfg)
    plans = _stage_plans(count, cfg, act_cfg, se_cfg, output_stride, dilations)
    stem = _stem(cfg, plans, in_channels, stem_num_conv_branches, branches)
    stages, channels = [], stem.out_channels
    for plan in plans:
        stages.append(_stage(plan, channels, branches, se_args, se_units))
        channels = plan.channels
    return NetworkSpec(stem, tuple(stages))


def _num_stages(*sources: Mapping[str, Any]) -> int:
    """The length of the first sequence, in order of precedence; else 4."""
    for source in sources:
        for key in ('num_blocks', 'width_factor'):
            value = source.get(key)
            if isinstance(value, (list, tuple)) and value:
                return len(value)
    return 4


@dataclass(frozen=True)
class _StagePlan:
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
    act_cfg: ActCfg


def _stage_plans(n: int, cfg, act_cfg, se_cfg, output_stride, dilations) -> list[_StagePlan]:
    """Spread scalars, check lengths and values; one plan a stage."""
    depths = _ints('num_blocks', cfg['num_blocks'], n)
    widths = _per_stage('width_factor', cfg['width_factor'], n)
    base = _ints('base_channels', cfg.get('base_channels', [64 * 2**i for i in range(n)]), n)
    convs = _per_stage('num_conv_branches', cfg['num_conv_branches'], n)
    strides = _ints('strides', cfg.get('strides', 2), n)
    stem_stride = integer('stem_stride', cfg.get('stem_stride', 2), 1)
    kept, dilated = _dilate(stem_stride, strides, output_stride, dilations)
    acts = _per_stage('act_cfg', act_cfg, n)
    num_se = _num_se_blocks(cfg['num_se_blocks'], se_cfg, depths)
    return [
        _StagePlan(
            index=i,
            num_blocks=depths[i],
            channels=_width(base[i], widths[i], i),
            num_conv_branches=convs[i],
            stride=kept[i],
            strided=strides[i] > 1,
            first_dilation=dilated[i][0],
            dilation=dilated[i][1],
            num_se=num_se[i],
            act_cfg=_checked_act_cfg(acts[i]),
        )
        for i in range(n)
    ]


def _per_stage(name: str, value: Any, n: int) -> tuple:
    """A scalar or a sequence as one value a stage."""
    if not isinstance(value, (list, tuple)):
        return (value,) * n
    if len(value) != n:
        raise SpecError(
            f'{name} has {len(value)} values for {n} stages '
            f'(their number follows from num_blocks): {value!r}'
        )
    return tuple(value)


def _ints(name: str, value: Any, n: int) -> tuple[int, ...]:
    """As :func:`_per_stage`, of integers >= 1."""
    values = _per_stage(name, value, n)
    return tuple(integer(f'{name} of stage {i + 1}', v, 1) for i, v in enumerate(values))


def _width(base: int, factor: Any, index: int) -> int:
    channels = int(base * number(f'width_factor of stage {index + 1}', factor))
    if channels < 1:
        raise SpecError(
            f'stage {index + 1} has no channels: base_channels={base} x width_factor={factor}'
        )
    return channels


def _checked_act_cfg(cfg: Any) -> ActCfg:
    """An activation config as a dict with a ``type``, or None."""
    if cfg is None:
        return None
    if not isinstance(cfg, Mapping) or 'type' not in cfg:
        raise SpecError(
            f'act_cfg must be None or a dict with a "type", or one of these a stage; got {cfg!r}'
        )
    return dict(cfg)


def _dilate(stem_stride, strides, output_stride, dilations):
    """Strides and (first, other) dilations per stage."""
    if output_stride is None:
        rates = _ints('dilations', 1 if dilations is None else dilations, len(strides))
        return strides, [(d, d) for d in rates]
    if dilations is not None:
        raise SpecError('give either output_stride or dilations, not both')
    integer('output_stride', output_stride, 1)
    reached, rate, new_strides, rates = stem_stride, 1, [], []
    for stride in strides:
        first = rate
        if reached * stride > output_stride:
            # A trous: the block that used to stride still samples the old grid; the ones after it
            # see a grid that is `stride` finer.
            rate, stride = rate * stride, 1
        reached *= stride
        new_strides.append(stride)
        rates.append((first, rate))
    if reached != output_stride:
        raise SpecError(
            f'output_stride={output_stride} cannot be reached with stem_stride='
            f'{stem_stride} and strides={tuple(strides)} (nearest: {reached})'
        )
    return tuple(new_strides), rates


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


def _stage(plan: _StagePlan, in_channels: int, branches, se_args, se_units) -> tuple[UnitSpec, ...]:
    units: list[UnitSpec] = []
    common: dict[str, Any] = dict(num_conv_branches=plan.num_conv_branches, act_cfg=plan.act_cfg)
    for block in range(plan.num_blocks):
        se_here = se_units if block >= plan.num_blocks - plan.num_se else ()
        # No skip where the stride was: weights of the strided network load.
        skipless = block == 0 and plan.strided
        depthwise = UnitSpec(
            f'stage{plan.index + 1}.{2 * block}',
            in_channels,
            in_channels,
            kernel_size=3,
            stride=1 if block else plan.stride,
            dilation=plan.dilation if block else plan.first_dilation,
            groups=in_channels,
            branches=tuple(b for b in branches if not (skipless and b == 'skip')),
            se_cfg=se_args if 'depthwise' in se_here else None,
            **common,
        )
        pointwise = UnitSpec(
            f'stage{plan.index + 1}.{2 * block + 1}',
            in_channels,
            plan.channels,
            kernel_size=1,
            branches=branches,
            se_cfg=se_args if 'pointwise' in se_here else None,
            **common,
        )
        units += [depthwise, pointwise]
        in_channels = plan.channels
    return tuple(units)


_SE_UNITS = {
    'both': ('depthwise', 'pointwise'),
    'depthwise': ('depthwise',),
    'pointwise': ('pointwise',),
}
_SE_LAYER_KEYS = ('ratio', 'squeeze_channels', 'divisor', 'bias', 'conv_cfg', 'act_cfg')


def _split_se_cfg(se_cfg: Any) -> tuple[Optional[dict], tuple[str, ...]]:
    """Split ``se_cfg`` into SELayer arguments and the units that get one.

    Returns ``(None, ())`` for None (no SE anywhere) and the paper's ratio of 16 on both units for
    ``'arch'``.
    """
    if se_cfg is None:
        return None, ()
    if isinstance(se_cfg, str) and se_cfg == 'arch':
        return dict(ratio=16), _SE_UNITS['both']
    if not isinstance(se_cfg, Mapping):
        raise SpecError(
            'se_cfg must be None (no SE), "arch" (where the '
            f'architecture places it) or a dict, got {se_cfg!r}'
        )
    args = dict(se_cfg)
    args.pop('placement', None)
    units = args.pop('units', 'both')
    if not isinstance(units, str) or units not in _SE_UNITS:
        raise SpecError(f'se_cfg.units={units!r} is not one of {list(_SE_UNITS)}')
    unknown = [k for k in args if k not in _SE_LAYER_KEYS]
    if unknown:
        raise SpecError(
            f'se_cfg has unknown keys {unknown}; allowed are '
            f'{["placement", "units", *_SE_LAYER_KEYS]}'
        )
    integer('se_cfg.ratio', args.setdefault('ratio', 16), 1)
    if args.get('squeeze_channels') is not None:
        integer('se_cfg.squeeze_channels', args['squeeze_channels'], 1)
    return args, _SE_UNITS[units]


def _num_se_blocks(from_arch: Any, se_cfg: Any, depths: tuple[int, ...]) -> tuple[int, ...]:
    """SE blocks of each stage, counted from its end."""
    n = len(depths)
    if se_cfg is None:
        return (0,) * n
    if isinstance(from_arch, tuple) and not any(from_arch):
        from_arch = 0  # a preset without SE has none in any number of stages
    counts = _per_stage('num_se_blocks', from_arch, n)
    for i, count in enumerate(counts):
        integer(f'num_se_blocks of stage {i + 1}', count)
    # "The last five" of a stage shortened to three blocks are all three.
    placed = tuple(map(min, counts, depths))
    if isinstance(se_cfg, str):
        return placed
    if 'placement' not in se_cfg:
        return placed if any(placed) else depths
    spread = _per_stage('se_cfg.placement', se_cfg['placement'], n)
    return tuple(_last_n(value, depth, i) for i, (value, depth) in enumerate(zip(spread, depths)))


def _last_n(value: Any, depth: int, index: int) -> int:
    if value is None or value == 'none':
        return 0
    if value == 'all':
        return depth
    if type(value) is int and 0 <= value <= depth:
        return value
    raise SpecError(
        f'se_cfg.placement={value!r} for stage {index + 1}: use "none", "all" '
        f'or a count from 0 to {depth} (the last n blocks)'
    )


def resolve_out_indices(out_indices: Any, num_stages: int) -> tuple[int, ...]:
    """Return stage indices 0..num_stages-1, negative ones resolved.

    Raises:
        SpecError: no such stage, or one twice.
    """
    indices = (out_indices,) if type(out_indices) is int else out_indices
    if not isinstance(indices, (list, tuple)) or not indices:
        raise SpecError(
            'out_indices must be an integer or a non-empty sequence of '
            f'integers, got {out_indices!r}'
        )
    for index in indices:
        if type(index) is not int or not -num_stages <= index < num_stages:
            raise SpecError(
                f'out_indices has {index!r}; a network of {num_stages} stages '
                f'allows {-num_stages} to {num_stages - 1}'
            )
    resolved = tuple(index % num_stages for index in indices)
    if len(set(resolved)) != len(resolved):
        raise SpecError(f'out_indices={tuple(indices)} names a stage twice')
    return resolved
