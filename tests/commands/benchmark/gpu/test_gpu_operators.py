"""Operators are found by what a step calls, and broken ones are named."""

import pytest
import torch
from torch import Tensor

from mmpretrain_mobileone_ext.commands.benchmark.gpu.operators import (
    Calls,
    OperatorFinding,
    broken_rule,
    compiled_units,
    operator_calls,
    operator_checks,
)
from mmpretrain_mobileone_ext.commands.benchmark.gpu.units import ODD, UNITS, UnitCase

pytestmark = pytest.mark.skipif(
    not hasattr(torch.library, 'opcheck'), reason='torch < 2.4 has no opcheck'
)


@pytest.fixture(scope='module')
def toys():
    """Two operators: one that keeps the rules, one that changes its input and does not say so."""
    library = torch.library.Library('mobileone_toys', 'DEF')
    library.define('twice(Tensor x) -> Tensor')
    library.define('sly(Tensor x) -> Tensor')
    library.impl('twice', lambda x: 2 * x, 'CompositeExplicitAutograd')

    def sly(x: Tensor) -> Tensor:
        x.mul_(2)
        return x.clone()

    library.impl('sly', sly, 'CompositeExplicitAutograd')
    for name in ('twice', 'sly'):
        torch.library.register_fake(f'mobileone_toys::{name}', torch.empty_like, lib=library)
    yield torch.ops.mobileone_toys
    library._destroy()


def test_calls_are_taken_down_with_copies(toys):
    x = torch.ones(3)
    with Calls('mobileone_toys') as mode:
        y = toys.twice(x)
        toys.twice(y)
    ((operator, (args, kwargs)),) = mode.calls.items()
    x.zero_()
    assert operator is toys.twice.default
    assert torch.equal(args[0], torch.ones(3))
    assert kwargs == {}


def test_a_broken_rule_is_found(toys):
    assert broken_rule(toys.twice.default, (torch.ones(3),), {}) is None
    assert 'mutated' in broken_rule(toys.sly.default, (torch.ones(3),), {})


@pytest.mark.parametrize('unit', ['depthwise, 4 convs', 'pointwise, 1 conv, skip'])
def test_a_step_calls_operators(unit):
    calls = operator_calls(UnitCase(unit, 'normal', 'fp32', ODD, 'cpu'), 'moments')
    assert len(calls) >= 2  # forward and backward
    tensors = [
        t
        for args, _ in calls.values()
        for arg in args
        for t in (arg if isinstance(arg, list) else [arg])
        if isinstance(t, Tensor)
    ]
    # The forward operator's rule for gradients is tried too.
    assert any(t.requires_grad for t in tensors)


def test_operators_keep_the_rules():
    checks = operator_checks('cpu')
    assert len(checks) == 3 * len(UNITS)
    found = [f for check in checks[:: len(UNITS) - 1] for f in check()]
    assert len(found) >= 2 * 4
    assert [f.line for f in found if not f.passed] == []


def test_compiled_units_are_right():
    checks = compiled_units('cpu', backend='aot_eager')
    assert len(checks) == len(UNITS)
    found = [f for check in checks[:2] for f in check()]
    torch._dynamo.reset()
    assert {f.method for f in found} == {'moments, compiled'}
    assert [f.line for f in found if not f.passed] == []


def test_a_line_says_what_is_broken():
    known = 'ns.op.default', 'stem', 'memory', 'bf16'
    assert OperatorFinding(*known).line == 'ns.op.default, stem, memory, bf16: keeps the rules'
    broken = OperatorFinding(*known, 'it lies')
    assert broken.line.endswith('bf16: it lies')
    assert not broken.document()['passed']
