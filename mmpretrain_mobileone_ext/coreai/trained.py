"""What was trained rounded, in an ``.aimodel``: its integers, and inputs that are rounded."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch
from torch import Tensor, nn

from ..coreml.compress.given import TrainedLayer, match
from ..coreml.compress.trained import RoundedInput
from .compress import read_weights, write_weights
from .extra import converter


class _Rounded(nn.Module):
    """A :class:`RoundedInput` in Core AI's own operations."""

    scale: Tensor

    def __init__(self, rounded: RoundedInput):
        super().__init__()
        self.layer = rounded.layer
        self.dtype = torch.int8 if rounded.low < 0 else torch.uint8
        self.register_buffer('scale', torch.tensor(rounded.scale))

    def forward(self, x: Tensor) -> Tensor:
        """As of the layer."""
        ops = torch.ops.coreai
        whole = ops.quantize(x, self.scale, self.dtype)
        return self.layer(ops.dequantize(whole, self.scale))


def with_roundings(net: nn.Module) -> nn.Module:
    """Let inputs be rounded by operations that the converter knows, in place."""
    if not any(isinstance(m, RoundedInput) for m in net.modules()):
        return net
    converter()
    # As coreai-opt does, so that torch knows the operations.
    import_module('coreai_torch._compression.custom_layers')
    for module in list(net.modules()):
        for name, child in module.named_children():
            if isinstance(child, RoundedInput):
                setattr(module, name, _Rounded(child))
    return net


def store_trained(source: Path, layers: Sequence[TrainedLayer], out: Path) -> Path:
    """As ``coreml.compress.given.store_trained``, for an ``.aimodel``."""
    return write_weights(source, match(read_weights(source), layers, source), out)
