"""Units folded and differentiated by Triton's kernels against their branches, in float64.

In float64 kernels and branches differ by rounding alone, amplified by no more than the smallest
standard deviation; a wrong term would be off by parts of its own size.
"""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from triton_kit import normal

from mmpretrain_mobileone_ext.models.online.convs import OutputGrad
from mmpretrain_mobileone_ext.models.online.gpu import (
    depthwise_fold,
    folding,
    patch_conv,
    pointwise_fold,
)
from mmpretrain_mobileone_ext.models.online.unit import BranchParams
from mmpretrain_mobileone_ext.models.spec import UnitSpec

#: Share of the power below which a variance is spoiled: none is, or each.
NEVER, ALWAYS = 0.0, 1e9
#: Kernel sizes of branches; None: no convolution.
BRANCHES = {'all': (3, 3, 1, None), 'conv': (3,), 'scale': (1,), 'skip': (None,), 'twice': (3, 1)}


@dataclass
class Trained:
    """What a step makes of a unit, in order: output, gradients, statistics."""

    out: torch.Tensor
    dx: torch.Tensor
    mean: torch.Tensor
    var: torch.Tensor
    params: list


def unit(kernels, channels, seed=0, affine=True):
    """Random parameters and eps of branches; of some norms none."""
    params = BranchParams(
        tuple(kernels),
        tuple(
            normal(channels, seed=seed + 10 + j) if affine or j else None
            for j in range(len(kernels))
        ),
        tuple(
            normal(channels, seed=seed + 20 + j) if affine or j else None
            for j in range(len(kernels))
        ),
    )
    return params, [10.0 ** -(3 + j) for j in range(len(kernels))]


def by_kernels(spec, x, dy, params, eps, relu=True):
    """A step by Triton's kernels, in the order of a unit's operators."""
    conv, fold = patch_conv(spec), folding(spec, eps)
    pivot = conv.pivot(x)
    sums = conv.sums(x, pivot)
    folded = fold.fold(params, sums, x.dtype, lambda *a: conv.direct_moments(x, pivot, *a))
    out = conv.conv(x, folded.weight, folded.bias, relu)
    grad = OutputGrad(dy, out if relu else None)
    by_folded = conv.weight_grad(x, grad, folded.weight, pivot)
    grads = fold.backward(
        *(params, folded.state, sums.count, *by_folded, folded.direct),
        lambda *a: conv.direct_grads(x, grad, pivot, *a),
    )
    dx = conv.input_grad(x, grad, folded.weight, grads.products, grads.sums, pivot)
    return Trained(out, dx, folded.mean, folded.var, list(grads.params.flat()))


