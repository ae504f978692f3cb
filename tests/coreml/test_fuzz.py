"""Every operation of the runtime with random parameters, against NumPy.

What differs from coremltools' folding of constants says so at its ``folds``
in the generators, and in the code of the operation.
"""
from __future__ import annotations

import fuzz_elementwise  # noqa: F401
import fuzz_shape  # noqa: F401
import fuzz_windows  # noqa: F401
import numpy as np
import pytest
import torch
from fuzz_kit import GENERATORS, exact, failures, fold_failures

from mmpretrain_mobileone_ext.coreml.ops import OPS, implemented

NAMES = sorted(GENERATORS)
EACH = 18
# A label is no array; the layer slice is no MIL operation.
NOT_FUZZED = {'classify', 'slice_axis'}


def cases(names, each, seed=0):
    """The same ones every time, whatever other names there are."""
    found = []
    for name in names:
        rng = np.random.default_rng([seed, *name.encode()])
        found += [GENERATORS[name](rng) for _ in range(each)]
    return found


def test_every_operation_has_a_generator():
    fuzzed_elsewhere = {n for n in implemented() if OPS[n].__module__ not in
                        {OPS[known].__module__ for known in NAMES}}
    assert set(implemented()) - set(NAMES) - fuzzed_elsewhere == NOT_FUZZED


def test_one_case_of_each(tmp_path):
    assert failures(cases(NAMES, 1, seed=1), tmp_path) == []


@pytest.mark.slow
@pytest.mark.parametrize('part', range(6))
def test_fuzz(part, tmp_path):
    """More than 2000 cases in all, each computed, and folded if it can be."""
    made = cases(NAMES[part::6], EACH)
    assert len(NAMES) * EACH > 2000
    found = []
    for start in range(0, len(made), 120):
        folder = tmp_path / str(start)
        folder.mkdir()
        found += failures(made[start:start + 120], folder)
    assert found + fold_failures(made) == []


WRONG = {
    'relu': lambda x: x.abs(),
    'reduce_mean': lambda x, axes=None, keep_dims=False: x.float().sum(
        tuple(range(x.dim())) if axes is None else axes, keepdim=keep_dims),
    'real_div': lambda x, y: torch.floor(x / y),
    'transpose': lambda x, perm: x.permute(*reversed(perm)),
    'matmul': lambda x, y, transpose_x, transpose_y: torch.matmul(
        x.mT if transpose_x else x, y.mT if transpose_y else y) * (1 + 1e-5),
}


def test_wrong_operations_are_found(tmp_path, monkeypatch):
    made = cases(WRONG, 4, seed=3)
    for name, function in WRONG.items():
        monkeypatch.setitem(OPS, name, function)
    lines = failures([c for c in made if c.op != 'matmul' or all(
        np.asarray(v).dtype.kind != 'i'
        for v in (*c.inputs.values(), *c.params.values()))], tmp_path)
    assert {line.partition('(')[0] for line in lines} >= {
        'relu', 'reduce_mean', 'real_div', 'transpose'}


def test_wrong_foldings_are_found():
    made = cases(['add', 'floor', 'reverse'], 2)
    wrong = [c._replace(wanted=exact(c.wanted[0].value + 1))
             if c.op == 'add' and c.wanted[0].value.dtype.kind == 'f' else c
             for c in made]
    assert len(fold_failures(wrong)) >= sum(a is not b
                                            for a, b in zip(made, wrong))
    assert fold_failures(made) == []
