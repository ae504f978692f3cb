"""Forms worth trying, and the path of plans from dense to smallest."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.compress.search import (
    Choice,
    Choices,
    choices_of,
    hull,
    path_of_plans,
    steps_from,
)
from mmpretrain_mobileone_ext.coreml.compress.storage import DENSE, INT8, Palette, Sparse
from mmpretrain_mobileone_ext.coreml.compress.weights import Weight

RNG = np.random.default_rng(0)


def weight(shape, zeros=0.0):
    values = RNG.normal(size=shape).astype(np.float16)
    values[RNG.random(shape) < zeros] = 0
    return Weight('w', 'conv', values, False, '', '')


def made(*figures):
    """Choices of (storage, size, error), all of them worth trying."""
    found = [Choice(*figure) for figure in figures]
    return Choices({c.storage: c for c in found}, tuple(found))


@given(st.lists(st.tuples(st.integers(1, 40), st.floats(0, 10)), min_size=1, max_size=12))
def test_hull(points):
    """No mixture of two points is better, and none of the hull is worse."""
    found = [Choice(Sparse(i + 1), size, error) for i, (size, error) in enumerate(points)]
    corners = hull(found)
    sizes = [c.size for c in corners]
    assert sizes == sorted(set(sizes), reverse=True)
    errors = [c.error for c in corners]
    assert errors == sorted(set(errors))
    for a, b in itertools.combinations(found, 2):
        for share in np.linspace(0, 1, 7):
            size = share * a.size + (1 - share) * b.size
            error = share * a.error + (1 - share) * b.error
            if sizes[-1] <= size <= sizes[0]:
                best = np.interp(size, sizes[::-1], errors[::-1])
                assert error >= best - 1e-9


def test_ways_to_store_a_dense_weight():
    found = choices_of(weight((64, 64, 1, 1)), 'iOS16', Palettes())
    assert found.best[0].storage == DENSE
    ways = {c.storage for c in found.best}
    assert Palette(4) in ways
    # Half of the values at 16 bits are larger and worse than 8 bits of all.
    assert not any(isinstance(s, Sparse) for s in ways)
    assert all(s.oldest == 'iOS16' for s in found.every)
    assert found.every[Palette(4)].error > found.every[INT8].error > 0
    assert Palette(3) in choices_of(weight((64, 64, 1, 1)), 'iOS18', Palettes()).every


def test_sparse_training_is_used():
    found = choices_of(weight((64, 64, 1, 1), zeros=0.8), 'iOS16', Palettes())
    assert any(isinstance(c.storage, Sparse) for c in found.best)
    assert found.every[Sparse(75)].error == 0


def test_small_weights_are_stored_one_way():
    assert [c.storage for c in choices_of(weight((4, 1, 3, 3)), 'iOS16', Palettes()).best] == [
        DENSE
    ]


CHOICES = {
    'a': made((DENSE, 100, 0.0), (INT8, 50, 0.1), (Palette(4), 25, 0.4)),
    'b': made((DENSE, 1000, 0.0), (INT8, 500, 1.0)),
}


def test_steps_by_damage_a_byte():
    steps = steps_from({}, CHOICES, {'a': 1.0, 'b': 1.0})
    assert [(s.name, s.storage, s.saved) for s in steps] == [('a', INT8, 50), ('b', INT8, 500)]
    steps = steps_from({}, CHOICES, {'a': 10.0, 'b': 1.0})
    assert [s.name for s in steps] == ['b', 'a']
    assert steps[1].damage == pytest.approx(1.0)
    assert steps_from({'a': Palette(4), 'b': INT8}, CHOICES, {'a': 1.0, 'b': 1.0}) == []
    (step,) = steps_from({'a': INT8, 'b': INT8}, CHOICES, {'a': 2.0, 'b': 1.0})
    assert (step.storage, step.saved) == (Palette(4), 25)
    assert step.damage == pytest.approx(0.6)


def test_steps_back():
    assert steps_from({}, CHOICES, {'a': 1.0, 'b': 1.0}, larger=True) == []
    first, second = steps_from(
        {'a': Palette(4), 'b': INT8}, CHOICES, {'a': 1.0, 'b': 1.0}, larger=True
    )
    assert (first.name, first.storage) == ('a', INT8)
    assert (second.name, second.storage) == ('b', DENSE)
    assert first.saved == -25
    assert first.damage == pytest.approx(-0.3)
    first, _ = steps_from(
        {'a': Palette(4), 'b': INT8}, CHOICES, {'a': 1.0, 'b': 100.0}, larger=True
    )
    assert first.name == 'b'


def test_a_way_beside_the_hull_leads_back_to_it():
    choices = {
        'a': Choices(
            {**CHOICES['a'].every, Palette(8): Choice(Palette(8), 60, 5.0)}, CHOICES['a'].best
        )
    }
    (step,) = steps_from({'a': Palette(8)}, choices, {'a': 1.0})
    assert step.storage == INT8
    assert step.damage < 0


def test_path():
    plans = path_of_plans(CHOICES, {'a': 1.0, 'b': 1.0})
    assert plans == [{}, {'a': INT8}, {'a': INT8, 'b': INT8}, {'a': Palette(4), 'b': INT8}]
