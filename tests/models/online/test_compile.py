"""Whole networks under torch.compile and in channels_last, against eager."""

import copy

import pytest
import torch
from helpers import TINY_BACKBONE, assert_close, generator, randomize_norms

from mmpretrain_mobileone_ext import ConfigurableMobileOne
from mmpretrain_mobileone_ext.models.online.operators import HAS_SHAPES

SMALL = {k: v for k, v in TINY_BACKBONE.items() if k != 'type'}


def network(name, **options):
    net = (
        ConfigurableMobileOne(**SMALL, **options)
        if name == 'small'
        else ConfigurableMobileOne(name, **options)
    )
    return randomize_norms(net).double()


def outcome(net, run, size):
    """Output and all gradients."""
    net.zero_grad()
    like = next(net.parameters())
    x = torch.randn(4, 3, size, size, generator=generator(size), dtype=torch.float64).to(like)
    out = run(x)[-1]
    out.square().mean().backward()
    return [out, *(p.grad for p in net.parameters() if p.grad is not None)]


def running_statistics(net):
    return [b.double() for b in net.buffers()]


@pytest.fixture
def _forgetting():
    if not HAS_SHAPES:
        pytest.skip('torch < 2.4 breaks the graph at each unit')
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    yield
    torch._dynamo.reset()


SLOW_CASES = [
    pytest.param(arch, backend, train, marks=pytest.mark.slow)
    for arch in ('small', 's0', 's1', 's4')
    for backend in ('eager', 'aot_eager', 'inductor')
    for train in (True, False)
    if arch != 's4' or backend == 'inductor'
    if (arch, backend, train) != ('small', 'aot_eager', True)
]


@pytest.mark.usefixtures('_forgetting')
@pytest.mark.parametrize(('arch', 'backend', 'train'), [('small', 'aot_eager', True), *SLOW_CASES])
def test_compiled_networks_train_alike(arch, backend, train):
    net = network(arch).train(train)
    wanted = copy.deepcopy(net)
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    # The second shape has symbols for sizes. S4 takes a minute to compile.
    for size in (64, 32) if arch != 's4' else (64,):
        # Under 'inductor' sums are taken in another order; scale invariance leaves gradients that
        # are zero but for rounding, so all are compared as one vector.
        assert_close(outcome(wanted, wanted, size), outcome(net, compiled, size), 1e-8)
    assert_close(running_statistics(wanted), running_statistics(net), 1e-9)


@pytest.mark.usefixtures('_forgetting')
@pytest.mark.parametrize(
    ('arch', 'backend'),
    [
        ('small', 'aot_eager'),
        pytest.param('s0', 'inductor', marks=pytest.mark.slow),
        pytest.param('s1', 'inductor', marks=pytest.mark.slow),
    ],
)
def test_one_graph_serves_all_steps_of_a_shape(arch, backend):
    net = network(arch).float().train()
    compiled = torch.compile(net, backend=backend)
    optimizer = torch.optim.SGD(net.parameters(), 1e-3)
    for _ in range(5):
        outcome(net, compiled, 64)
        optimizer.step()
    assert not torch._dynamo.utils.counters['graph_break']
    assert torch._dynamo.utils.counters['stats']['unique_graphs'] == 1


@pytest.mark.usefixtures('_forgetting')
@pytest.mark.parametrize('backend', ['aot_eager', pytest.param('inductor', marks=pytest.mark.slow)])
def test_compiled_float32_rounds_as_eager_does(backend):
    # Where branches run, their norms are inductor's own, which add up less exactly.
    net = network('small', online_reparam=True).float().train()
    eager, exact = copy.deepcopy(net), copy.deepcopy(net).double()
    compiled = torch.compile(net, backend=backend, fullgraph=True)
    found = [outcome(*run, 64) for run in ((exact, exact), (net, compiled), (eager, eager))]
    wanted, own, other = (torch.cat([v.double().flatten() for v in f]) for f in found)
    # Two ways to round are as far from the truth, and at most their sum from each other.
    assert (own - wanted).norm() < 2 * (other - wanted).norm()


@pytest.mark.usefixtures('_forgetting')
@pytest.mark.parametrize(
    ('preference', 'options'),
    [
        (True, dict(with_cp=True)),
        ('memory', dict(with_cp=True)),
        pytest.param(False, dict(with_cp=True), marks=pytest.mark.slow),
        # torch.compile has no whole graph of torch's own cumulative norms.
        (True, dict(norm_cfg=dict(type='BN', momentum=None))),
        pytest.param(
            'memory', dict(norm_cfg=dict(type='BN', momentum=None)), marks=pytest.mark.slow
        ),
    ],
)
def test_options_under_compile(preference, options):
    net = network('small', online_reparam=preference, **options).train()
    wanted = copy.deepcopy(net)
    compiled = torch.compile(net, backend='aot_eager', fullgraph=True)
    for _ in range(2):
        assert_close(outcome(wanted, wanted, 64), outcome(net, compiled, 64), 1e-8)
    assert_close(running_statistics(wanted), running_statistics(net), 1e-12)


@pytest.mark.parametrize('preference', ['auto', 'memory', True, False])
@pytest.mark.parametrize('train', [True, False])
@pytest.mark.parametrize(
    'arch',
    [
        'small',
        pytest.param('s0', marks=pytest.mark.slow),
        pytest.param('s1', marks=pytest.mark.slow),
    ],
)
def test_parameters_in_channels_last(arch, train, preference):
    wanted = network(arch, online_reparam=False).train(train)
    net = network(arch, online_reparam=preference).train(train)
    net.load_state_dict(wanted.state_dict())
    net.to(memory_format=torch.channels_last)
    assert_close(outcome(wanted, wanted, 64), outcome(net, net, 64), 1e-8)
