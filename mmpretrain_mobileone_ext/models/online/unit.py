"""What the methods see of a unit: its branches as tensors and norms.

One operator then does for all branches what is asked of each: on small inputs calls cost more than
arithmetic.

Layout: kernels (G, J, O, P) for G groups, J branches, O output channels of a group and P taps;
everything per branch and channel (G, J, O).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Optional

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules import module as torch_module

from ...utils.machine import is_compiling
from ..fold import PLAIN_CONVS, Branch, identity_kernel, pad_kernel
from ..norms import CPUSyncBatchNorm, several_ranks
from ..quantization import WeightGrid
from ..spec import UnitSpec

_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, CPUSyncBatchNorm)
#: Float32 values in the widest vector of a CPU, AVX-512's.
_VECTOR = 16
_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')
_GLOBAL_HOOKS = (
    '_global_backward_pre_hooks',
    '_global_backward_hooks',
    '_global_forward_pre_hooks',
    '_global_forward_hooks',
)


class Unit:
    """A unit in branch form.

    Args:
        spec: its shape.
        branches: in the order in which they are summed.
        relu: whether a ReLU comes next, which a method then applies too.
    """

    def __init__(self, spec: UnitSpec, branches: tuple[Branch, ...], relu: bool = False):
        self.spec, self.branches, self.relu = spec, branches, relu
        self.norms: list[Any] = [b.norm for b in branches]
        self.parameters = BranchParams(
            tuple(b.kernel for b in branches),
            tuple(n.weight for n in self.norms),
            tuple(n.bias for n in self.norms),
        )

    def config(
        self, weight_grid: Optional[WeightGrid] = None, input_levels: tuple[int, ...] = ()
    ) -> UnitConfig:
        """What operators take beside tensors.

        Args:
            weight_grid: of the folded kernel; None: it stays as it is.
            input_levels: least and largest integer of the input's grid, or nothing.
        """
        group = self.group()
        return UnitConfig(
            self.spec,
            tuple(0 if b.kernel is None else b.kernel.shape[-1] for b in self.branches),
            tuple(p is not None for p in self.parameters.flat()),
            tuple(n.eps for n in self.norms),
            self.relu,
            '' if group is None else group.group_name,
            weight_grid,
            input_levels,
        )

    @property
    def by_batch(self) -> Optional[bool]:
        """Whether norms use the batch's statistics; None where they differ.

        Otherwise they use running statistics.
        """
        found = {n.training or n.running_mean is None or n.running_var is None for n in self.norms}
        return found.pop() if len(found) == 1 else None

    def group(self) -> Any:
        """Process group over which statistics are reduced, or None."""
        norm = self.norms[0]
        if type(norm) is nn.BatchNorm2d or not norm.training:
            return None
        group = getattr(norm, 'process_group', None)
        if not several_ranks(group):
            return None
        return group or dist.group.WORLD

    def is_plain(self) -> bool:
        """Whether the tensors are all there is to the branches.

        No method but the branches themselves sees hooks, parametrizations, or norms and
        convolutions with arithmetic of their own.
        """
        convs = [b.conv for b in self.branches if b.conv is not None]
        return (
            all(
                type(c) in PLAIN_CONVS and c.bias is None and c.padding_mode == 'zeros'
                for c in convs
            )
            and all(type(n) in _NORMS for n in self.norms)
            and len({type(n) for n in self.norms}) == 1
            and not has_hooks([*convs, *self.norms])
        )


@dataclass(frozen=True)
class UnitConfig:
    """What an operator knows of a unit beside its tensors.

    Attributes:
        spec: its shape and branches; names and activation do not count.
        kernel_sizes: of the branches' kernels, in the order of summation; 0: no convolution.
        given: of kernels, gammas and betas of all branches, which exist.
        eps: of each branch's norm.
        relu: whether a ReLU follows the sum.
        group: name of the process group over which statistics are reduced, or ''.
        weight_grid: of the folded kernel; None: it stays as it is.
        input_levels: least and largest integer of the input's grid, or nothing.
    """

    spec: UnitSpec
    kernel_sizes: tuple[int, ...]
    given: tuple[bool, ...]
    eps: tuple[float, ...]
    relu: bool
    group: str
    weight_grid: Optional[WeightGrid] = None
    input_levels: tuple[int, ...] = ()

    #: How an operator's schema names what :meth:`flat` returns.
    SCHEMA = (
        'int[] shape, str branches, int[] kernel_sizes, bool[] given, float[] eps, bool relu, '
        'str group, int[] weight_grid, int[] input_levels'
    )

    def flat(self) -> tuple:
        """All in numbers and names, as operators take it."""
        spec = self.spec
        shape = [
            spec.in_channels,
            spec.out_channels,
            spec.kernel_size,
            spec.stride,
            spec.dilation,
            spec.groups,
            spec.num_conv_branches,
        ]
        branches = ' '.join(spec.branches)
        lists = (list(self.kernel_sizes), list(self.given), list(self.eps))
        grid = [] if self.weight_grid is None else [n for n in self.weight_grid if n is not None]
        rounding = grid, list(self.input_levels)
        return shape, branches, *lists, self.relu, self.group, *rounding

    @classmethod
    def of(cls, shape, branches, kernel_sizes, given, eps, relu, group, grid, levels) -> UnitConfig:
        """The inverse of :meth:`flat`."""
        spec = _spec_of(tuple(shape), branches)
        lists = tuple(kernel_sizes), tuple(given), tuple(eps)
        return cls(spec, *lists, relu, group, WeightGrid(*grid) if grid else None, tuple(levels))

    def params(self, tensors: Sequence[Tensor]) -> BranchParams:
        """The tensors that exist, each in its place."""
        left = iter(tensors)
        return BranchParams.of([next(left) if given else None for given in self.given])

    def branch_conv(self, branch: int, step: int = 1) -> dict[str, Any]:
        """Stride, padding, dilation and groups of a branch's convolution.

        Args:
            step: as of :meth:`pixel_step`.
        """
        spec, size = self.spec, self.kernel_sizes[branch]
        return dict(
            stride=[spec.stride // step] * 2,
            padding=[spec.dilation * (size // 2)] * 2,
            dilation=[spec.dilation if size > 1 else 1] * 2,
            groups=spec.groups,
        )

    def pixel_step(self, branch: int, x: Tensor) -> int:
        """As of :func:`pixel_step`."""
        return pixel_step(x, self.spec, self.kernel_sizes[branch])

    def process_group(self) -> Any:
        """The group itself, or None."""
        if not self.group:
            return None
        resolve: Any = torch._C._distributed_c10d._resolve_process_group
        return resolve(self.group)


@functools.lru_cache(maxsize=512)
def _spec_of(sizes: tuple[int, ...], branches: str) -> UnitSpec:
    in_channels, out_channels, kernel_size, stride, dilation, groups, convs = sizes
    return UnitSpec(
        'unit',
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        dilation=dilation,
        groups=groups,
        num_conv_branches=convs,
        branches=tuple(branches.split()),
    )


def has_hooks(modules: Sequence[nn.Module]) -> bool:
    """Whether anything watches or alters what these modules compute."""
    return any(getattr(torch_module, name) for name in _GLOBAL_HOOKS) or any(
        'parametrizations' in m._modules or any(vars(m).get(hooks) for hooks in _HOOKS)
        for m in modules
    )


class BranchParams(NamedTuple):
    """One tensor or None a branch: its parameters, or what is like them.

    Attributes:
        kernels: (O, I / groups, k, k); None: the branch has no convolution.
        gammas: (O,), weights of the norms; None: 1.
        betas: (O,), biases of the norms; None: 0.
    """

    kernels: tuple[Optional[Tensor], ...]
    gammas: tuple[Optional[Tensor], ...]
    betas: tuple[Optional[Tensor], ...]

    @classmethod
    def of(cls, flat: Sequence[Optional[Tensor]]) -> BranchParams:
        """The inverse of :meth:`flat`."""
        n = len(flat) // 3
        return cls(tuple(flat[:n]), tuple(flat[n : 2 * n]), tuple(flat[2 * n :]))

    def flat(self) -> tuple[Optional[Tensor], ...]:
        """All in a row, as autograd wants them."""
        return self.kernels + self.gammas + self.betas

    def stacked(self, spec: UnitSpec, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Kernels (G, J, O, P), gammas and betas (G, J, O), in like's type."""
        return (
            stack_kernels(spec, self.kernels, like),
            stack_channels(spec, self.gammas, 1, like),
            stack_channels(spec, self.betas, 0, like),
        )


