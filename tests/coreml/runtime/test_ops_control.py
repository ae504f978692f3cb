"""Branches and loops: nested blocks read from disk and run."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from crafted_kit import Crafted
from runtime_kit import check, noise, save_mil, save_torch
from torch import nn

from mmpretrain_mobileone_ext.coreml import load_program, read_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.targets import needs
from mmpretrain_mobileone_ext.errors import ProgramError


def truth(mb, n):
    return mb.greater(x=mb.squeeze(x=n), y=0)


def branches(mb, x, n):
    """A branch that reads values around it; a constant, a value as it is."""
    twice = mb.mul(x=x, y=2.0)
    third = mb.mul(x=x, y=0.3)

    def inner():
        return mb.cond(
            pred=mb.greater(x=mb.squeeze(x=n), y=1),
            _true_fn=lambda: mb.exp(x=third),
            _false_fn=lambda: mb.sub(x=third, y=twice),
        )

    return mb.cond(
        pred=truth(mb, n),
        _true_fn=lambda: [mb.add(x=inner(), y=x), twice],
        _false_fn=lambda: [twice, x],
    )


def wanted_branches(x, n):
    if n <= 0:
        return [2 * x, x]
    return [(np.exp(0.3 * x) if n > 1 else -1.7 * x) + x, 2 * x]


@pytest.fixture(scope='module')
def branching(tmp_path_factory):
    inputs = {'x': noise(3, 4), 'n': np.int32([1])}
    return save_mil(branches, inputs, tmp_path_factory.mktemp('branches'))


@pytest.mark.parametrize('n', [0, 1, 2])
def test_cond(branching, n):
    x = noise(3, 4)
    got = load_program(branching).predict({'x': x, 'n': np.int32([n])})
    for found, wanted in zip(got.values(), wanted_branches(x, n)):
        check(found, wanted)


def test_each_sample_of_a_batch_takes_its_branch(branching):
    x = noise(3, 3, 4)
    batch = load_program(branching).predict_batch(
        {'x': torch.tensor(x), 'n': torch.tensor([[2], [0], [1]])}
    )
    for found, wanted in zip(
        batch.values(), zip(*(wanted_branches(x[i], n) for i, n in enumerate([2, 0, 1])))
    ):
        check(found.numpy(), np.stack(wanted))


def test_nested_operations_are_known(branching):
    """Counted, and their version needed."""
    program = load_program(branching).program
    counted = program.count_operations()
    assert counted['cond'] == 2
    assert counted['exp'] == counted['sub'] == 1
    assert any('exp (in' in need.reason for need in needs(program))


def halving(mb, x, n):
    """Half of x until it is small; and how often."""

    def condition(count, value, power):
        return mb.greater(x=mb.reduce_max(x=mb.abs(x=value), axes=None, keep_dims=False), y=1.0)

    def body(count, value, power):
        return (
            mb.add(x=count, y=1),
            mb.mul(x=value, y=0.5),
            mb.mul(x=power, y=mb.gather(x=x, indices=1, axis=0)),
        )

    return mb.while_loop(
        _cond=condition, _body=body, loop_vars=(mb.squeeze(x=n), x, mb.add(x=x, y=0.0))
    )


@pytest.mark.parametrize('arithmetic', ['fp32', 'fp16'])
def test_while_loop(arithmetic, tmp_path):
    x = np.float32([8.5, 0.5, -3])
    inputs = {'x': x, 'n': np.int32([10])}
    loaded = load_program(
        save_mil(halving, inputs, tmp_path, half=True)
        if arithmetic == 'fp16'
        else save_mil(halving, inputs, tmp_path),
        arithmetic,
    )
    for given in (x, x / 16, x * 3):
        got = list(loaded.predict({**inputs, 'x': given}).values())
        count = 0
        while abs(given[0]) / 2**count > 1:
            count += 1
        assert got[0].reshape(-1).tolist() == [10 + count]
        check(got[1], given / 2**count, 1e-3)
        check(got[2], given * given[1] ** count, 5e-3)


def test_a_loop_that_never_runs_returns_what_it_was_given(tmp_path):
    inputs = {'x': np.float32([0.5]), 'n': np.int32([3])}
    got = load_program(save_mil(halving, inputs, tmp_path)).predict(inputs)
    assert [v.reshape(-1).tolist() for v in got.values()] == [[3], [0.5], [0.5]]


class Recurrent(nn.Module):
    """coreml's gru is not torch's: coremltools writes a loop for it."""

    def __init__(self):
        super().__init__()
        self.gru = nn.GRU(4, 3, num_layers=2, bidirectional=True)

    def forward(self, x):
        return self.gru(x)[0]


@pytest.mark.slow
@pytest.mark.filterwarnings('ignore::torch.jit.TracerWarning')
def test_torch_gru_becomes_loops(tmp_path):
    torch.manual_seed(0)
    network, x = Recurrent().eval(), torch.randn(2, 5, 1, 4)
    ct = quiet.coremltools()
    path = save_torch(
        network,
        tmp_path,
        x[0],
        inputs=[ct.TensorType(name='x', shape=(5, 1, 4))],
        outputs=[ct.TensorType(name='y')],
    )
    loaded = load_program(path)
    assert loaded.program.count_operations()['while_loop'] == 4
    with torch.no_grad():
        wanted = torch.stack([network(one) for one in x])
    check(loaded.predict({'x': x[0].numpy()})['y'], wanted[0])
    check(
        loaded.predict_batch({'x': x})['y'].numpy(),
        wanted.squeeze(2).reshape_as(loaded.predict_batch({'x': x})['y']),
    )


def loop(condition, body, shape=(1,)):
    """``while_loop`` on 'x'; both blocks are written by functions."""
    c = Crafted(x=shape)
    c.op('while_loop', 'y', shape, loop_vars=['x'])
    operation, outer = c.block.operations[-1], c.block
    for fill in (condition, body):
        block = operation.blocks.add()
        item = block.inputs.add()
        item.name = 'v'
        item.type.CopyFrom(operation.outputs[0].type)
        c.block = block
        block.outputs.append(fill(c))
    c.block = outer
    return c


def always(c):
    return c.const('t', np.bool_(True))


def positive(c):
    c.op('reduce_max', 'm', (), x='v', axes=np.int32([0]), keep_dims=np.bool_(False))
    return c.op('greater_equal', 'g', (), 'BOOL', x='m', y=np.float32(0))


BODIES = {
    'empty': lambda c: 'v',
    'constant': lambda c: c.const('k', np.float32([1])),
    'same': lambda c: c.op('identity', 'i', (1,), x='v'),
    'small': lambda c: c.op('square', 'i', (1,), x='v'),
}


@pytest.mark.parametrize('condition', [always, positive])
@pytest.mark.parametrize('body', BODIES)
def test_endless_loops_are_refused(condition, body, tmp_path):
    """By what they would take, known or not before there are numbers."""
    path = loop(condition, BODIES[body]).save(tmp_path)
    with pytest.raises(ProgramError, match='work_budget'):
        load_program(path, work_budget=1e9).predict({'x': np.float32([1])})


def test_a_loop_that_grows_is_refused(tmp_path):
    def double(c):
        return c.op(
            'concat', 'i', (None,), values=['v', 'v'], axis=np.int32(0), interleave=np.bool_(False)
        )

    c = loop(positive, double, (None,))
    loaded = load_program(c.save(tmp_path), memory_budget=1e8)
    with pytest.raises(ProgramError, match=r"'concat'.*memory_budget"):
        loaded.predict({'x': np.float32([1])})


def test_a_loop_holds_one_iteration(tmp_path):
    """Many of them take no more memory than one."""

    def further(c):
        return c.op('sub', 'i', (1000,), x='v', y=np.float32(20))

    path = loop(positive, further, (1000,)).save(tmp_path)
    loaded = load_program(path, memory_budget=4e4)
    x = np.arange(1000, dtype=np.float32)
    assert loaded.predict({'x': x})['y'].max() == -1
    with pytest.raises(ProgramError, match='memory_budget'):
        load_program(path, memory_budget=8e3).predict({'x': x})


def test_blocks_that_do_not_fit(tmp_path):
    def twice(c):
        c.op('relu', 'x', (1,), x='v')
        return 'x'

    def outside(c):
        return c.op('relu', 'i', (1,), x='elsewhere')

    def missing(c):
        return 'elsewhere'

    for number, (body, says) in enumerate(
        {
            twice: "two values are named 'x'",
            outside: "'elsewhere', which nothing defines",
            missing: "'elsewhere' is never computed",
        }.items()
    ):
        folder = tmp_path / str(number)
        folder.mkdir()
        with pytest.raises(ProgramError, match=says):
            load_program(loop(always, body).save(folder))


def test_a_number_of_blocks_that_no_operation_has(tmp_path):
    c = loop(always, BODIES['same'])
    c.block.operations[-1].blocks.add()
    with pytest.raises(ProgramError, match=r'\.mlpackage: .*3 nested blocks; allowed: 2'):
        read_program(c.save(tmp_path))
    c = Crafted()
    c.op('relu', 'y', (1, 4, 6, 5), x='x')
    c.block.operations[-1].blocks.add()
    (tmp_path / 'relu').mkdir()
    with pytest.raises(ProgramError, match="'relu' has 1 nested blocks"):
        read_program(c.save(tmp_path / 'relu'))


def test_values_of_a_block_are_known_inside_only(tmp_path):
    c = loop(positive, lambda c: c.op('sub', 'i', (1,), x='v', y=np.float32(1)))
    c.op('relu', 'z', (1,), x='i')
    with pytest.raises(ProgramError, match="'i', which nothing defines"):
        load_program(c.save(tmp_path))


def test_the_condition_is_one_value(tmp_path):
    def two(c):
        return c.op('greater', 'g', (2,), 'BOOL', x='v', y=np.float32(0))

    path = loop(two, lambda c: 'v', (2,)).save(tmp_path)
    with pytest.raises(ProgramError, match='must be one value'):
        load_program(path).predict({'x': np.float32([1, 1])})
