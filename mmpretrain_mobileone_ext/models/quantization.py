"""Weights and activations of few bits, while a network trains.

A number is rounded to an integer times a scale, and the gradient passes as if it were not
(straight-through estimator, arXiv 1308.3432). As Core ML has it: weights with one scale an output
channel, or one for each block of its input channels, symmetric about zero, and activations with one
scale a tensor, from zero on where they cannot be negative (arXiv 1712.05877, sections 2 and 3).

The scale of a block is its largest magnitude over the largest integer. So rounding what is rounded
already changes nothing, and the integers can be had from the weights alone:
:meth:`WeightGrid.integers`.

A unit is rounded as the one convolution that ships, ``q(W)``, in the middle of its branches'
training. Its bias is chosen by the mean mu of the patches that it reads,

    b = sum_j beta_j - q(W) mu,

so that rounding moves no output's mean, whatever it did to the kernel: W mu is what the norms take
off, and q(W) mu is what is there to be taken off.

In evaluation the norms' running means stand for W mu, and a running mean of the patches for mu.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple, Optional

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import CheckpointError, SpecError
from ..utils.accuracy import INT4_BLOCK, is_sensitive
from ..utils.checks import integer
from ..utils.machine import is_exporting

#: Bits of weights and of activations that may be trained; 16 is for tests of exactness.
WEIGHT_BITS, ACTIVATION_BITS = (4, 8, 16), (8, 16)
#: Of weights that may have blocks: files hold no others so on all systems that have the bits.
BLOCK_BITS = 4
OBSERVERS = ('max', 'percentile')
_NAME = 'quantizer'
#: Activations that are not negative.
_NON_NEGATIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid)
_PERCENTILE = 0.9999
#: Values of a batch that a percentile is taken of.
_SAMPLE = 1 << 16
#: Least share of a batch in a running range or mean, which begin as the plain average of all.
_RATE = 0.1


class WeightGrid(NamedTuple):
    """The numbers that a weight is rounded to.

    Attributes:
        bits: of an integer.
        block_size: input channels that share a scale; None, or where it does not divide their
            number: all of them.
    """

    bits: int
    block_size: Optional[int] = None

    def round(self, weight: Tensor) -> Tensor:
        """A weight (O, I, ...) on its grid, of its type; the gradient passes."""
        value = weight.detach()
        blocks = self._blocks(value)
        scale = self._scale(blocks)
        rounded = (blocks / scale).round_().mul_(scale).view(weight.shape)
        return rounded + (weight - value) if weight.requires_grad else rounded

    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Integers of a weight, rounded or not, and their scales.

        Args:
            weight: (O, I, ...).

        Returns:
            int32 (O, I, ...), and of the weight's type (O, blocks); 1 where a block is all zeros.
        """
        blocks = self._blocks(weight.detach())
        scale = self._scale(blocks)
        return (blocks / scale).round().int().view(weight.shape), scale.squeeze(2)

    def _blocks(self, weight: Tensor) -> Tensor:
        """(O, blocks, numbers of a block)."""
        size, channels = self.block_size, weight.shape[1]
        count = channels // size if size and channels % size == 0 else 1
        return weight.reshape(len(weight), count, -1)

    def _scale(self, blocks: Tensor) -> Tensor:
        scale = blocks.abs().amax(2, keepdim=True) / (2 ** (self.bits - 1) - 1)
        return torch.where(scale > 0, scale, torch.ones_like(scale))


class InputGrid(NamedTuple):
    """The numbers that a tensor is rounded to: ``scale`` times ``low`` to ``high``.

    Attributes:
        scale: (), float32.
        low, high: integers.
    """

    scale: Tensor
    low: int
    high: int

    def round(self, x: Tensor) -> Tensor:
        """The nearest of them, of x's type; the gradient passes where x is not clipped."""
        if torch.jit.is_tracing() or is_exporting():
            # One operator, which whoever reads the graph knows.
            zero = torch.zeros((), dtype=torch.int32, device=x.device)
            return torch.fake_quantize_per_tensor_affine(x, self.scale, zero, self.low, self.high)
        return _Rounded.apply(x, self) if x.requires_grad else self.nearest(x)

    def nearest(self, x: Tensor) -> Tensor:
        """As :meth:`round`, without a gradient.

        torch's own operator takes 4.5 times as long on a CPU (2.14.1, AVX-512).
        """
        work = torch.promote_types(x.dtype, torch.float32)
        scale = self.scale.to(work)
        rounded = x.detach().to(work).div(scale).round_().clamp_(self.low, self.high)
        return rounded.mul_(scale).to(x.dtype)

    def grad_within(self, grad: Tensor, x: Tensor, out: Optional[Tensor] = None) -> Tensor:
        """A gradient, 0 where x was clipped; in ``out``, which may be ``grad``, if it is given."""
        if x.device.type == 'cpu':  # where a number can be asked for
            scale = self.scale.item()
            bounds = (self.low - 0.5) * scale, (self.high + 0.5) * scale
            found = torch.empty_like(grad) if out is None else out
            return torch.ops.aten.hardtanh_backward.grad_input(grad, x, *bounds, grad_input=found)
        least, most = (self.low - 0.5) * self.scale, (self.high + 0.5) * self.scale
        return torch.mul(grad, (x > least) & (x < most), out=out)


