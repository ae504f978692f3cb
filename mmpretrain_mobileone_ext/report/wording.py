"""Figures as people read them; None is a dash."""
from __future__ import annotations

import math
from typing import Optional

from ..figures import DASH, MINUS, NBSP, TIMES, percent, size

__all__ = ['DASH', 'MINUS', 'NBSP', 'TIMES', 'count', 'decibel', 'magnitude',
           'percent', 'points', 'size', 'small', 'times']


def points(value: Optional[float]) -> str:
    """Percentage points, with a true minus and none before zero."""
    return DASH if value is None else \
        f'{round(value, 2) + 0.0:.2f}'.replace('-', MINUS)


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
