"""No file takes more memory or time than its budget, whatever it asks for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from bombs_kit import BOMBS, HEAVY, write_bomb
from crafted_kit import Crafted
from runtime_kit import photo

from mmpretrain_mobileone_ext.coreml import load_program, read_program
from mmpretrain_mobileone_ext.coreml.program.budget import (
    MEMORY,
    WORK,
    Ledger,
    Meter,
    memory_of,
    work_of,
)
from mmpretrain_mobileone_ext.errors import ProgramError

SECONDS = 10  # of the issue
on_linux = pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
CHILD = Path(__file__).parents[2] / 'kits/bounded_child.py'
# One thread: what the processor works is then what one waits for.
ALONE = {**os.environ, 'OMP_NUM_THREADS': '1'}


def outcomes(paths, limit=3 * 2**30):
    """What came of each file, in one process of bounded memory."""
    lines = ''.join(json.dumps({'path': str(p)}) + '\n' for p in paths)
    done = subprocess.run(
        [sys.executable, str(CHILD), str(limit)],
        input=lines,
        capture_output=True,
        text=True,
        env=ALONE,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(found) == len(paths), done.stderr[-2000:]
    return found


@pytest.fixture(scope='module')
def bombs(tmp_path_factory):
    return exploded(BOMBS, tmp_path_factory)


@pytest.fixture(scope='module')
def heavy_bombs(tmp_path_factory):
    return exploded(HEAVY, tmp_path_factory)


def exploded(names, tmp_path_factory):
    """Name to outcome, seconds and bytes."""
    paths = [write_bomb(n, tmp_path_factory.mktemp(n)) for n in names]
    return dict(zip(names, outcomes(paths)))


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize('name', BOMBS)
def test_bomb(bombs, name):
    outcome, seconds, memory = bombs[name]
    assert outcome.startswith('refused: ')
    assert '\n' not in outcome
    assert seconds < SECONDS
    assert memory < 2**28  # what Python itself takes


@on_linux
@pytest.mark.slow
@pytest.mark.parametrize('name', HEAVY)
def test_heavy_bomb(heavy_bombs, name):
    """Refused, or computed: within what is allowed."""
    outcome, seconds, memory = heavy_bombs[name]
    refused = isinstance(outcome, str)
    assert not refused or outcome.startswith('refused: ')
    assert seconds < SECONDS
    assert memory < MEMORY + 2**28


def relu(folder, count=1, size=1000):
    crafted = Crafted(x=(1, 1, size, size))
    name = 'x'
    for i in range(count):
        name = crafted.op('relu', f'r{i}', (1, 1, size, size), x=name)
    return crafted.save(folder)


def test_budgets_are_arguments(tmp_path):
    path = relu(tmp_path)
    assert load_program(path, memory_budget=9e6, work_budget=1e8)
    with pytest.raises(ProgramError, match=r'GiB \(memory_budget\)'):
        load_program(path, memory_budget=7e6)
    with pytest.raises(ProgramError, match=r'\(work_budget\)'):
        load_program(path, work_budget=1e6)


def test_inputs_that_no_tensor_can_have(tmp_path):
    with pytest.raises(ProgramError, match=r"the input 'x' takes .*\(memory_budget\)"):
        load_program(relu(tmp_path, size=2**31))


def test_large_files_may_take_more(tmp_path):
    small, large = tmp_path / 'small.mlmodel', tmp_path / 'large.mlmodel'
    for path, size in ((small, 10**6), (large, 10**9)):
        path.touch()
        os.truncate(path, size)  # holds no data on disk
    assert (memory_of(small), work_of(small)) == (MEMORY, WORK)
    assert (memory_of(large), work_of(large)) == (10**10, 10**12)


def test_dead_values_do_not_count(tmp_path):
    """A long chain holds two values at a time."""
    assert load_program(relu(tmp_path, count=40), memory_budget=1.7e7)


def test_constants_count(tiny_package):
    with pytest.raises(ProgramError, match=r'weight.*memory_budget'):
        read_program(tiny_package, memory_budget=100)


def test_batches_shrink_to_the_budget(tiny_package):
    loaded = load_program(tiny_package)
    pixels = torch.stack([torch.tensor(photo(seed=i)).permute(2, 0, 1) for i in range(7)])
    wanted = loaded.predict_batch({'image': pixels})['classLabel_probs']
    (peak,) = loaded._peaks.values()
    held = loaded._ledger.held
    tight = load_program(tiny_package, memory_budget=held + 2.5 * peak)
    assert tight._most_at_once({'image': type('S', (), {'alone': (1, 3, 24, 16)})}) == 2
    found = tight.predict_batch({'image': pixels})['classLabel_probs']
    torch.testing.assert_close(found, wanted)


def test_larger_inputs_may_take_more_work(tmp_path):
    crafted = Crafted(x=(1, 1, None, 100))
    crafted.op('relu', 'y', (1, 1, None, 100), x='x')
    array = crafted.spec.description.input[0].type.multiArrayType
    for low, high in ((1, 1), (1, 1), (1, -1), (100, 100)):
        sizes = array.shapeRange.sizeRanges.add()
        sizes.lowerBound, sizes.upperBound = low, high
    path = crafted.save(tmp_path)
    loaded = load_program(path, memory_budget=1e6, work_budget=2.1e6)
    x = np.ones((1, 1, 50, 100), np.float32)
    assert loaded.predict({'x': x})['y'].shape == x.shape
    with pytest.raises(ProgramError, match='memory_budget'):
        loaded.predict({'x': np.ones((1, 1, 5000, 100), np.float32)})


def test_shapes_that_follow_from_numbers(tmp_path):
    """They are known no earlier than they are computed, and counted then."""
    crafted = Crafted(x=(2,))
    crafted.op('cast', 'n', (2,), 'INT32', x='x', dtype=np.array('int32'))
    crafted.const('c', np.ones((1, 100), np.float32))
    crafted.op('reshape', 'r', (None, None), x='c', shape='n')
    crafted.op(
        'matmul',
        'y',
        (None, None),
        x='r',
        y='r',
        transpose_x=np.bool_(True),
        transpose_y=np.bool_(False),
    )
    path = crafted.save(tmp_path)
    loaded = load_program(path, memory_budget=2e4)
    assert loaded.predict({'x': np.float32([20, 5])})['y'].shape == (5, 5)
    with pytest.raises(ProgramError, match=r"'matmul'.*memory_budget"):
        loaded.predict({'x': np.float32([1, 100])})


OPERATIONS = {
    'convolution': lambda a: torch.nn.functional.conv2d(a, a),
    'product': lambda a: a @ a,
    'window': lambda a: torch.nn.functional.avg_pool2d(a, 3),
    'sizes': lambda a: a.repeat(2, 1, 1, 1),
    'numbers': lambda a: a + 1,
    'copies': lambda a: a.transpose(2, 3).contiguous(),
    'order': lambda a: a.sort(-1)[0],
}


@pytest.mark.parametrize('name', OPERATIONS)
def test_counted_as_computed(name):
    """The sizes counted without data are those of the results."""
    value = torch.rand(4, 4, 8, 8)
    wanted = OPERATIONS[name](value)
    meter = Meter(Ledger(), 1e12)
    with meter:
        found = OPERATIONS[name](value.to('meta'))
    assert found.is_meta
    assert found.shape == wanted.shape
    assert meter.peak >= wanted.numel() * 4
    assert meter.done >= wanted.numel()
    with (
        pytest.raises(ProgramError, match='memory_budget'),
        Meter(Ledger(wanted.numel() * 4 - 1), 1e12),
    ):
        OPERATIONS[name](value.to('meta'))
    with pytest.raises(ProgramError, match='work_budget'), Meter(Ledger(), meter.done / 2):
        OPERATIONS[name](value.to('meta'))
