"""Whole networks under torch.compile and in channels_last, against eager."""

import copy

import pytest
import torch
from helpers import TINY_BACKBONE, assert_close, generator, randomize_norms

from mmpretrain_mobileone_ext import ConfigurableMobileOne

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
    x = torch.randn(4, 3, size, size, generator=generator(size), dtype=torch.float64)
    out = run(x)[-1]
    out.square().mean().backward()
    return [out, *(p.grad for p in net.parameters() if p.grad is not None)]


@pytest.fixture
def _forgetting():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


@pytest.mark.usefixtures('_forgetting')
@pytest.mark.parametrize(
    ('arch', 'backend', 'train'),
    [
        ('small', 'eager', False),
        *(
            pytest.param(arch, backend, train, marks=pytest.mark.slow)
            for arch in ('small', 's0', 's1')
            for backend in ('eager', 'aot_eager', 'inductor')
            for train in (True, False)
            if (arch, backend, train) != ('small', 'eager', False)
        ),
    ],
)
def test_compiled_networks_train_alike(arch, backend, train):
    net = network(arch).train(train)
    wanted = copy.deepcopy(net)
    compiled = torch.compile(net, backend=backend)
    for size in (64, 32):  # the second shape has symbols for sizes
        # Under 'inductor' sums are taken in another order; scale invariance leaves gradients that
        # are zero but for rounding, so all are compared as one vector.
        assert_close(outcome(wanted, wanted, size), outcome(net, compiled, size), 1e-8)
    assert_close([b.double() for b in wanted.buffers()], [b.double() for b in net.buffers()], 1e-9)


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
