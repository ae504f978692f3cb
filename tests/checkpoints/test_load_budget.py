"""No small checkpoint takes much memory or time, whatever it asks for."""

import json
import subprocess
import sys
from pathlib import Path

import greedy_pickles
import numpy as np
import pytest
import torch

from mmpretrain_mobileone_ext.checkpoints.rebuild import brief, is_plain_key
from mmpretrain_mobileone_ext.checkpoints.safe_pickle import Budget
from mmpretrain_mobileone_ext.errors import CheckpointError

SECONDS = 10  # the bound for a hostile file
pytest.importorskip('resource')


@pytest.mark.slow
def test_greedy_files_are_refused_within_their_budget(tmp_path):
    says = {}
    for index, (name, text, data) in enumerate(greedy_pickles.files()):
        path = tmp_path / f'{index:03}'
        path.write_bytes(data)
        says[path.name] = name, text
    script = Path(__file__).parents[1] / 'kits/bounded_load.py'
    done = subprocess.run(
        [sys.executable, str(script), str(tmp_path)], capture_output=True, text=True, check=True
    )
    replies = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(replies) == len(says)
    wrong = [
        (*says[file], message[-700:], seconds)
        for file, message, seconds in replies
        if not is_refused(says[file][1], message) or seconds > SECONDS
    ]
    assert not wrong, '\n'.join(map(str, wrong))


def is_refused(says, message):
    return (
        message == '' if not says else (message.startswith('CheckpointError') and says in message)
    )


@pytest.mark.parametrize(
    'key',
    [
        'x' * 1000,
        b'x',
        2**63 - 1,
        -(2**63),
        1.5,
        True,
        None,
        ('a', 'b', 3),
        (1, 2),
        ('a', ('b', frozenset({'c'}))),
        torch.float32,
        torch.Size([64, 3]),
        torch.device('cpu'),
        np.int64(3),
        np.float64(3),
        np.str_('x'),
        (),
        ((), ()),
    ],
)
def test_keys_that_are_quick(key):
    assert is_plain_key(key)


def deep(levels):
    return (deep(levels - 1),) if levels else ()


@pytest.mark.parametrize(
    'key',
    [
        2**64,
        float('nan'),
        1j,
        np.float64('nan'),
        np.longdouble(1),
        (2**40, 2**40),
        (1.5, 1),
        ('a',) * 20,
        (('a',) * 8, ('a',) * 8),
        deep(20),
        frozenset({2**40, 2**41}),
        torch.Size([2**40, 2**40]),
        [],
        {1},
        np.ones(1),
    ],
    ids=repr,
)
def test_keys_that_are_not(key):
    assert not is_plain_key(key)


def test_keys_of_more_bits_than_a_hash_collide():
    """Why numbers in keys are bounded: each of these meets all others."""
    keys = greedy_pickles.colliding(100)
    assert len(set(keys)) == 100
    assert len({hash(key) for key in keys}) == 1
    assert not any(map(is_plain_key, keys))


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        ('a\nb', r"'a\nb'"),
        ('x' * 999, repr('x' * 80)),
        (3, '3'),
        (None, 'None'),
        (1 << 999, 'an object of int'),
        ([], '[]'),
        ((1, 'a'), "(1, 'a')"),
        ((1, 2, 3, 4), '(1, 2, 3, ...)'),
        (((1,),), '(an object of tuple)'),
        ({1: 2}, 'an object of dict'),
        (torch.ones(2), 'an object of Tensor'),
    ],
)
def test_values_are_cut_before_they_are_formatted(value, text):
    assert brief(value) == text


def test_budget_grows_with_the_file():
    for size, most in ((0, 64), (1 << 20, 128), (1 << 26, 1024), (1 << 30, 8192)):
        budget = Budget(size, size)
        budget.build(most << 20)
        with pytest.raises(CheckpointError, match=f'more than {most} MiB'):
            budget.build(1)


def test_a_tensor_counts_as_if_it_were_copied():
    budget = Budget(0, 1 << 20)
    one = torch.zeros(1)
    budget.view(one.expand(20 << 20))
    with pytest.raises(CheckpointError, match='hold more than 64 MiB'):
        budget.view(one.expand(1 << 20))
