"""Networks of thirty layers that differ in what stands behind each convolution.

The MobileOne paper times such a network with several activations (table 2) and states neither its
widths nor its kernels. So there are two, one of the dense layers of RepVGG-A0, one of the separable
ones of MobileOne-S1: what is concluded has to hold for both.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

#: What stands behind each convolution.
ACTIVATIONS = ('relu', 'gelu', 'se', 'silu')


class Plan(NamedTuple):
    """A convolution of 3 x 3 or 1 x 1: output channels, kernel, stride, whether depthwise."""

    channels: int
    kernel: int
    stride: int = 1
    is_depthwise: bool = False


def _dense() -> Iterator[Plan]:
    for width, depth in ((48, 2), (48, 4), (96, 6), (192, 17), (1280, 1)):
        yield from (Plan(width, 3, 2 if i == 0 else 1) for i in range(depth))


def _separable() -> Iterator[Plan]:
    yield Plan(64, 3, 2)
    before = 64
    for width, depth in ((96, 2), (192, 4), (512, 7), (1280, 1)):
        for i in range(depth):
            yield Plan(before, 3, 2 if i == 0 else 1, is_depthwise=True)
            yield Plan(width, 1)
            before = width
    yield Plan(before, 1)


PLANS = {'dense': tuple(_dense()), 'separable': tuple(_separable())}


class SqueezeExcite(nn.Module):
    """Hu et al. with a ratio of 1/16, as MobileOne's."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.reduce = nn.Conv2d(channels, max(1, channels // 16), 1)
        self.expand = nn.Conv2d(max(1, channels // 16), channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to the same."""
        mean = x.mean((2, 3), keepdim=True)
        return x * torch.sigmoid(self.expand(torch.relu(self.reduce(mean))))


class ThirtyLayers(nn.Module):
    """A backbone of one of :data:`PLANS`; every layer is a convolution, a norm and an activation.

    Args:
        plan: 'dense' or 'separable'.
        activation: of :data:`ACTIVATIONS`; 'se' is squeeze-excite, then ReLU.
    """

    def __init__(self, plan: str, activation: str) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        channels = 3
        for step in PLANS[plan]:
            groups = channels if step.is_depthwise else 1
            padding = step.kernel // 2
            layers += [
                nn.Conv2d(
                    channels, step.channels, step.kernel, step.stride, padding, groups=groups
                ),
                nn.BatchNorm2d(step.channels),
                *_activation(activation, step.channels),
            ]
            channels = step.channels
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> tuple[Tensor]:
        """Images (N, 3, H, W) to one map (N, 1280, H / 32, W / 32)."""
        return (self.layers(x),)


def _activation(name: str, channels: int) -> list[nn.Module]:
    if name == 'se':
        return [SqueezeExcite(channels), nn.ReLU()]
    return [{'relu': nn.ReLU, 'gelu': nn.GELU, 'silu': nn.SiLU}[name]()]