class _Rounded(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, grid: InputGrid) -> Tensor:
        ctx.grid = grid
        ctx.save_for_backward(x)
        return grid.nearest(x)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple:
        return ctx.grid.grad_within(grad, *ctx.saved_tensors), None


def rounded_by(grid: Optional[InputGrid], x: Tensor) -> Tensor:
    """x on a grid, if there is one."""
    return x if grid is None else grid.round(x)


class Quantizer(nn.Module):
    """What rounds a layer's weight and its input, and how.

    Buffers, so that a checkpoint says it: ``settings`` (bits of weights, of activations or 0,
    whether activations can be negative, and the block, if there is one), ``phase_number``,
    ``batches`` seen, and ``input_max``, the running largest magnitude of the input.

    Args:
        weights: bits of the weight.
        activations: bits of the input; None: it is not rounded.
        signed: whether the input can be negative.
        observer: how a batch's largest magnitude is found: ``'max'``, or ``'percentile'``, the
            99.99th of a sample.
        block_size: of :class:`WeightGrid`; None for other weights than those of 4 bits.

    Raises:
        SpecError: other bits, another observer, or no size of a block.
    """

    OFF, ON, FROZEN = range(3)

    settings: Tensor
    batches: Tensor
    input_max: Tensor

    def __init__(
        self,
        weights: int = 8,
        activations: Optional[int] = None,
        signed: bool = True,
        observer: str = 'max',
        block_size: Optional[int] = None,
    ):
        super().__init__()
        _check('weights', weights, WEIGHT_BITS)
        _check('activations', activations, (*ACTIVATION_BITS, None))
        _check('observer', observer, OBSERVERS)
        if block_size is not None:
            integer('block_size', block_size, 1)
            _check('weights of a block_size', weights, (BLOCK_BITS,))
        self.observer = observer
        self.rounds_input = True
        self._phase = self.OFF
        block = [] if block_size is None else [block_size]
        settings = torch.tensor([weights, activations or 0, int(signed), *block])
        self.register_buffer('settings', settings)
        self.register_buffer('phase_number', torch.tensor(self.OFF))
        self.register_buffer('batches', torch.tensor(0))
        self.register_buffer('input_max', torch.tensor(0.0))
        self._read()

    @property
    def phase(self) -> int:
        """``OFF``: nothing is rounded; ``FROZEN``: ranges and means stay."""
        return self._phase

    @phase.setter
    def phase(self, value: int) -> None:
        self._phase = value
        self.get_buffer('phase_number').fill_(value)

    @property
    def follows(self) -> bool:
        """Whether ranges and means follow what is seen: in training, up to the freeze."""
        return self._phase == self.ON and self.training

    @property
    def weight_grid(self) -> WeightGrid:
        """What the weight is rounded to."""
        return WeightGrid(self.weights, self.block_size)

    def grid(self) -> Optional[InputGrid]:
        """What inputs are rounded to; None: they are not."""
        if not (self.activations and self.rounds_input):
            return None
        levels = 2 ** (self.activations - self.signed)
        scale = self.input_max.detach().float() / (levels - 1)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        return InputGrid(scale, -levels if self.signed else 0, levels - 1)

    @torch.no_grad()
    def observe(self, x: Tensor) -> None:
        """Let the range follow a batch's, before x is rounded by it, and count the batch.

        The range is that of all ranks: one of them is saved, and all begin with it again.
        """
        self.batches.add_(1)
        if self.activations:
            largest = self._largest(x)
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(largest, dist.ReduceOp.MAX)
            self._follow(self.input_max, largest)

    def _largest(self, x: Tensor) -> Tensor:
        if self.observer == 'max':
            # Both at once (aminmax) take six times as long (torch 2.14.1, AVX-512).
            high = x.detach().amax().float()
            return torch.maximum(high, x.detach().amin().neg()) if self.signed else high
        flat = x.detach().flatten()
        step = max(1, len(flat) // _SAMPLE)
        while math.gcd(step, math.prod(x.shape[1:])) > 1:  # or it would meet some columns only
            step += 1
        return torch.quantile(flat[::step].abs().float(), _PERCENTILE)

    def _follow(self, kept: Tensor, found: Tensor) -> None:
        """The plain average of few batches, then a running one."""
        rate = torch.clamp(1 / self.batches, min=_RATE)
        moved = torch.lerp(kept, found.to(kept.dtype), rate.to(kept.dtype))
        # A step that AMP is going to skip may hold infinities.
        kept.copy_(torch.where(moved.isfinite(), moved, kept))

    def _read(self) -> None:
        """What is asked of buffers at every step, as Python's numbers."""
        self.weights, self.activations, signed, *block = self.settings.tolist()
        self.signed, self.block_size = bool(signed), next(iter(block), None)
        self._phase = int(self.get_buffer('phase_number'))

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._read()

    def extra_repr(self) -> str:
        """For print()."""
        block = f', block_size={self.block_size}' if self.block_size else ''
        return f'weights={self.weights}, activations={self.activations or None}{block}'


class UnitQuantizer(Quantizer):
    """A quantizer of a re-parameterizable unit.

    Args:
        groups, taps: of the unit.
        options: as of :class:`Quantizer`.
    """

    patch_mean: Tensor

    def __init__(self, groups: int, taps: int, **options: Any):
        super().__init__(**options)
        # (G, P): the running mean of the patches that the convolution reads.
        self.register_buffer('patch_mean', torch.zeros(groups, taps))

    @torch.no_grad()
    def follow_patches(self, mean: Tensor) -> None:
        """Let the patches' mean follow a batch's, (G, P)."""
        self._follow(self.patch_mean, mean)

    def fold(self, kernel: Tensor, bias: Tensor) -> tuple[Tensor, Tensor]:
        """The rounded kernel and its bias.

        What the kernel makes of the mean patch, the norms have taken off by running means of their
        own, which may be averaged with the weights. What rounding adds to it is all that is left.

        Args:
            kernel: (O, I / groups, k, k), folded by running statistics.
            bias: (O,), of that fold.
        """
        rounded = self.weight_grid.round(kernel)
        # The next batch moves the mean, which backward may still want.
        return rounded, bias - patch_response(rounded - kernel, self.patch_mean.clone())


def patch_response(kernel: Tensor, mean: Tensor) -> Tensor:
    """What a kernel (O, I / groups, k, k) makes of a mean patch (G, P): (O,)."""
    rows = kernel.reshape(len(mean), -1, mean.shape[1])
    return torch.bmm(rows, mean.to(kernel).unsqueeze(2)).flatten()


class QuantizedLinear(nn.Linear):
    """A linear layer with a quantizer; its keys are a linear layer's, and the quantizer's."""

    quantizer: Quantizer

    @classmethod
    def of(cls, linear: nn.Linear, quantizer: Quantizer) -> QuantizedLinear:
        """With the very parameters of another, which an optimizer may hold."""
        with torch.device('meta'):
            made = cls(linear.in_features, linear.out_features, bias=linear.bias is not None)
        made.weight, made.bias = linear.weight, linear.bias
        made.quantizer = quantizer.to(linear.weight.device)
        return made.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """As a linear layer's; rounded if the quantizer is on."""
        own = self.quantizer
        if not own.phase:
            return super().forward(input)
        if own.follows:
            own.observe(input)
        x = rounded_by(own.grid(), input)
        return F.linear(x, own.weight_grid.round(self.weight), self.bias)


def quantizers(model: nn.Module) -> Iterator[Quantizer]:
    """All of a model."""
    return (m for m in model.modules() if isinstance(m, Quantizer))


@contextmanager
def plain_inputs(*models: nn.Module) -> Iterator[None]:
    """Let what layers read pass as it is.

    To compare forms of a network: where one rounds a number up and the other down, a difference in
    the last bit becomes a step, and another one in every layer that follows.
    """
    found = [own for model in models for own in quantizers(model)]
    for own in found:
        own.rounds_input = False
    try:
        yield
    finally:
        for own in found:
            own.rounds_input = True


def add_quantizers(
    model: nn.Module,
    weights: int = 8,
    activations: Optional[int] = None,
    observer: str = 'max',
    block_size: Optional[int] = INT4_BLOCK,
    sensitive: int = 8,
) -> tuple[list[str], list[str]]:
    """Give all units and linear layers of a model a quantizer, which is off.

    Layers that have one keep it.

    Args:
        model: with re-parameterizable units, in the order in which they run.
        weights, activations, observer: as of :class:`Quantizer`.
        block_size: the same, of weights of 4 bits; others have one scale an output channel.
        sensitive: least bits of the weights of sensitive layers: those that the exporter's int4
            stores as int8, see :func:`~..utils.accuracy.is_sensitive`, and the last linear one.

    Returns:
        Names of the layers that have one, and of the units that cannot.
    """
    given: list[str] = []
    left: list[str] = []
    shared: Any = dict(activations=activations, observer=observer)
    signed = True  # of images
    layers = [(n, m) for n, m in model.named_modules() if is_quantizable(m)]
    for i, (name, module) in enumerate(layers):
        ends = i == 0, i == len(layers) - 1
        options = dict(_weight_options(module, *ends, weights, block_size, sensitive), **shared)
        if hasattr(module, 'add_quantizer'):
            had = module.quantizer is not None
            found = had or module.add_quantizer(signed=signed, **options)
            (given if found else left).append(name)
            signed = not isinstance(module.act, _NON_NEGATIVE)
        elif type(module) is nn.Linear:
            own = Quantizer(signed=signed or not _pools(model), **options)
            replace_layer(model, name, QuantizedLinear.of(module, own))
            given.append(name)
            signed = True  # from here on
    return given, left


def is_quantizable(module: nn.Module) -> bool:
    """Whether a module is a layer that may have a quantizer, or has one."""
    return hasattr(module, 'add_quantizer') or type(module) in (nn.Linear, QuantizedLinear)


def _weight_options(
    layer: Any, first: bool, last: bool, weights: int, block_size: Optional[int], sensitive: int
) -> dict[str, Any]:
    """Bits and blocks of one layer, of those that are asked for."""
    if isinstance(layer, nn.Linear):
        keeps = last or is_sensitive(layer.weight.numel(), first, depthwise=False)
    else:
        spec = layer.spec
        keeps = is_sensitive(spec.out_channels * spec.taps, first, spec.is_depthwise)
    bits = max(weights, sensitive) if keeps else weights
    return dict(weights=bits, block_size=block_size if bits == BLOCK_BITS else None)


def fit_quantizers(model: nn.Module, state_dict: Mapping[str, Any], prefix: str) -> None:
    """Give a model the quantizers that a state dict has values for.

    Args:
        state_dict: the model's keys start with ``prefix``.

    Raises:
        CheckpointError: the model has one with other settings.
    """
    end = f'.{_NAME}.settings'
    for key, value in state_dict.items():
        if not (key.startswith(prefix) and key.endswith(end)):
            continue
        name = key[len(prefix) : -len(end)]
        layer = _submodule(model, name)
        if layer is not None:
            _fit(model, name, layer, value)
            _check_given(name, getattr(layer, _NAME, None), state_dict, prefix + name)


def _fit(model: nn.Module, name: str, layer: Any, settings: Any) -> None:
    options = _options(name, settings)
    own = getattr(layer, _NAME, None)
    if own is not None:
        if own.settings.tolist() != settings.tolist():
            asked = _options(name, own.settings)
            raise CheckpointError(f'{name} was trained with {options}, and is asked for {asked}')
    elif hasattr(layer, 'add_quantizer'):
        layer.add_quantizer(**options)
    elif type(layer) is nn.Linear:
        replace_layer(model, name, QuantizedLinear.of(layer, Quantizer(**options)))


def _check_given(name: str, own: Any, state_dict: Mapping[str, Any], path: str) -> None:
    """Refuse a quantizer in part, or in a phase that there is not."""
    if own is None:
        return
    missing = [key for key in own.state_dict() if f'{path}.{_NAME}.{key}' not in state_dict]
    if missing:
        raise CheckpointError(f'{name}: its quantizer lacks {", ".join(missing)}')
    phase = state_dict[f'{path}.{_NAME}.phase_number']
    phases = range(3)
    if not isinstance(phase, Tensor) or phase.numel() != 1 or phase.item() not in phases:
        raise CheckpointError(f'{name}: its quantizer is in phase {phase}; allowed are {[*phases]}')


def _options(name: str, settings: Any) -> dict[str, Any]:
    """What a quantizer was made with, by its settings; they may come of any file."""
    try:
        weights, activations, signed, *block = settings.tolist()
        options = dict(weights=weights, activations=activations or None, signed=bool(signed))
        if len(block) > 1:
            raise ValueError(f'{len(settings)} numbers')
        options['block_size'] = next(iter(block), None)
        Quantizer(**options)
    except (AttributeError, TypeError, ValueError, SpecError) as error:
        raise CheckpointError(f'{name}: settings of a quantizer that cannot be: {error}') from error
    return options


def _submodule(model: nn.Module, name: str) -> Optional[nn.Module]:
    try:
        return model.get_submodule(name)
    except AttributeError:
        return None


def replace_layer(model: nn.Module, name: str, layer: nn.Module) -> None:
    """Put a layer where the one of this dotted name is."""
    parent, _, last = name.rpartition('.')
    setattr(model.get_submodule(parent), last, layer)


def _pools(model: nn.Module) -> bool:
    """Whether a linear layer reads the last unit's output, averaged."""
    return type(getattr(model, 'neck', None)).__name__ == 'GlobalAveragePooling'


def _check(name: str, value: Any, allowed: tuple) -> None:
    if not any(type(value) is type(one) and value == one for one in allowed):
        raise SpecError(f'{name}={value!r}; allowed are {", ".join(map(repr, allowed))}')
