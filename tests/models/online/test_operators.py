"""The operators keep torch's rules, and what torch offers works with them."""

import copy
import itertools
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torch.distributed.fsdp
from half_precision import roundings
from helpers import TINY_BACKBONE, assert_close, generator, randomize_norms
from torch.utils.checkpoint import checkpoint

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.online.operators import HAS_SHAPES
from mmpretrain_mobileone_ext.models.quantization import WeightGrid
from mmpretrain_mobileone_ext.models.spec import UnitSpec

SMALL = {k: v for k, v in TINY_BACKBONE.items() if k != 'type'}
RELU = dict(type='ReLU')
UNITS = dict(
    depthwise=UnitSpec('unit', 8, 8, 3, groups=8, num_conv_branches=3, act_cfg=RELU),
    strided=UnitSpec('unit', 8, 8, 3, stride=2, groups=8, num_conv_branches=2),
    pointwise=UnitSpec('unit', 8, 8, 1, num_conv_branches=4, act_cfg=RELU),
    wide=UnitSpec('unit', 80, 72, 1, num_conv_branches=2),
    one_conv=UnitSpec('unit', 8, 8, 1, num_conv_branches=1, act_cfg=RELU),
    stem=UnitSpec('unit', 3, 8, 3, stride=2, num_conv_branches=1, act_cfg=RELU),
)
METHODS = ('moments', 'recompute', 'fused')
FORWARD = torch.ops.mobileone_ext.unit_forward.default
BACKWARD = torch.ops.mobileone_ext.unit_backward.default

needs_opcheck = pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'), reason='torch < 2.4 has no opcheck'
)


def block_of(name, dtype=torch.float64, **options):
    torch.manual_seed(0)
    return randomize_norms(MobileOneBlock(UNITS[name], **options)).to(dtype)


def images(name, dtype=torch.float64, size=8):
    shape = (3, UNITS[name].in_channels, size, size + 1)
    return torch.randn(shape, generator=generator(), dtype=torch.float64).to(dtype)


def arguments(name, method, dtype, rounding=(None, ())):
    """What the forward operator is called with."""
    # Autocast gives images in half precision to parameters in float32.
    half = dtype in (torch.float16, torch.bfloat16)
    block = block_of(name, torch.float32 if half else dtype)
    unit = block.unit(block.spec.act_cfg is not None)
    x = images(name, dtype).contiguous(memory_format=torch.channels_last).requires_grad_()
    params = [p for p in unit.parameters.flat() if p is not None]
    scale = torch.tensor(0.02) if rounding[1] else None
    return x, scale, params, method, *unit.config(*rounding).flat()


ROUNDINGS = [(WeightGrid(4, 4), ()), (WeightGrid(8), (-128, 127))]


@needs_opcheck
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', UNITS)
def test_forward_is_an_operator(name, method, dtype):
    torch.library.opcheck(FORWARD, arguments(name, method, dtype))


@needs_opcheck
@pytest.mark.parametrize('rounding', ROUNDINGS)
@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
@pytest.mark.parametrize('name', UNITS)
def test_forward_is_an_operator_where_it_rounds(name, dtype, rounding):
    torch.library.opcheck(FORWARD, arguments(name, 'moments', dtype, rounding))


@needs_opcheck
@pytest.mark.parametrize('wants_dx', [True, False])
@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('name', UNITS)
def test_backward_is_an_operator(name, method, wants_dx):
    check_backward(name, method, wants_dx)


@needs_opcheck
@pytest.mark.parametrize('rounding', ROUNDINGS)
@pytest.mark.parametrize('name', UNITS)
def test_backward_is_an_operator_where_it_rounds(name, rounding):
    check_backward(name, 'moments', True, rounding)


def check_backward(name, method, wants_dx, rounding=(None, ())):
    x, scale, params, _, *config = arguments(name, method, torch.float64, rounding)
    with torch.no_grad():
        out, _, saved = FORWARD(x, scale, params, method, *config)
    active = out if UNITS[name].act_cfg else None
    grad = torch.randn(out.shape, generator=generator(1), dtype=out.dtype)
    # A gradient has no gradient: nothing may ask for one here.
    params = [p.detach() for p in params]
    call = (grad, x.detach(), scale, active, params, saved, wants_dx, method, *config)
    torch.library.opcheck(BACKWARD, call)


def test_a_second_derivative_is_refused_in_one_line():
    block = block_of('depthwise', online_reparam=True)
    loss = block(images('depthwise').requires_grad_()).square().sum()
    weight = block.branch_conv_list[0].conv.weight
    (grad,) = torch.autograd.grad(loss, weight, create_graph=True)
    with pytest.raises(RuntimeError, match=r'no second derivative.*online_reparam=False'):
        grad.sum().backward()


@pytest.mark.parametrize('name', UNITS)
def test_no_gradient_to_images_that_want_none(name):
    block = block_of(name, online_reparam=True)
    wanted = copy.deepcopy(block)
    wanted.online_reparam = False
    x = images(name)
    for module in (block, wanted):
        module(x).sin().sum().backward()
    assert x.grad is None
    assert_close(*([p.grad for p in b.parameters()] for b in (wanted, block)), 1e-9)


