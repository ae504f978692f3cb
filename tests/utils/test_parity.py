"""Comparing two outputs: figures by hand, and what must not pass."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.errors import ParityError
from mmpretrain_mobileone_ext.utils.parity import (
    TOLERANCES,
    Parity,
    Tolerance,
    compare,
    fold_tolerance,
)

NUMBERS = st.floats(-100, 100).filter(lambda v: v == 0 or abs(v) > 1e-6)


@given(st.lists(st.tuples(NUMBERS, NUMBERS), min_size=1, max_size=20))
def test_figures_are_those_of_numpy(pairs):
    a, b = np.array(pairs).T
    found = compare(torch.tensor(a), torch.tensor(b))
    scale = np.linalg.norm(a)
    assert found.max_abs == np.abs(a - b).max()
    wanted = np.linalg.norm(a - b) / (scale if scale else 1)
    assert found.relative == pytest.approx(wanted)
    assert found.num_samples == len(pairs)


def test_psnr_is_that_of_the_textbook():
    found = compare(torch.tensor([[0.0, 255.0]]), torch.tensor([[0.0, 254.0]]))
    assert found.psnr_db == pytest.approx(10 * math.log10(255**2 / 0.5))


def test_equal_outputs_have_infinite_psnr():
    x = torch.randn(3, 4)
    found = compare(x, x.clone())
    assert (found.relative, found.max_abs, found.psnr_db) == (0, 0, math.inf)
    found.require(Tolerance('exact', 0.0), 'twins')


def test_agreement_counts_samples():
    a = torch.eye(4)
    b = a[[0, 1, 2, 0]]
    assert compare(a, b, classes=True).top1_agreement == 0.75
    assert compare(a, b).top1_agreement is None


def test_nested_outputs_are_flattened():
    a = dict(x=torch.ones(2, 3), y=[torch.ones(2), (torch.ones(2, 1),)])
    b = dict(x=torch.ones(2, 3), y=[torch.ones(2), (torch.zeros(2, 1),)])
    found = compare(a, b)
    assert found.num_samples == 2
    assert found.relative == pytest.approx(math.sqrt(2 / 10))


@pytest.mark.parametrize(
    ('a', 'b'),
    [
        (torch.ones(2, 3), torch.ones(3, 2)),
        (torch.ones(2), [torch.ones(2), torch.ones(2)]),
        ([], []),
        (None, torch.ones(2)),
        (dict(a=torch.ones(2)), dict(b=torch.ones(2))),
        ([torch.ones(2), None], [torch.ones(2), torch.ones(2)]),
    ],
)
def test_structures_must_match(a, b):
    with pytest.raises(ParityError):
        compare(a, b)


def test_dicts_are_compared_by_key():
    a = dict(x=torch.zeros(2), y=torch.ones(2))
    assert compare(a, dict(y=a['y'], x=a['x'])).relative == 0


@pytest.mark.parametrize('value', [math.nan, math.inf])
def test_what_is_not_finite_never_passes(value):
    good, bad = torch.ones(2, 2), torch.tensor([[1.0, value], [1.0, 1.0]])
    with pytest.raises(ParityError, match='not finite'):
        compare(bad, bad)
    found = compare(good, bad)
    with pytest.raises(ParityError):
        found.require(Tolerance('loose', 1e9), 'forms')


def test_a_failure_says_what_where_and_by_how_much():
    found = compare(torch.ones(2, 2), torch.ones(2, 2) * 1.5)
    with pytest.raises(ParityError) as error:
        found.require(Tolerance('strict', 0.25), 'this thing')
    message = str(error.value)
    for part in ('this thing', '0.5', '0.25', "'strict'", '2 samples'):
        assert part in message
    assert '\n' not in message
    found.require(Tolerance('loose', 0.5), 'this thing')


@given(st.integers(1, 2000), st.data())
def test_agreement_is_counted_in_samples_with_one_to_spare(samples, data):
    wrong = data.draw(st.integers(0, min(samples, 10)))
    found = Parity(0, 0, math.inf, 1 - wrong / samples, samples)
    for floor, allowed in ((1.0, 1), (0.998, max(1, samples // 500))):
        failed = found.failure(Tolerance('top-1', 0.0, floor)) is not None
        assert failed == (wrong > allowed)


@pytest.mark.parametrize('dtype', [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_each_dtype_has_a_named_fold_tolerance(dtype):
    tolerance = fold_tolerance(dtype)
    assert tolerance is TOLERANCES[tolerance.name]
    assert tolerance.max_relative > 0
    assert fold_tolerance(dtype, 1e-3).max_relative == 1e-3
    assert fold_tolerance(dtype, tolerance) is tolerance


def test_figures_are_plain_json():
    found = compare(torch.ones(2, 2), torch.zeros(2, 2), classes=True)
    assert json.loads(json.dumps(found.to_dict())) == found.to_dict()
