"""Figures as text."""

import math

import pytest

from mmpretrain_mobileone_ext.utils import text as wording


@pytest.mark.parametrize(
    ('value', 'text'),
    [
        (None, '\u2013'),
        (0, '0 B'),
        (1023, '1023 B'),
        (1024, '1 KiB'),
        (60_465, '59.0 KiB'),
        (320_880, '313 KiB'),
        (2**20, '1 MiB'),
        (4_500_000, '4.3 MiB'),
        (500 * 2**20, '500 MiB'),
    ],
)
def test_sizes(value, text):
    assert wording.size(value).replace('\u00a0', ' ') == text


def test_figures_without_a_value_are_dashes():
    for name in ('percent', 'size', 'decibel', 'count'):
        assert getattr(wording, name)(None) == '\u2013'
    assert wording.small(None) == 'not finite'


def test_other_figures():
    assert wording.percent(99.996) == '100.00'
    assert wording.decibel(math.inf) == 'equal'
    assert wording.decibel(33.34) == '33.3'
    assert wording.count(1_234_567) == '1\u2009234\u2009567'
    assert wording.magnitude(0.123456) == '0.123'
    assert wording.magnitude(123456.0) == '1.23e+05'
    assert wording.times(3.94) == '3.9'
    assert wording.times(250.4) == '250'