def stack_kernels(spec: UnitSpec, kernels: Sequence[Optional[Tensor]], like: Tensor) -> Tensor:
    """Kernels, padded to the unit's, as (G, J, O, P), in like's type."""
    shape = (spec.out_channels, spec.groups, spec.kernel_size, like.dtype, like.device)
    identity = identity_kernel if is_compiling() else _kept_identity
    parts = [
        identity(*shape) if kernel is None else pad_kernel(kernel, spec.kernel_size)
        for kernel in kernels
    ]
    # Kernels in channels_last cannot be viewed so.
    whole = torch.cat(parts).to(like.dtype)
    return whole.reshape(len(parts), spec.groups, -1, spec.taps).transpose(0, 1)


@functools.lru_cache(maxsize=64)
def _kept_identity(*shape_and_type: Any) -> Tensor:
    with torch.inference_mode(False):  # it is kept for training too
        return identity_kernel(*shape_and_type)


def stack_channels(
    spec: UnitSpec, values: Sequence[Optional[Tensor]], fill: float, like: Tensor
) -> Tensor:
    """One (out,) tensor a branch, or ``fill``, as (G, J, O)."""
    given = next((v for v in values if v is not None), like)
    parts = [given.new_full((spec.out_channels,), fill) if v is None else v for v in values]
    return torch.cat(parts).to(like.dtype).view(len(parts), spec.groups, -1).transpose(0, 1)