def by_branches(spec, x, dy, params, eps, relu=True):
    """The same by branches and autograd."""
    leaves = [None if p is None else p.clone().requires_grad_() for p in params.flat()]
    x = x.clone().requires_grad_()
    outputs, stats = [], []
    for kernel, gamma, beta, small in zip(*BranchParams.of(leaves), eps):
        z = x
        if kernel is not None:
            geometry = dict(stride=spec.stride, padding=kernel.shape[-1] // 2, groups=spec.groups)
            z = F.conv2d(x, kernel, **geometry)
        outputs.append(F.batch_norm(z, None, None, gamma, beta, True, 0, small))
        stats.append((z.mean((0, 2, 3)), z.var((0, 2, 3), unbiased=False)))
    out = sum(outputs)
    out = out.relu() if relu else out
    out.backward(dy)
    mean, var = (torch.stack(found).detach() for found in zip(*stats))
    grads = [None if leaf is None else leaf.grad for leaf in leaves]
    return Trained(out.detach(), x.grad, mean, var, grads)


def assert_same(found, wanted, rtol=1e-9):
    def same(own, other):
        assert own.shape == other.shape
        torch.testing.assert_close(own, other, rtol=rtol, atol=rtol * float(other.abs().max()))

    for name in ('out', 'dx', 'mean', 'var'):
        same(getattr(found, name), getattr(wanted, name))
    for own, other in zip(found.params, wanted.params):
        assert (own is None) == (other is None)
        if own is not None:
            same(own, other)


def depthwise(kind, stride, shape=(3, 13, 6, 5), **options):
    channels = shape[1]
    sizes = [size for size in BRANCHES[kind] if size or stride == 1]
    kernels = [s and normal(channels, 1, s, s, seed=j) for j, s in enumerate(sizes)]
    spec = UnitSpec('dw', channels, channels, 3, stride=stride, groups=channels)
    x = normal(*shape, seed=30) * 0.5 + 2
    x[:, 0] *= 1e-2
    outputs = (shape[0], channels, *((s - 1) // stride + 1 for s in shape[2:]))
    return (spec, x, normal(*outputs, seed=31), *unit(kernels, channels, **options))


@pytest.mark.parametrize('threshold', [NEVER, ALWAYS])
@pytest.mark.parametrize(
    ('kind', 'stride'),
    [('all', 1), ('all', 2), ('conv', 2), ('scale', 1), ('skip', 1), ('twice', 2)],
)
def test_a_depthwise_unit(kind, stride, threshold, monkeypatch):
    monkeypatch.setattr(depthwise_fold, 'CANCELLATION', threshold)
    given = depthwise(kind, stride, affine=kind != 'all')
    assert_same(by_kernels(*given), by_branches(*given))


def test_a_depthwise_unit_without_relu_on_one_line():
    given = depthwise('all', 1, shape=(2, 3, 1, 4))
    assert_same(by_kernels(*given, relu=False), by_branches(*given, relu=False))


@pytest.mark.parametrize('which', ['kernels', 'gammas', 'betas'])
def test_another_depthwise_parameter_is_seen(which):
    spec, x, dy, params, eps = depthwise('all', 1)
    wanted = by_branches(spec, x, dy, params, eps, relu=False)
    moved = list(getattr(params, which))
    moved[1] = moved[1].clone()
    moved[1][5] *= 1 + 1e-5
    found = by_kernels(spec, x, dy, params._replace(**{which: tuple(moved)}), eps, relu=False)
    with pytest.raises(AssertionError, match='not close'):
        assert_same(found, wanted)


def test_float32_is_as_good_as_its_sums():
    """Patches of 600 times their spread: around a pivot no digit is lost in a gradient."""
    spec, x, dy, params, eps = depthwise('scale', 1)
    x = x * 1e-2 + 3
    single = BranchParams.of([None if p is None else p.float() for p in params.flat()])
    found = by_kernels(spec, x.float(), dy.float(), single, eps, relu=False)
    exact = BranchParams.of([None if p is None else p.double() for p in single.flat()])
    wanted = by_branches(spec, x.float().double(), dy.float().double(), exact, eps, relu=False)
    count = x.shape[0] * x.shape[2] * x.shape[3]
    found.params = [None if p is None else p.double() for p in found.params]
    for own, other in zip(found.params, wanted.params):
        bound = 8 * count * 2**-24 * float(other.abs().max())
        torch.testing.assert_close(own, other, rtol=0, atol=bound)


def test_marks_are_where_cancellation_is():
    """One channel of 500 times its spread, around a pivot of 0."""
    spec, x, _, params, _ = depthwise('twice', 1)
    x[:, 5] = (x[:, 5] - 2) * 1e-2 + 5
    x[:, 6] = 0
    conv, marks = patch_conv(spec), []

    def look(padded, direct):
        marks.append(direct)
        return conv.direct_moments(x, torch.zeros_like(x[0, :, 0, 0]), padded, direct)

    sums = conv.sums(x, torch.zeros_like(x[0, :, 0, 0]))
    folding(spec, [1e-9, 1e-9]).fold(params, sums, x.dtype, look)
    assert marks[0][1].nonzero().tolist() == [[5]]


def pointwise(branches, shape=(2, 7, 5, 4), out=7, **options):
    kernels = [
        normal(out, shape[1], 1, 1, seed=j) if conv else None for j, conv in enumerate(branches)
    ]
    given = ('conv', 'skip') if None in kernels else ('conv',)
    spec = UnitSpec('pw', shape[1], out, 1, branches=given)
    x = normal(*shape, seed=30) * 0.5 + 2
    x[:, 0] *= 1e-2
    dy = normal(shape[0], out, *shape[2:], seed=31)
    return (spec, x, dy, *unit(kernels, out, **options))


@pytest.mark.parametrize('threshold', [NEVER, ALWAYS])
@pytest.mark.parametrize(
    ('branches', 'shape', 'out'),
    [
        ((1, 1, 0), (2, 7, 5, 4), 7),
        ((1,), (2, 3, 3, 3), 18),
        ((0,), (2, 18, 3, 2), 18),
        ((1, 0), (3, 1, 2, 1), 1),
    ],
)
def test_a_pointwise_unit(branches, shape, out, threshold, monkeypatch):
    monkeypatch.setattr(pointwise_fold, 'CANCELLATION', threshold)
    given = pointwise(branches, shape, out, affine=len(branches) > 1)
    assert_same(by_kernels(*given), by_branches(*given))


def test_a_pointwise_unit_of_several_blocks():
    given = pointwise((1, 0), (2, 70, 4, 6), 70)
    assert_same(by_kernels(*given, relu=False), by_branches(*given, relu=False))


@pytest.mark.parametrize('which', ['kernels', 'gammas', 'betas'])
def test_another_pointwise_parameter_is_seen(which):
    spec, x, dy, params, eps = pointwise((1, 1, 0))
    wanted = by_branches(spec, x, dy, params, eps, relu=False)
    moved = list(getattr(params, which))
    moved[1] = moved[1].clone()
    moved[1][5] *= 1 + 1e-5
    found = by_kernels(spec, x, dy, params._replace(**{which: tuple(moved)}), eps, relu=False)
    with pytest.raises(AssertionError, match='not close'):
        assert_same(found, wanted)
