"""Versions and specifiers against the packaging library."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from packaging.specifiers import SpecifierSet
from packaging.version import Version

from mmpretrain_mobileone_ext.utils.doctor.facts import (
    canonical,
    fits,
    numbers,
    read_matrix,
    requirement,
)

VERSIONS = st.lists(st.integers(0, 12), min_size=1, max_size=4).map(
    lambda parts: '.'.join(map(str, parts))
)
SIGNS = st.sampled_from(['==', '!=', '<', '<=', '>', '>='])


@given(VERSIONS, st.lists(st.tuples(SIGNS, VERSIONS), max_size=3))
def test_specifiers_are_met_as_packaging_has_it(version, clauses):
    text = ','.join(sign + wanted for sign, wanted in clauses)
    assert fits(version, text) == SpecifierSet(text).contains(version)


@given(
    VERSIONS,
    st.lists(st.integers(0, 12), min_size=2, max_size=3),
    st.sampled_from(['~=', '==', '!=']),
)
def test_compatible_and_prefixes_are_met_too(version, parts, sign):
    wanted = '.'.join(map(str, parts)) + ('' if sign == '~=' else '.*')
    # packaging fills versions with zeros, and so do we.
    assert fits(version, sign + wanted) == SpecifierSet(sign + wanted).contains(version)


@given(VERSIONS, VERSIONS)
def test_order_is_packagings(one, other):
    assert (numbers(one) < numbers(other)) == (Version(one) < Version(other))


@pytest.mark.parametrize(
    ('text', 'wanted'),
    [
        ('2.14.1+cpu', (2, 14, 1)),
        ('9.0', (9,)),
        ('v1.2', (1, 2)),
        ('0', (0,)),
        ('2.0.0rc4', (2,)),
        ('none', ()),
    ],
)
def test_numbers(text, wanted):
    assert numbers(text) == wanted


@pytest.mark.parametrize(
    ('line', 'wanted'),
    [
        ('torch', ('torch', '')),
        ('torch (>=2.14.0)', ('torch', '>=2.14.0')),
        ('mmcv_lite>=2,<2.4', ('mmcv-lite', '>=2,<2.4')),
        ('numpy >= 1 ; extra == "x"', ('numpy', '>=1')),
        ('a[b,c]==1', ('a', '==1')),
        ('', ('', '')),
    ],
)
def test_requirements(line, wanted):
    assert requirement(line) == wanted


def test_the_matrix_is_read_without_comments():
    assert read_matrix('# text\ntorch==2.1  # why\n\nsetuptools<81\n') == {
        'torch': '==2.1',
        'setuptools': '<81',
    }
    assert canonical('Mm_cv.Lite') == 'mm-cv-lite'
