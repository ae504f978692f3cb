"""What a network was trained to round, as converters and files take it.

Training rounds a weight at every step, and a file holds its integers. :func:`settle` leaves plain
layers with the rounded weights, which every converter knows, and layers that round what they read,
:class:`RoundedInput`; :func:`trained_layers` reads the integers off them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import ExportError
from ...models.block import MobileOneBlock
from ...models.quantization import QuantizedLinear, Quantizer, WeightGrid, quantizers, replace_layer
from ..program import quiet
from .codes import Integers
from .given import TrainedLayer

#: Name of a layer in a network to what its weight is rounded to.
Grids = Mapping[str, WeightGrid]
_STORED = (4, 8)
_METADATA = '_COREML_'
_ROUNDING = 'fake_quantize_per_tensor_affine'


class RoundedInput(nn.Module):
    """A layer that reads the nearest numbers of a grid about zero.

    Args:
        layer: takes one tensor.
        scale: distance of two numbers.
        low, high: the least and the largest are these times ``scale``.
    """

    def __init__(self, layer: nn.Module, scale: float, low: int, high: int):
        super().__init__()
        self.layer = layer
        self.scale, self.low, self.high = scale, low, high

    def forward(self, x: Tensor) -> Tensor:
        """As of the layer."""
        return self.layer(
            torch.fake_quantize_per_tensor_affine(x, self.scale, 0, self.low, self.high)
        )


@dataclass(frozen=True)
class Rounding:
    """What rounds in a network; false where nothing does.

    Attributes:
        weights: bits of weights, each once.
        activations: bits of activations, each once.
    """

    weights: tuple[int, ...] = ()
    activations: tuple[int, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.weights)

    @property
    def words(self) -> str:
        """'weights of 4 bits', 'weights of 8 bits and activations of 8 bits'."""
        kinds = {'weights': self.weights, 'activations': self.activations}
        given = [f'{kind} of {" and ".join(map(str, b))} bits' for kind, b in kinds.items() if b]
        return ' and '.join(given)


def rounding_of(model: nn.Module) -> Rounding:
    """What rounds in a network now.

    Raises:
        ExportError: bits that no file holds.
    """
    on = [own for own in quantizers(model) if own.phase]
    found = Rounding(
        tuple(sorted({own.weights for own in on})),
        tuple(sorted({own.activations for own in on} - {0})),
    )
    if not {*found.weights} <= {*_STORED} or not {*found.activations} <= {8}:
        raise ExportError(
            f'the network was trained with {found.words}; a file holds weights of 4 or 8 bits and '
            'activations of 8'
        )
    return found


def check_rounding(rounding: Rounding, target: str, format: str, stored: bool) -> None:
    """Refuse what a file of this target and format cannot hold.

    Args:
        rounding: of the network.
        target: deployment target, 'iOS15' to 'iOS26'.
        format: 'mlprogram' or 'neuralnetwork'.
        stored: whether weights are stored as their integers.

    Raises:
        ExportError: says what is needed.
    """
    if format == 'neuralnetwork':
        if rounding.activations:
            raise ExportError(
                f'the network was trained with {rounding.words}, and a .mlmodel has no quantized '
                'activations; write an .mlpackage'
            )
        return
    oldest, what = max(_needs(rounding, stored), default=('', ''))
    if target < oldest:
        other = '; --compress none stores them as numbers of its precision'
        raise ExportError(
            f'the network was trained with {what}, which need a deployment target of {oldest} or '
            f'later; it is {target}{other if what.startswith("weights") else ""}'
        )


def oldest_target(rounding: Rounding) -> str:
    """The first system whose files hold all of it."""
    return max(_needs(rounding, stored=True))[0]


def _needs(rounding: Rounding, stored: bool) -> Iterator[tuple[str, str]]:
    """Systems, and in words what each is the first to have."""
    for bits in rounding.weights if stored else ():
        yield 'iOS16' if bits == max(_STORED) else 'iOS18', f'weights of {bits} bits'
    for bits in rounding.activations:
        yield 'iOS17', f'activations of {bits} bits'


@torch.no_grad()
def settle(net: nn.Module) -> dict[str, WeightGrid]:
    """Make plain layers with rounded weights of all that is quantized, in place.

    Args:
        net: in folded form.

    Returns:
        Names of the layers that have rounded weights, and to what they are rounded.

    Raises:
        ExportError: a unit that is quantized still has its branches.
    """
    grids: dict[str, WeightGrid] = {}
    for name, module in list(net.named_modules()):
        own: Any = getattr(module, 'quantizer', None)
        if isinstance(module, MobileOneBlock) and own is not None:
            module.quantizer = None
            if own.phase and not module.deploy:
                raise ExportError(f'{name} is quantized, and has branches that cannot be folded')
            path = f'{name}.branch_reparam' if name else 'branch_reparam'
            layer: Any = module.branch_reparam if own.phase else None
        elif isinstance(module, QuantizedLinear):
            path, layer = name, _plain_linear(module)
            replace_layer(net, path, layer)
        else:
            continue
        if own.phase:
            _place(net, path, layer, own, grids)
    return grids


def _plain_linear(linear: nn.Linear) -> nn.Linear:
    with torch.device('meta'):
        plain = nn.Linear(linear.in_features, linear.out_features, linear.bias is not None)
    plain.weight, plain.bias = linear.weight, linear.bias
    return plain.train(linear.training)


def _place(
    net: nn.Module, name: str, layer: Any, own: Quantizer, grids: dict[str, WeightGrid]
) -> None:
    layer.weight.copy_(own.weight_grid.round(layer.weight.detach()))
    grid = own.grid()
    if grid is not None:
        layer = RoundedInput(layer, float(grid.scale), grid.low, grid.high)
        layer.train(net.training)
    replace_layer(net, name, layer)
    grids[name if grid is None else f'{name}.layer'] = own.weight_grid


def trained_layers(net: nn.Module, grids: Grids) -> tuple[TrainedLayer, ...]:
    """The integers of a network's layers.

    Args:
        net: as :func:`settle` left it, or a copy.
        grids: what it returned.
    """
    return tuple(_trained(name, net.get_submodule(name), grid) for name, grid in grids.items())


def _trained(name: str, layer: Any, grid: WeightGrid) -> TrainedLayer:
    weight = layer.weight.detach()
    codes, scale = grid.integers(weight)
    scales = scale.float().numpy().reshape(*scale.shape, *[1] * (weight.dim() - 2))
    zeros = np.zeros(scales.shape, np.int8)
    stored = Integers(codes.numpy().astype(np.int8), scales, zeros, grid.bits)
    return TrainedLayer(name, weight.float().numpy(), stored)


def scaled_alike(net: nn.Module, grids: Grids, conv: nn.Module, factors: Sequence[float]) -> bool:
    """Whether a layer may be scaled by input channel and keep the integers that it has."""
    # What coreai-opt leaves beside a weight holds for it alone.
    if any(name.startswith(_METADATA) for name, _ in conv.named_buffers(recurse=False)):
        return False
    rounded = any(net.get_submodule(name) is conv for name in grids)
    return not rounded or len(set(factors)) == 1


def teach_rounding() -> None:
    """Let coremltools' front end convert what :class:`RoundedInput` computes.

    It becomes ``quantize`` and ``dequantize``, which iOS 17 is the first to have; the zero point is
    0, and is left out.
    """
    registry = quiet.module('coremltools.converters.mil.frontend.torch.torch_op_registry')
    if registry._TORCH_OPS_REGISTRY.get_func(_ROUNDING) is not None:
        return
    inputs_of = quiet.module('coremltools.converters.mil.frontend.torch.ops')._get_inputs
    build = quiet.module('coremltools.converters.mil.mil').Builder

    # Its name says what it converts.
    def fake_quantize_per_tensor_affine(context: Any, node: Any) -> None:
        x, scale, _, low, _ = inputs_of(context, node, expected=5)
        number = np.float32(scale.val)
        dtype = 'int8' if low.val < 0 else 'uint8'
        whole = build.quantize(input=x, scale=number, output_dtype=dtype)
        context.add(build.dequantize(input=whole, scale=number, name=node.name))

    registry.register_torch_op(fake_quantize_per_tensor_affine)
