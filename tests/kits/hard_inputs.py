"""Inputs on which statistics lose digits, for units of every kind.

Each case is a unit in float32, images, and a gradient to its output; :func:`errors` compares a
method with the unit's branches in float64, relative in the norm of output, gradient to the images,
and gradient to all parameters in a row.
"""

import copy
import functools
from dataclasses import dataclass
from typing import Callable, NamedTuple

import torch
import torch.nn.functional as F
from helpers import generator, randomize_norms
from torch import Tensor

from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.spec import UnitSpec

UNITS = dict(
    pointwise=UnitSpec('unit', 24, 24, 1, num_conv_branches=4),
    without_skip=UnitSpec('unit', 20, 36, 1, num_conv_branches=4),
    wide=UnitSpec('unit', 96, 96, 1, num_conv_branches=4),
    depthwise=UnitSpec('unit', 21, 21, 3, groups=21, num_conv_branches=4),
    strided=UnitSpec('unit', 21, 21, 3, stride=2, groups=21, num_conv_branches=1),
    stem=UnitSpec('unit', 3, 12, 3, stride=2, num_conv_branches=4),
    grouped=UnitSpec('unit', 12, 12, 3, groups=3, num_conv_branches=2),
)
IMAGES, SIZE = 4, 14
MEANS = (1, 3, 10, 30, 100, 300, 1000)
VARIANCES = (1, 1e-2, 1e-4, 1e-6)
CORRELATED = (1, 0.3, 0.1, 0.05)


class Case(NamedTuple):
    unit: str
    input: str
    seed: int


@dataclass(frozen=True)
class Noise:
    """Normal numbers (N, C, H, W) of any shape, drawn in turn."""

    channels: int
    random: torch.Generator

    def normal(self, *shape: int) -> Tensor:
        shape = shape or (IMAGES, self.channels, SIZE, SIZE)
        return torch.randn(shape, generator=self.random, dtype=torch.float64)

    def offsets(self) -> Tensor:
        """One number a channel, of absolute value 0.5 to 1.5 and any sign."""
        size = torch.rand(1, self.channels, 1, 1, generator=self.random, dtype=torch.float64) + 0.5
        return size * self.normal(1, self.channels, 1, 1).sign()

    def smooth(self) -> Tensor:
        """Images of four waves or so, of variance 1."""
        few = self.normal(IMAGES, self.channels, 4, 4)
        x = F.interpolate(few, (SIZE, SIZE), mode='bicubic', align_corners=True)
        return x / x.std()

    def correlated(self, s: float, smooth: bool = False) -> Tensor:
        """One image in all channels, and ``s`` times one of their own."""
        common = self.smooth()[:, :1] if smooth else self.normal(IMAGES, 1, SIZE, SIZE)
        return common + s * self.normal()

    def rare(self) -> Tensor:
        """Rectified; every third channel is active in one pixel of 100."""
        x = self.normal()
        active = torch.rand(x[:, ::3].shape, generator=self.random) < 0.01
        x[:, ::3] = (x[:, ::3].abs() + 3) * active
        return x.relu()

    def constant(self, value: float) -> Tensor:
        """Normal, but for every third channel."""
        x = self.normal()
        x[:, ::3] = value
        return x


