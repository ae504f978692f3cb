"""What is done to gradients in place hits each of them once."""

import copy

import pytest
import torch
from helpers import assert_close, generator, randomize_norms
from torch import nn

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.spec import UnitSpec

METHODS = ('moments', 'fused', 'recompute', 'running')
UNITS = dict(
    pointwise=UnitSpec('unit', 12, 12, 1, num_conv_branches=1),
    pointwise_4=UnitSpec('unit', 12, 12, 1, num_conv_branches=4),
    widening=UnitSpec('unit', 8, 12, 1, num_conv_branches=1),
    depthwise=UnitSpec('unit', 12, 12, 3, groups=12, num_conv_branches=1),
    depthwise_4=UnitSpec('unit', 12, 12, 3, groups=12, num_conv_branches=4),
    strided=UnitSpec('unit', 12, 12, 3, stride=2, groups=12, num_conv_branches=2),
    full=UnitSpec('unit', 3, 12, 3, stride=2, num_conv_branches=2),
)


def unit(name, dtype, affine=True):
    block = MobileOneBlock(
        UNITS[name], online_reparam=False, norm_cfg=dict(type='BN', affine=affine)
    )
    return randomize_norms(block).to(dtype)


def images(block, dtype, seed=0):
    return torch.randn(4, block.spec.in_channels, 10, 9, dtype=dtype, generator=generator(seed))


def accumulate(run, block, dtype):
    for seed in range(2):
        run(images(block, dtype, seed)).square().sum().backward()


def accumulate_then_clip(run, block, dtype):
    accumulate(run, block, dtype)
    nn.utils.clip_grad_norm_(block.parameters(), 0.5)


def backward_twice(run, block, dtype):
    loss = run(images(block, dtype)).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()


def unscale(run, block, dtype):
    run(images(block, dtype)).square().sum().mul(1024).backward()
    torch._foreach_mul_([p.grad for p in block.parameters()], 1 / 1024)


USES = (accumulate, accumulate_then_clip, backward_twice, unscale)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', UNITS)
def test_gradients_after_their_use_equal_the_branches(name, method, dtype):
    for use in USES:
        wanted = unit(name, dtype)
        block = copy.deepcopy(wanted)
        if method == 'running':
            wanted.eval()
            block.eval()
        use(wanted, wanted, dtype)
        use(lambda x, b=block: sum_by(method, b.unit(b._is_plain_relu()), x), block, dtype)
        # float32: sums of 360 values, some of which nearly cancel.
        bound = 1e-9 if dtype == torch.float64 else 360 * 1.2e-7
        assert_close(*([p.grad for p in b.parameters()] for b in (wanted, block)), bound)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32])
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', UNITS)
def test_each_gradient_has_a_storage_of_its_own(name, method, dtype):
    block = unit(name, dtype)
    sum_by(method, block.unit(), images(block, dtype)).square().sum().backward()
    grads = [p.grad for p in block.parameters()]
    places = {g.untyped_storage().data_ptr() for g in grads}
    assert len(places) == len(grads) >= 3
    assert all(g.untyped_storage().nbytes() == g.nbytes for g in grads)


@pytest.mark.parametrize('preference', ['auto', 'memory', True])
@pytest.mark.parametrize(
    'arch',
    [
        's0',
        pytest.param('s1', marks=pytest.mark.slow),
        pytest.param('s2', marks=pytest.mark.slow),
        pytest.param('s3', marks=pytest.mark.slow),
        pytest.param('s4', marks=pytest.mark.slow),
    ],
)
def test_networks_after_accumulation_and_clipping(arch, preference):
    wanted = randomize_norms(ConfigurableMobileOne(arch, online_reparam=False)).double().train()
    net = ConfigurableMobileOne(arch, online_reparam=preference).double()
    net.load_state_dict(wanted.state_dict())
    for model in (wanted, net.train()):
        for seed in range(2):
            x = torch.randn(4, 3, 64, 64, generator=generator(seed), dtype=torch.float64)
            model(x)[-1].square().mean().backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    assert_close(
        *([p.grad for p in m.parameters() if p.grad is not None] for m in (wanted, net)), 1e-8
    )


@pytest.mark.parametrize('preference', ['auto', 'memory', True, False])
@pytest.mark.parametrize('name', UNITS)
def test_one_value_a_channel_is_refused_and_changes_nothing(name, preference):
    block = unit(name, torch.float64)
    block.online_reparam = preference
    before = copy.deepcopy(block.state_dict())
    x = images(block, torch.float64)[:1, :, :1, :1]
    with pytest.raises(ValueError, match='more than 1 value per channel'):
        block(x)
    for key, value in block.state_dict().items():
        if not key.endswith('num_batches_tracked'):
            assert torch.equal(value, before[key]), key