def test_frozen_parameters_get_no_gradient():
    block = block_of('pointwise', online_reparam=True)
    frozen = [n.weight for n in block.unit().norms]
    for weight in frozen:
        weight.requires_grad_(False)
    block(images('pointwise')).sin().sum().backward()
    assert all(w.grad is None for w in frozen)
    assert all(p.grad is not None for p in block.parameters() if p.requires_grad)


@pytest.mark.parametrize('method', METHODS)
def test_an_output_that_nobody_uses(method):
    block = block_of('depthwise')
    unit, x = block.unit(), images('depthwise').requires_grad_()
    (sum_by(method, unit, x) * 0 + x.sum()).sum().backward()
    assert torch.isfinite(x.grad).all()


def test_activation_checkpointing_around_a_network():
    net = randomize_norms(ConfigurableMobileOne(**SMALL, online_reparam=True)).double().train()
    wanted, x = copy.deepcopy(net), torch.rand(2, 3, 32, 32, dtype=torch.float64)
    found = []
    for module, run in ((wanted, wanted), (net, lambda x: checkpoint(net, x, use_reentrant=False))):
        own = x.clone().requires_grad_()
        run(own)[-1].sin().sum().backward()
        found.append([own.grad, *(p.grad for p in module.parameters())])
    assert_close(*found, 1e-10)


@pytest.mark.skipif(
    not hasattr(torch.compiler, 'is_exporting'), reason='torch < 2.7 does not say that it exports'
)
@pytest.mark.parametrize('train', [True, False])
def test_an_exported_network_needs_nothing_of_this_package(train):
    net = randomize_norms(ConfigurableMobileOne(**SMALL)).double().train(train)
    x = torch.rand(2, 3, 32, 32, dtype=torch.float64)
    program = torch.export.export(copy.deepcopy(net), (x,))
    assert 'mobileone_ext' not in str(program.graph)
    assert_close(program.module()(x)[-1], net(x)[-1], 1e-10)


def outcome(run, parameters, x, cotangent):
    """Output, gradient to ``x`` and gradients to all parameters, in float64."""
    x = x.clone().requires_grad_()
    out = run(x)
    grads = torch.autograd.grad((out.sin() * cotangent.to(out.dtype)).sum(), [x, *parameters])
    flat = torch.cat([g.double().flatten() for g in grads[1:]])
    return [out.detach().double(), grads[0].double(), flat]


@pytest.mark.parametrize(
    ('dtype', 'name', 'method'),
    list(itertools.product((torch.bfloat16, torch.float16), UNITS, ('moments', 'recompute'))),
)
def test_autocast_loses_no_more_than_branches_under_it(dtype, name, method):
    if dtype == torch.float16 and not HAS_SHAPES:
        pytest.skip('torch < 2.4: autocast on a CPU takes bfloat16 only')
    exact, own = (block_of(name, t) for t in (torch.float64, torch.float32))
    own.load_state_dict(exact.state_dict())
    relu = exact.spec.act_cfg is not None
    act = torch.nn.functional.relu if relu else lambda v: v
    x = images(name, torch.float32, size=16)
    with torch.no_grad():
        sums = exact._branch_sum(x.double())
    cotangent = torch.randn(sums.shape, generator=generator(2), dtype=torch.float64)
    # Rounding decides on which side of a ReLU's kink a sum near 0 is: no gradient comes from there.
    cotangent[sums.abs() < 32 * torch.finfo(dtype).eps] = 0

    def by_method(x):
        with torch.autocast('cpu', dtype=dtype):
            return sum_by(method, own.unit(relu), x)

    def by_branches(x):
        return act(exact._branch_sum(x))

    wanted = outcome(by_branches, list(exact.parameters()), x.double(), cotangent)
    found = outcome(by_method, list(own.parameters()), x, cotangent)
    draws = [
        outcome(lambda v, run=run: act(run(v)), list(block.parameters()), x.double(), cotangent)
        for block, run in roundings(exact, dtype, 16)
    ]
    lost = [[(f - w).norm() for f, w in zip(draw, wanted)] for draw in draws]
    typical = torch.tensor(lost).square().mean(0).sqrt()
    # Four standard deviations: even where one gradient is all of the norm, one in 16 000 is over.
    for f, w, loss in zip(found, wanted, typical):
        assert (f - w).norm() <= 4 * loss
        # A fault of 1.6 % in float16 and of 12.5 % in bfloat16 would be seen.
        assert (f * (1 + 16 * torch.finfo(dtype).eps) - w).norm() > 4 * loss


@pytest.mark.slow
@pytest.mark.parametrize('mode', ['eager', 'compiled'])
@pytest.mark.parametrize('wrapper', ['ddp', 'fsdp'])
def test_ranks_of_a_wrapped_network(wrapper, mode):
    if wrapper == 'fsdp' and not hasattr(torch.distributed.fsdp, 'fully_shard'):
        pytest.skip('torch < 2.6 has no FSDP2 there')
    script = Path(__file__).parents[2] / 'kits/wrapped_ranks.py'
    launcher = ['-m', 'torch.distributed.run', '--standalone', '--nproc_per_node', '2']
    done = subprocess.run(
        [sys.executable, *launcher, str(script), wrapper, mode],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count('compared') == 2
