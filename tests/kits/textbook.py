"""A unit's branches as a textbook computes them: one rounding a step.

Products add one term after another, statistics add halves of their values: IEEE operations on
single numbers, so in a given dtype the result is the same on every machine. A product summed in
lanes and blocks, as every kernel does, rounds less than one summed in turn: the error of a running
sum grows with the number of terms that follow. So the error of this one is a bound for kernels that
depends on no processor.
"""

import torch
import torch.nn.functional as F


class _Product(torch.autograd.Function):
    """(G, M, K) by (G, K, O), a term after another, gradients too."""

    @staticmethod
    def forward(ctx, left, right):
        ctx.save_for_backward(left, right)
        return _in_turn(left, right)

    @staticmethod
    def backward(ctx, grad):
        left, right = ctx.saved_tensors
        return (_in_turn(grad, right.transpose(1, 2)), _in_turn(left.transpose(1, 2), grad))


class _Sum(torch.autograd.Function):
    """(C, M) to (C, 1), halves first."""

    @staticmethod
    def forward(ctx, values):
        ctx.shape = values.shape
        return _by_halves(values)

    @staticmethod
    def backward(ctx, grad):
        return grad.expand(ctx.shape)


class _Spread(torch.autograd.Function):
    """(C, 1) to (C, M): the transpose of a sum."""

    @staticmethod
    def forward(ctx, values, like):
        return values.expand(like.shape)

    @staticmethod
    def backward(ctx, grad):
        return _by_halves(grad), None


def _in_turn(left, right):
    out = left.new_zeros(len(left), left.shape[1], right.shape[2])
    columns = left.transpose(1, 2).contiguous()
    for column, row in zip(columns.unbind(1), right.unbind(1)):
        out += column.unsqueeze(2) * row.unsqueeze(1)
    return out


def _by_halves(values):
    while values.shape[1] > 1:
        odd = values[:, values.shape[1] // 2 * 2 :]
        left, right = values[:, : values.shape[1] // 2 * 2].chunk(2, 1)
        values = torch.cat([left + right, odd], 1)
    return values


def textbook_branches(block, x):
    """Sum of a unit's branches on square images (N, C, H, H).

    Args:
        block: in training mode, norms with affine parameters; its running statistics stay as they
            are.
    """
    total = 0
    for branch in block.branches():
        if branch is block.branch_norm:
            z, norm = x, branch
        else:
            z, norm = _convolve(branch.conv, x), branch.norm
        total = total + _normalize(norm, z)
    return total


def _convolve(conv, x):
    kernel, (n, groups) = conv.weight.shape[-1], (len(x), conv.groups)
    side = (x.shape[-1] + 2 * conv.padding[0] - kernel) // conv.stride[0] + 1
    patches = F.unfold(x, kernel, padding=conv.padding, stride=conv.stride)
    patches = patches.view(n, groups, -1, side * side).permute(1, 0, 3, 2)
    weight = conv.weight.view(groups, len(conv.weight) // groups, -1)
    out = _Product.apply(patches.flatten(1, 2), weight.transpose(1, 2))
    out = out.view(groups, n, side * side, -1).permute(1, 0, 3, 2)
    return out.reshape(n, -1, side, side)


def _normalize(norm, z):
    values = z.transpose(0, 1).flatten(1)
    count = values.shape[1]
    centered = values - _Spread.apply(_Sum.apply(values) / count, values)
    variance = _Sum.apply(centered * centered) / count
    scale = norm.weight.unsqueeze(1) / (variance + norm.eps).sqrt()
    out = centered * _Spread.apply(scale, values) + _Spread.apply(norm.bias.unsqueeze(1), values)
    return out.view(z.shape[1], z.shape[0], *z.shape[2:]).transpose(0, 1)
