"""Swift string literals for any text."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from swift_kit import read_literal, syntax_errors

from mmpretrain_mobileone_ext.coreml.swift.render import string_literal

TEXT = st.text(st.characters(exclude_categories=['Cs']))
NASTY = 'a "b" \\(c) \\u{41}\n\r\t\0 \u2028 \u202e é 日本 \U0001f40c {{ x }} %'


@given(TEXT)
@example(NASTY)
@example('\\')
@example('')
def test_reads_back(text):
    literal = string_literal(text)
    assert read_literal(literal) == text
    assert len(literal.splitlines()) == 1


@given(TEXT)
@example(NASTY)
def test_is_one_expression(text):
    assert syntax_errors(f'let x = {string_literal(text)}\n') == []


def test_what_would_break_is_noticed():
    for broken in ('a"b', 'a\\b', 'a\nb'):
        with pytest.raises(AssertionError):
            read_literal(f'"{broken}"')
    assert syntax_errors('let x = "a"b"\n')


def test_nothing_is_interpolated():
    assert string_literal('\\(name)') == '"\\\\(name)"'


def test_half_a_surrogate_pair_is_refused():
    with pytest.raises(ValueError, match=r'U\+D800'):
        string_literal('\ud800')