def unstack_kernels(
    spec: UnitSpec, grads: Tensor, kernels: Sequence[Optional[Tensor]]
) -> tuple[Optional[Tensor], ...]:
    """Gradients (G, J, O, P) in the shapes of their kernels.

    They are parts of one tensor and share no element.
    """
    like = next((w for w in kernels if w is not None), grads)
    k = spec.kernel_size
    split = grads.transpose(0, 1).to(like.dtype).contiguous()
    split = split.view(len(kernels), spec.out_channels, spec.group_width, k, k)
    return tuple(
        None if kernel is None else _centre(grad, kernel.shape[-1])
        for grad, kernel in zip(split.unbind(), kernels)
    )


def _centre(grad: Tensor, size: int) -> Tensor:
    """The gradient (O, I, k, k) to a kernel that was padded from ``size``."""
    margin = (grad.shape[-1] - size) // 2
    if not margin:
        return grad
    taps = slice(margin, margin + size)
    return grad[..., taps, taps].contiguous()


def unstack_channels(
    grads: Tensor, values: Sequence[Optional[Tensor]]
) -> tuple[Optional[Tensor], ...]:
    """Gradients (G, J, O) as (out,) for each branch that has a value."""
    like = next((v for v in values if v is not None), grads)
    split = grads.transpose(0, 1).to(like.dtype).flatten(1)
    return tuple(None if value is None else grad for grad, value in zip(split.unbind(), values))


def as_weight(spec: UnitSpec, kernel: Tensor, dtype: torch.dtype) -> Tensor:
    """A folded kernel (G, O, P) as a convolution takes it."""
    k = spec.kernel_size
    return kernel.to(dtype).reshape(spec.out_channels, spec.group_width, k, k)


def in_own_memory(grads: Iterable[Optional[Tensor]]) -> list[Optional[Tensor]]:
    """Gradients to parameters, each in a storage of its own.

    Accumulation, clipping, unscaling and optimizers write to gradients in place, and autograd may
    hand on the tensor it was given.
    """
    own: list[Optional[Tensor]] = []
    taken: set[int] = set()
    for grad in grads:
        if grad is not None:
            storage = grad.untyped_storage()
            if storage.data_ptr() in taken or storage.nbytes() > grad.numel() * grad.element_size():
                grad = grad.clone(memory_format=torch.contiguous_format)
            taken.add(grad.untyped_storage().data_ptr())
        own.append(grad)
    return own


def branch_layout(x: Tensor) -> Tensor:
    """x (N, C, H, W), out of channels_last on a CPU.

    There (torch 2.14.1, AVX2), in channels_last, batch norm adds up pixel by pixel in float32 and
    is off by 2e-5 where it otherwise is by 4e-8 (32 x 128 x 28²); oneDNN's convolutions of 256
    channels round 1.4 times as much; what :func:`may_overrun` tells of corrupts the heap; and
    depthwise convolutions take up to twice as long.
    """
    return x.contiguous() if x.device.type == 'cpu' else x


def may_overrun(kernel_size: int, stride: int, in_channels: int, groups: int) -> bool:
    """Whether a convolution in channels_last may write beyond its memory in a CPU's backward.

    On x86, oneDNN's weight gradient of a strided 1x1 convolution with fewer input channels than a
    vector holds writes past its workspace (https://github.com/uxlfoundation/oneDNN/issues/6035), as
    in the stem of MobileOne. Without a stride, on every ``stride``-th pixel, the same convolution
    does not. A contiguous input does not help: a weight in channels_last, or inductor, puts the
    convolution into channels_last.
    """
    return kernel_size == groups == 1 < stride and in_channels < _VECTOR


def pixel_step(x: Tensor, spec: UnitSpec, kernel_size: int) -> int:
    """The step at which x (N, C, H, W) is sliced before a convolution, whose stride it divides.

    1, but the stride where :func:`may_overrun` holds.

    Args:
        spec: of the unit.
        kernel_size: of the convolution.
    """
    overruns = may_overrun(kernel_size, spec.stride, spec.in_channels, spec.groups)
    return spec.stride if overruns and x.device.type == 'cpu' else 1


def autocast_dtype(x: Tensor) -> Optional[torch.dtype]:
    """Type that autocast gives a convolution of x; None: x keeps its own."""
    device = x.device.type
    if x.dtype == torch.float64:
        return None
    if hasattr(torch.amp, 'is_autocast_available'):
        on = torch.amp.is_autocast_available(device) and torch.is_autocast_enabled(device)
        return torch.get_autocast_dtype(device) if on else None
    # torch < 2.5
    if device == 'cpu':
        on, dtype = (torch.is_autocast_cpu_enabled(), torch.get_autocast_cpu_dtype())
    else:
        on = device == 'cuda' and torch.is_autocast_enabled()
        dtype = torch.get_autocast_gpu_dtype()
    return dtype if on else None
