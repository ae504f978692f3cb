"""An error in a small output is not hidden by a large one."""

from __future__ import annotations

import math

import pytest
import torch

from mmpretrain_mobileone_ext.errors import ParityError
from mmpretrain_mobileone_ext.utils.parity import compare, worst

SMALL, LARGE = torch.rand(3, 4, 2, 2) + 1, 1e6 * (torch.rand(3, 8) + 1)


def test_each_output_counts():
    moved = SMALL.clone()
    moved[0] *= 1.5
    assert compare([SMALL, LARGE], [moved, LARGE]).relative < 1e-5
    found = worst([SMALL, LARGE], [moved, LARGE])
    assert found.relative == compare(SMALL, moved).relative > 0.1
    assert found.psnr_db == compare(SMALL, moved).psnr_db
    assert (found.num_samples, found.top1_agreement) == (3, None)
    named = worst({'b': LARGE, 'a': SMALL}, {'a': moved, 'b': LARGE})
    assert named == found


def test_figures_come_from_different_outputs():
    noisy = LARGE + 10
    moved = SMALL * 1.01
    found = worst([SMALL, LARGE], [moved, noisy], classes=False)
    assert found.max_abs == compare(LARGE, noisy).max_abs
    assert found.relative == compare(SMALL, moved).relative


def test_one_output_is_compared_as_ever():
    scores = torch.rand(5, 3)
    other = scores.flip(1)
    assert worst(scores, other, classes=True) == compare(scores, other, classes=True)
    assert worst({'p': scores}, {'p': scores}, classes=True) == compare(
        scores, scores, classes=True
    )


def test_what_is_not_finite_is_worst():
    broken = SMALL / 0
    for order in ([SMALL, broken - broken], [broken - broken, SMALL]):
        assert math.isnan(worst([SMALL, SMALL], order).relative)


@pytest.mark.parametrize('other', [[SMALL], {'0': SMALL, 'x': LARGE}, [], [LARGE, SMALL]])
def test_outputs_that_differ(other):
    with pytest.raises(ParityError, match='outputs differ'):
        worst([SMALL, LARGE], other)