def _inputs() -> dict[str, Callable[[Noise], Tensor]]:
    made: dict[str, Callable[[Noise], Tensor]] = {}
    for m in MEANS:
        for v in VARIANCES:
            made[f'mean {m}, variance {v}'] = lambda n, m=m, v=v: (
                v**0.5 * (n.normal() + m * n.offsets())
            )
    for s in CORRELATED:
        for m in (0, 3, 100):
            made[f'correlated {s}, mean {m}'] = lambda n, s=s, m=m: (
                n.correlated(s) + m * n.offsets()
            )
        made[f'correlated {s}, rectified'] = lambda n, s=s: n.correlated(s).relu()
        made[f'correlated {s}, smooth, mean 10'] = lambda n, s=s: n.correlated(s, smooth=True) + 10
    for m in (0, 3, 10, 1000):
        made[f'smooth, mean {m}'] = lambda n, m=m: n.smooth() + m * n.offsets()
        made[f'constant {m}'] = lambda n, m=m: n.constant(m)
    made['smooth, rectified'] = lambda n: n.smooth().relu()
    made['smooth, rectified, mean 100'] = lambda n: n.smooth().relu() + 100
    made['rectified'] = lambda n: n.normal().relu()
    made['rare'] = lambda n: n.rare()
    made['rare, variance 1e-4'] = lambda n: 0.01 * n.rare()
    made['rare, mean 30'] = lambda n: n.rare() + 30 * n.offsets()
    made['all zero'] = lambda n: 0 * n.normal()
    made['all constant'] = lambda n: 0 * n.normal() + 7 * n.offsets()
    made['some large'] = lambda n: n.normal() * 10 ** n.normal(1, n.channels, 1, 1)
    made['images of their own'] = lambda n: n.normal() + 30 * n.normal(IMAGES, n.channels, 1, 1)
    return made


INPUTS = _inputs()
CASES = tuple(
    Case(unit, name, 100 * u + i) for u, unit in enumerate(UNITS) for i, name in enumerate(INPUTS)
)


@functools.cache
def block_of(unit: str, dtype: torch.dtype) -> MobileOneBlock:
    """One a unit and type, of the same values, its norms randomized."""
    torch.manual_seed(0)
    return copy.deepcopy(randomize_norms(MobileOneBlock(UNITS[unit], online_reparam=False))).to(
        dtype
    )


def images_of(case: Case) -> Tensor:
    noise = Noise(UNITS[case.unit].in_channels, generator(case.seed))
    return INPUTS[case.input](noise).float()


def outcome(run, case: Case, dtype: torch.dtype, block=None) -> list[Tensor]:
    """Output, gradient to the images, and gradient to all parameters.

    ``run(block, x)`` is of the case's block in ``dtype``, or of another that is given.
    """
    block = block or block_of(case.unit, dtype)
    x = images_of(case).to(dtype)
    x = x.contiguous(memory_format=torch.channels_last).requires_grad_()
    out = run(block, x)
    grad = torch.randn(out.shape, generator=generator(case.seed + 1)).to(out.dtype)
    by_x, *grads = torch.autograd.grad(out, [x, *block.parameters()], grad)
    return [v.double() for v in (out.detach(), by_x, torch.cat([g.flatten() for g in grads]))]


def errors(found: list[Tensor], wanted: list[Tensor]) -> Tensor:
    return torch.stack([(f - w).norm() / w.norm() for f, w in zip(found, wanted)])


def floors(case: Case, wanted: list[Tensor]) -> Tensor:
    """Errors that any method may make: roundings of the largest numbers on the way.

    Of the output ``sum_j a_j (w_j p - mean_j) + beta_j`` one of each product, as if all had one
    sign: constant channels are large numbers that a batch norm takes off, and what a convolution
    rounds of them is the same in every pixel, so that branches lose it with the mean. Of gradients,
    which are sums over pixels, two of the result.
    """
    block, x = block_of(case.unit, torch.float64), images_of(case).double()
    size = torch.zeros_like(wanted[0])
    for branch in block.branches():
        norm = branch if branch is block.branch_norm else branch.norm
        conv = None if branch is block.branch_norm else branch.conv
        z, absolute = x, x.abs()
        if conv is not None:
            geometry = (None, conv.stride, conv.padding, conv.dilation, conv.groups)
            z = F.conv2d(x, conv.weight, *geometry)
            absolute = F.conv2d(x.abs(), conv.weight.abs(), *geometry)
        var = z.var((0, 2, 3), unbiased=False)
        scale = norm.weight.abs() / (var + norm.eps).sqrt()
        size += scale.view(1, -1, 1, 1) * absolute + norm.bias.abs().view(1, -1, 1, 1)
    unit = torch.finfo(torch.float32).eps / 2
    return torch.stack([unit * size.norm() / wanted[0].norm(), *[size.new_tensor(2 * unit)] * 2])
