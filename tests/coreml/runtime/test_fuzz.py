"""Every operation of the runtime with random parameters, against NumPy.

What differs from coremltools' folding of constants says so at its ``folds`` in the generators, and
in the code of the operation.
"""

from __future__ import annotations

import functools

import fuzz_elementwise  # noqa: F401
import fuzz_shape  # noqa: F401
import fuzz_windows  # noqa: F401
import numpy as np
import pytest
import torch
from fuzz_kit import GENERATORS, exact, failures, fold_failures

from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS, Op, implemented

NAMES = sorted(GENERATORS)
EACH = 40
# A label is no array; the layer slice is no MIL operation.
NOT_FUZZED = {'classify', 'slice_axis'}
# They have oracles of their own: test_ops_control, _detection, _index, _recurrent, _sampling and
# _scatter.
TESTED_ELSEWHERE = {
    *('cond', 'while_loop', 'non_maximum_suppression', 'lstm', 'gru', 'rnn'),
    *('resample', 'affine', 'crop_resize', 'space_to_batch', 'batch_to_space'),
    *('scatter', 'scatter_along_axis', 'scatter_nd', 'gather_nd', 'slice_update'),
    *('non_zero', 'argsort', 'range_1d', 'band_part', 'one_hot'),
}


def cases(names, each, seed=0):
    """The same ones every time, whatever other names there are."""
    found = []
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        found += [GENERATORS[name](rng) for _ in range(each)]
    return found


def test_every_operation_has_a_generator():
    assert set(implemented()) - set(NAMES) == NOT_FUZZED | TESTED_ELSEWHERE


def test_one_case_of_each(tmp_path):
    assert failures(cases(NAMES, 1, seed=1), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize('part', range(6))
def test_fuzz(part, tmp_path):
    """Almost 5000 cases in all, each computed, and folded if it can be."""
    made = cases(NAMES[part::6], EACH)
    assert len(NAMES) * EACH > 4500
    found = []
    for start in range(0, len(made), 120):
        folder = tmp_path / str(start)
        folder.mkdir()
        found += failures(made[start : start + 120], folder)
    assert found + fold_failures(made) == []


# These carry the inputs and outputs of the other cases.
CARRIERS = ('cast', 'identity', 'squeeze')


def distorted(name, function):
    """Slightly other results: by 1e-4, or the least there is."""

    @functools.wraps(function)  # with its signature
    def wrong(**parameters):
        results = function(**parameters)
        several = isinstance(results, tuple)
        changed = [change(r, name) for r in (results if several else [results])]
        return tuple(changed) if several else changed[0]

    return wrong


def change(result, name):
    if result.dtype == torch.bool:
        return ~result
    if not result.is_floating_point() or name == 'quantize':
        return result + 1
    return result + 1e-4 * (1 + result.abs())


def test_wrong_operations_are_found(tmp_path, monkeypatch):
    names = [n for n in NAMES if n not in CARRIERS]
    made = cases(names, 3, seed=3)
    for name in names:
        function = distorted(name, OPS[name].function)
        monkeypatch.setitem(OPS, name, Op(function))
    lines = failures(made, tmp_path)
    assert {line.partition('(')[0] for line in lines} == set(names)


def test_wrong_foldings_are_found():
    made = cases(['add', 'floor', 'reverse'], 2)
    wrong = [
        c._replace(wanted=exact(c.wanted[0].value + 1))
        if c.op == 'add' and c.wanted[0].value.dtype.kind == 'f'
        else c
        for c in made
    ]
    assert len(fold_failures(wrong)) >= sum(a is not b for a, b in zip(made, wrong))
    assert fold_failures(made) == []
