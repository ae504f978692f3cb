"""Which exact method computes a unit, and its sum of branches by that method.

A rule makes the same choice in every run and on every rank, so that a seed gives the same training.
It is data, one row for each class of devices (``DEVICE_RULES``).
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
import torch.distributed as dist
from torch import Tensor
from torch._C._functorch import is_functorch_wrapped_tensor

from ...errors import SpecError
from ...utils.machine import is_compiling, is_exporting
from ..norms import track
from ..quantization import InputGrid, UnitQuantizer, rounded_by
from ..spec import UnitSpec
from . import gpu
from .batch_fold import sum_by_running_stats
from .convs import PatchConv, mean_patch
from .kernels import has_kernels_for
from .operators import HAS_SHAPES, layout, unit_sum
from .unit import Unit, autocast_dtype, pixel_step

Preference = Union[str, bool]
PREFERENCES = ('auto', 'memory', True, False)

#: Others (Apple's MPS) lack float64, in which statistics are summed.
_DEVICES = ('cpu', 'cuda', 'meta')
_FEW_TAPS = 64  # of a kernel, more of which take moments longer than branches


@dataclass(frozen=True)
class DeviceRule:
    """From which size on a method pays, on one kind of device; ``inf``: never.

    Numbers count elements, N * H * W * C, of the input where nothing else is said.

    Attributes:
        source: where the numbers are from.
        pointwise: several convolutions, by moments.
        pointwise_pixels: these too, a channel.
        one_conv_pixels: a pointwise unit of one convolution, by moments; pixels a channel.
        one_conv_fused: the same in one pass, its output kept; pixels times the larger C.
        one_conv_recompute: the same without its output, since a large one costs much memory.
        one_conv_keep: input channels from which it is kept all the same, since to compute it again
            would cost more.
        depthwise: several convolutions, 3x3.
        depthwise_one: of the output, one convolution.
        depthwise_method: what then pays, by whether the stride is 1.
        patches: an ungrouped unit of few taps, such as the stem, by moments; output pixels.
    """

    source: str
    pointwise: float = math.inf
    pointwise_pixels: float = 0
    one_conv_pixels: float = math.inf
    one_conv_fused: float = math.inf
    one_conv_recompute: float = math.inf
    one_conv_keep: float = math.inf
    depthwise: float = math.inf
    depthwise_one: float = math.inf
    depthwise_method: tuple[str, str] = ('moments', 'moments')  # stride > 1, stride 1
    patches: float = math.inf


#: The rule of ``'auto'``, by the class of device of :func:`device_class`.
DEVICE_RULES = {
    'cpu': DeviceRule(
        'measured on CPUs with AVX2 and AVX-512',
        pointwise=20_000,
        pointwise_pixels=1,
        one_conv_fused=600_000,
        one_conv_recompute=1_500_000,
        one_conv_keep=256,
        depthwise=10_000,
        depthwise_one=400_000,
        patches=10_000,
    ),
    'cpu without a compiler': DeviceRule(
        'measured on CPUs with AVX2 and AVX-512',
        pointwise=80_000,
        pointwise_pixels=2.5,
        one_conv_pixels=100,
        one_conv_recompute=800_000,
        depthwise=80_000,
        depthwise_one=400_000,
        # Torch's depthwise kernels of stride 1 are slower in channels_last.
        depthwise_method=('recompute', 'branches'),
        patches=10_000,
    ),
    'cuda': DeviceRule(
        'by the traffic of memory, not measured',
        pointwise=0,
        one_conv_pixels=0,
        depthwise=0,
        depthwise_one=0,
        patches=0,
    ),
    'cuda without Triton': DeviceRule(
        'by the traffic of memory, not measured',
        pointwise=80_000,
        pointwise_pixels=2.5,
        one_conv_pixels=100,
    ),
}


def device_class(x: Tensor) -> str:
    """The key of ``DEVICE_RULES`` for tensors like x."""
    if x.device.type == 'cpu':
        return 'cpu' if has_kernels_for(x) else 'cpu without a compiler'
    return 'cuda' if gpu.available(x) else 'cuda without Triton'


def check_preference(value: Preference) -> Preference:
    """Return ``online_reparam`` if it is allowed.

    Raises:
        SpecError: naming what is.
    """
    if not isinstance(value, (bool, str)) or value not in PREFERENCES:
        raise SpecError(
            f'online_reparam={value!r}; allowed are {", ".join(map(repr, PREFERENCES))}'
        )
    return value


def online_sum(unit: Unit, x: Tensor, preference: Preference) -> Optional[Tensor]:
    """Sum of all branches of ``x``, activated if a ReLU follows, or None where they have to run."""
    method = _choose_or_branches(unit, x, preference).method
    return None if method == 'branches' else sum_by(method, unit, x)


def quantized_sum(
    unit: Unit, x: Tensor, quantizer: UnitQuantizer, grid: Optional[InputGrid]
) -> Tensor:
    """Sum of all branches of ``x``, activated if a ReLU follows, of what ships.

    Trains by moments, whatever is faster without rounding; by running statistics where norms use
    them, or where the quantizer is frozen. The mean of patches follows the batch.

    Args:
        quantizer: of the unit.
        grid: of its input, as the batch has it.

    Raises:
        SpecError: the unit has no moments here.
    """
    dtype = autocast_dtype(x)
    x = x.to(dtype or x.dtype, memory_format=torch.channels_last)
    if quantizer.phase == quantizer.FROZEN or unit.by_batch is False:
        if quantizer.follows:
            quantizer.follow_patches(mean_patch(unit.spec, rounded_by(grid, x.detach())))
        with torch.autocast(x.device.type, enabled=False) if dtype else nullcontext():
            return sum_by_running_stats(unit, rounded_by(grid, x), quantizer)
    choice = _choose_or_branches(unit, x, True)
    if choice.method != 'moments':
        raise SpecError(
            f'{unit.spec.name} cannot train quantized: {choice.why}; hooks and parametrizations of '
            'branches, norms of different modes and devices without float64 are in the way'
        )
    levels = () if grid is None else (grid.low, grid.high)
    config = unit.config(quantizer.weight_grid, levels)
    scale = None if grid is None else grid.scale
    out, stats, mean = unit_sum('moments', config, x, unit.parameters, scale)
    with torch.no_grad():
        track(unit.norms, stats)
        if quantizer.follows:
            quantizer.follow_patches(mean)
    return out


if not HAS_SHAPES:  # a break in the graph is better than none of it
    online_sum = torch.compiler.disable(online_sum)
    quantized_sum = torch.compiler.disable(quantized_sum)


def sum_by(method: str, unit: Unit, x: Tensor) -> Tensor:
    """Sum of all branches of ``x``, activated if a ReLU follows, by one of the methods.

    Under autocast x is brought to its type, and statistics and folding stay in float32 or better.
    """
    dtype = autocast_dtype(x)
    if method == 'running':
        x = x.to(dtype or x.dtype, memory_format=torch.channels_last)
        with torch.autocast(x.device.type, enabled=False) if dtype else nullcontext():
            return sum_by_running_stats(unit, x)
    config = unit.config()
    x = x.to(dtype or x.dtype).contiguous(memory_format=layout(method, config, x))
    out, stats, _ = unit_sum(method, config, x, unit.parameters)
    with torch.no_grad():
        track(unit.norms, stats)
    return out


@dataclass(frozen=True)
class Choice:
    """'branches' or another method, and why.

    Words are put together when somebody asks: while torch.compile traces, figures are symbols that
    have no format.
    """

    method: str
    reason: str
    figures: tuple = ()

    @property
    def why(self) -> str:
        return self.reason.format(*self.figures)


def planned_method(
    unit: Unit, x: Tensor, preference: Preference, training: bool, on: Optional[str] = None
) -> Choice:
    """What a unit in this mode does with x, and why.

    Args:
        on: a key of ``DEVICE_RULES``: what it would do there.
    """
    if on is None and training and SmallInputRule(unit.spec).applies_to(x, preference):
        return Choice('branches', 'small input')
    return _choose_or_branches(unit, x, preference, on)


class SmallInputRule:
    """Inputs for which branches are the choice in training.

    Told by shape alone: on small inputs a look at norms and hooks is a part of the step that can be
    felt, and so is the rule itself (1 to 2 % of S1's step at 1x64²), so the last answer is kept.
    Never so among ranks, which have to choose alike.

    Args:
        spec: of the unit.
    """

    def __init__(self, spec: UnitSpec):
        self.spec = spec
        self._asked: Any = None
        self._answer = False

    def applies_to(self, x: Tensor, preference: Preference) -> bool:
        """Whether x (N, C, H, W) is one; only under ``'auto'``."""
        if preference != 'auto' or (dist.is_available() and dist.is_initialized()):
            return False
        if is_compiling():
            return self._compute(x)
        asked = x.shape, x.dtype, x.device
        if asked != self._asked:
            self._asked, self._answer = asked, self._compute(x)
        return self._answer

    def _compute(self, x: Tensor) -> bool:
        return x.dim() == 4 and x.numel() > 0 and _fastest(self.spec, x).method == 'branches'


def _choose_or_branches(
    unit: Unit, x: Tensor, preference: Preference, on: Optional[str] = None
) -> Choice:
    params = unit.parameters.flat()
    if _is_plain_tensor(x) and unit.is_plain() and _fits(params, x, autocast_dtype(x)):
        return _choose(unit, x, preference, on)
    return Choice('branches', 'no other method is defined')


def _is_plain_tensor(x: Tensor) -> bool:
    """Whether x is an image batch, and nobody records what runs."""
    return (
        type(x) in (Tensor, torch.nn.Parameter)
        and x.device.type in _DEVICES
        and x.dim() == 4
        and x.numel() > 0
        and not torch.jit.is_tracing()
        and not is_exporting()
    )


def _fits(params: Iterable[Optional[Tensor]], x: Tensor, autocast: Optional[torch.dtype]) -> bool:
    """Whether parameters are where x is, in the type a convolution wants.

    Not so where one, or x, stands for others (``torch.func``): the methods have gradients and
    batches of their own.
    """
    dtype = autocast or x.dtype
    wanted = torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype
    if wanted not in (torch.float32, torch.float64) or (autocast is None and dtype != wanted):
        return False
    given = [p for p in params if p is not None]
    alike = all(p.dtype == wanted and p.device == x.device for p in given)
    return alike and (is_compiling() or not any(map(is_functorch_wrapped_tensor, (x, *given))))


def _choose(unit: Unit, x: Tensor, preference: Preference, on: Optional[str]) -> Choice:
    """The method for a plain unit on images (N, C, H, W)."""
    by_batch, group = unit.by_batch, unit.group()
    reason = _reason_for_branches(unit, x, preference, by_batch, group)
    if reason:
        return Choice('branches', reason)
    if not by_batch:
        return Choice('running', 'norms use running statistics')
    if preference is True:
        return Choice('moments', 'online_reparam=True')
    if group is not None:
        return _choose_synchronized(unit.spec)
    choice = _fastest(unit.spec, x, on)
    if preference == 'memory' and choice.method in ('branches', 'fused'):
        return Choice('recompute', f"online_reparam='memory'; {choice.reason}", choice.figures)
    return choice


def _reason_for_branches(
    unit: Unit, x: Tensor, preference: Preference, by_batch: Optional[bool], group: Any
) -> str:
    """Why no other method will do; '' where some do."""
    if preference is False:
        return 'online_reparam=False'
    if pixel_step(x, unit.spec, unit.spec.kernel_size) > 1:
        return 'a strided 1x1 convolution of few channels'
    if by_batch is None:
        return 'some norms are in eval mode, some not'
    if by_batch and group is None and PatchConv(unit.spec).count(x) < 2:
        return 'one value a channel, of which there is no variance'
    return ''


def _choose_synchronized(spec: UnitSpec) -> Choice:
    """Ranks may have batches of different size and must not differ."""
    if spec.num_convs > 1:
        return Choice('moments', 'several branches, synchronized norms')
    return Choice('branches', 'one conv branch, synchronized norms')


def _fastest(spec: UnitSpec, x: Tensor, on: Optional[str] = None) -> Choice:
    rule = DEVICE_RULES[on or device_class(x)]
    if spec.is_pointwise:
        return _choose_pointwise(spec, x, rule)
    if spec.is_depthwise:
        return _choose_depthwise(spec, x, rule)
    patches = PatchConv(spec).count(x)
    few = spec.groups == 1 and spec.taps <= _FEW_TAPS and patches >= rule.patches
    return Choice('moments' if few else 'branches', '{} taps, {} patches', (spec.taps, patches))


def _choose_pointwise(spec: UnitSpec, x: Tensor, rule: DeviceRule) -> Choice:
    channels, elements = spec.in_channels, x.numel()
    pixels = elements // channels
    per_channel = '{:.1f} pixels a channel'
    figures = (pixels / channels,)
    if spec.num_convs > 1:
        enough = pixels >= rule.pointwise_pixels * channels and elements >= rule.pointwise
        return Choice('moments' if enough else 'branches', per_channel, figures)
    if pixels >= rule.one_conv_pixels * channels:
        return Choice('moments', per_channel, figures)
    work = pixels * max(channels, spec.out_channels)
    method = 'branches'
    if work >= min(rule.one_conv_fused, rule.one_conv_recompute):
        is_kept = work < rule.one_conv_recompute or channels >= rule.one_conv_keep
        method = 'fused' if is_kept else 'recompute'
    return Choice(method, 'one conv branch, {} channels, {} elements', (channels, work))


def _choose_depthwise(spec: UnitSpec, x: Tensor, rule: DeviceRule) -> Choice:
    elements, one = x.numel(), spec.num_convs <= 1
    why = '{} conv branches, {} elements', (spec.num_convs, elements)
    if spec.kernel_size != 3 or spec.dilation != 1:  # for which there are no kernels
        on_cpu = x.device.type == 'cpu'
        rule = DEVICE_RULES['cpu without a compiler' if on_cpu else 'cuda without Triton']
    least = rule.depthwise_one * spec.stride**2 if one else rule.depthwise
    if elements < least:
        return Choice('branches', *why)
    return Choice(rule.depthwise_method[spec.stride == 1], *why)
