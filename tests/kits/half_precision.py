"""What half precision must lose, predicted by random roundings in float64.

The error of branches at hand is one draw of chance, and may be a lucky one where a single number
is most of a norm; the root mean square over draws is not, and is the same on every machine.
"""

import copy

import torch
from helpers import generator
from torch import Tensor, nn


class Rounding(torch.autograd.Function):
    """A value, and its gradient, as a type of this ``eps`` may hold them: off by up to eps / 2."""

    @staticmethod
    def forward(ctx, value, eps, draws):
        ctx.eps, ctx.draws = eps, draws
        return rounded(value, eps, draws)

    @staticmethod
    def backward(ctx, grad):
        return rounded(grad, ctx.eps, ctx.draws), None, None


def rounded(value: Tensor, eps: float, draws: torch.Generator) -> Tensor:
    noise = torch.rand(value.shape, generator=draws, dtype=value.dtype) - 0.5
    return value * (1 + eps * noise)


def roundings(block, dtype: torch.dtype, count: int):
    """Yield ``count`` functions: branches of a float64 block as autocast rounds them.

    It rounds a unit's images, weights, the output of each convolution, and what leaves the unit,
    and the gradients of all these.
    """
    eps, draws = torch.finfo(dtype).eps, generator(3)
    for _ in range(count):
        own = copy.deepcopy(block)
        for module in own.modules():
            if isinstance(module, nn.Conv2d):
                module.weight.data = rounded(module.weight.data, eps, draws)
                module.register_forward_hook(lambda _, __, out: Rounding.apply(out, eps, draws))

        def run(x, own=own):
            return Rounding.apply(own._branch_sum(Rounding.apply(x, eps, draws)), eps, draws)

        yield own, run
