"""Figures as people read them; None is a dash."""
from __future__ import annotations

import math
from typing import Optional

DASH, TIMES, MINUS = '\u2013', '\u00d7', '\u2212'
#: Between a number and its unit: no line ends there.
NBSP = '\u00a0'


def percent(value: Optional[float]) -> str:
    """Percent with two digits, as the tools print it."""
    return DASH if value is None else f'{value:.2f}'


def size(value: Optional[int]) -> str:
    """Bytes with a unit that leaves at least one digit."""
    if value is None:
        return DASH
    for unit, scale in (('MiB', 2**20), ('KiB', 2**10)):
        if value >= scale:
            number = value / scale
            digits = 0 if number >= 100 or number == int(number) else 1
            return f'{number:.{digits}f}{NBSP}{unit}'
    return f'{value}{NBSP}B'


def decibel(value: Optional[float]) -> str:
    """Decibel with one digit; equal outputs have no noise."""
    if value is None:
        return DASH
    return 'equal' if value == math.inf else f'{value:.1f}'


def count(value: Optional[int]) -> str:
    """A whole number, thousands apart (by a thin space)."""
    return DASH if value is None else f'{value:,}'.replace(',', '\u2009')


def small(value: Optional[float]) -> str:
    """A share far below one, or a dash where it is not finite."""
    return 'not finite' if value is None else f'{value:.1e}'


def magnitude(value: float) -> str:
    """A positive number of any size with three digits."""
    return f'{value:.3g}' if value < 1e5 else f'{value:.2e}'


def times(value: float) -> str:
    """A ratio with two digits."""
    return f'{value:.1f}' if value < 100 else f'{value:.0f}'
