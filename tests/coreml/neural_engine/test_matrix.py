"""The table of operations: its marks are appendix A's, and every generation adds to the last."""

from __future__ import annotations

import pytest

from mmpretrain_mobileone_ext.coreml.neural_engine import matrix
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import (
    CHIPS,
    LABELS,
    MEASURED,
    PREDICTED,
    TIERS,
    UNKNOWN,
    find_chip,
    weakest,
)
from mmpretrain_mobileone_ext.errors import SpecError

BY_MARK = {'n': 'native', 'b': 'bridge', 'g': 'family-gated', '-': 'no path'}
#: Cells read from the page once more, by another hand than the table's: operation and its marks on
#: M1 (A13), M2 (A14), M3 (A15), M4 and M5 (A16).
CELLS = """
conv nnnn
linear nnnn
scaled_dot_product_attention nnnn
layer_norm nnnn
mod ----
cumsum nnnn
logical_not nnnn
logical_and ----
gelu nnnn
softmax nnnn
reduce_mean nnnn
reduce_argmin bbnn
reduce_prod ----
slice_by_index bbbb
gather nnnn
gather_nd bnnn
scatter_nd ----
range_1d bbbb
one_hot ----
resize_bilinear bnnn
crop_resize gnnn
affine gnnn
constexpr_affine_dequantize bbbb
constexpr_lut_to_dense nnnn
constexpr_blockwise_shift_scale bbnn
while_loop bbbb
lstm ----
sin ggnn
atan nnnn
tan ----
non_maximum_suppression bbbb
topk gnnn
random_uniform bbnn
random_normal ----
"""


@pytest.mark.parametrize('cell', CELLS.split('\n')[1:-1])
def test_marks_are_those_of_the_guide(cell):
    operation, marks = cell.split()
    for name, mark in zip(('M1', 'M2', 'M3', 'M4', 'M5'), (*marks, marks[-1])):
        assert matrix.look_up(operation, CHIPS[name]).mark == BY_MARK[mark]


def test_the_table_names_no_operation_twice():
    names = [name for row in matrix._TABLE.values() for name in row.split()]
    assert len(names) == len(set(names)) == len(matrix.OPERATIONS)
    assert not {'', 'ne_conv'} & set(names)


@pytest.mark.parametrize('operation', sorted(matrix.OPERATIONS))
def test_later_engines_run_what_earlier_ones_do(operation):
    runs = [matrix.look_up(operation, CHIPS[n]).runs for n in ('A12', 'M1', 'M2', 'M3', 'M4', 'M5')]
    assert runs == sorted(runs)


@pytest.mark.parametrize('operation', sorted(matrix.OPERATIONS))
def test_who_is_refused_is_told_why(operation):
    for chip in CHIPS.values():
        row = matrix.look_up(operation, chip)
        assert row.label in LABELS
        assert row.runs or row.why
        assert not (row.runs and row.instead)


def test_what_the_table_lacks_is_unknown_and_no_yes():
    row = matrix.look_up('no_such_operation', CHIPS['M5'])
    assert (row.mark, row.runs, row.label) == ('', False, UNKNOWN)


def test_nothing_is_surer_than_its_chip():
    for chip in CHIPS.values():
        for operation in matrix.OPERATIONS:
            label = matrix.look_up(operation, chip).label
            assert LABELS.index(label) >= LABELS.index(chip.sureness)
    assert matrix.look_up('conv', CHIPS['M1']).label == MEASURED
    assert matrix.look_up('conv', CHIPS['M3']).label == PREDICTED


def test_limits_of_the_guide():
    def values(name):
        return [CHIPS[c].limit(name).value for c in ('A12', 'M1', 'M2', 'M3', 'M5')]

    assert values('width') == [16384, 16384, 16384, 16384, 65536]
    assert values('kernel width') == [13, 13, 16, 16, 16]
    assert values('reduced axis') == [None, 192, 192, 384, 384]
    assert values('batch') == [4096, 65536, 65536, 65536, 65536]
    assert CHIPS['M1'].limit('kernel width').label == MEASURED
    assert CHIPS['M3'].limit('kernel width').label == PREDICTED


@pytest.mark.parametrize('name', [*CHIPS, 'm1', 'a17pro', 'A17', 'M1-max', 'a17 pro'])
def test_chips_are_found_by_name(name):
    chip = find_chip(name)
    assert chip.tier in TIERS
    assert chip.name.lower().startswith(name[:2].lower())


@pytest.mark.parametrize('name', ['A11', 'M9', '', 'H13', 'iPhone 12'])
def test_other_chips_are_refused(name):
    with pytest.raises(SpecError, match=r'^chip is .*; allowed: A12, A13') as caught:
        find_chip(name)
    is_device = name.casefold().startswith(('iphone', 'mac'))
    assert ('a chip is meant, not a device' in str(caught.value)) == is_device


def test_the_weakest_label_counts():
    assert weakest() == MEASURED
    assert weakest(MEASURED, UNKNOWN, PREDICTED) == UNKNOWN
