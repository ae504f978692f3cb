"""Whole units by Triton's kernels: the operator, its shapes, running statistics, gradients."""

import copy

import pytest
import torch
from helpers import generator, randomize_norms

from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online import gpu
from mmpretrain_mobileone_ext.models.online.by_moments import SumByMoments
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.online.unit import BranchParams
from mmpretrain_mobileone_ext.models.spec import UnitSpec

RELU = dict(type='ReLU')
DEVICE = 'cuda' if torch.cuda.is_available() else 'cpu'
UNITS = dict(
    depthwise=UnitSpec('unit', 6, 6, 3, groups=6, num_conv_branches=2, act_cfg=RELU),
    strided=UnitSpec('unit', 6, 6, 3, stride=2, groups=6, num_conv_branches=2),
    pointwise=UnitSpec('unit', 6, 6, 1, num_conv_branches=3, act_cfg=RELU),
    widening=UnitSpec('unit', 6, 9, 1, num_conv_branches=1),
)


@pytest.fixture(autouse=True)
def _by_triton(monkeypatch):
    monkeypatch.setattr(gpu, 'available', lambda x: True)


def case(name):
    torch.manual_seed(0)
    block = randomize_norms(MobileOneBlock(UNITS[name], online_reparam=False)).to(DEVICE)
    x = torch.randn(2, 6, 5, 7, generator=generator(), dtype=torch.float64) + 0.5
    return block, x.to(DEVICE)


@pytest.mark.parametrize('name', UNITS)
def test_a_unit_trains_as_its_branches(name):
    block, x = case(name)
    wanted = copy.deepcopy(block).double()
    relu = block.spec.act_cfg is not None
    own, other = x.float().requires_grad_(), x.clone().requires_grad_()
    out, exact = sum_by('moments', block.unit(relu), own), wanted(other)
    weight = torch.randn(exact.shape, generator=generator(1), dtype=torch.float64).to(DEVICE)
    weight[(exact.abs() < 1e-3) & (exact != 0)] = 0
    (out * weight.float()).sum().backward()
    (exact * weight).sum().backward()
    pairs = [(out, exact), (own.grad, other.grad)]
    pairs += [(b, w) for b, w in zip(block.buffers(), wanted.buffers())]
    grads = [torch.cat([p.grad.flatten() for p in b.parameters()]) for b in (block, wanted)]
    for found, true in [*pairs, grads]:
        # Seventy values of float32 a sum, a norm's scale beside it.
        assert (found.double() - true).norm() <= 70 * 1.2e-7 * 10 * true.double().norm()


@pytest.mark.parametrize('name', UNITS)
def test_shapes_are_told_without_data(name):
    block, x = case(name)
    unit = block.unit()
    method = SumByMoments(unit.config(), x.float())
    x = x.float().contiguous(memory_format=torch.channels_last)
    params = BranchParams.of([None if p is None else p.detach() for p in unit.parameters.flat()])
    out, stats, saved = method.forward(x, params)
    empty_out, empty_stats, empty = method.like(x, params)
    for found, told in zip([out, stats, *saved], [empty_out, empty_stats, *empty]):
        assert found.shape == told.shape
        assert found.dtype == told.dtype
        assert found.stride() == told.stride() or 1 in found.shape
    assert len(saved) == len(empty)
    places = [t.untyped_storage().data_ptr() for t in saved]
    assert len(set(places)) == len(places)
