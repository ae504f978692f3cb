"""Figures as people read them, the same on a console and on a page."""
from __future__ import annotations

from typing import Optional

from .intervals import CONFIDENCE, wilson

DASH, TIMES, MINUS = '\u2013', '\u00d7', '\u2212'
#: Between a number and its unit: no line ends there.
NBSP = '\u00a0'


def percent(value: Optional[float]) -> str:
    """Percent with two digits, as the tools print it."""
    return DASH if value is None else f'{value:.2f}'


def interval_of(value: Optional[float],
                images: int) -> Optional[tuple[float, float]]:
    """Wilson's interval of a share of images; None without a share.

    Args:
        value: percent.
        images: how many it was measured on.

    Returns:
        Its ends in percent.
    """
    if value is None or images < 1:
        return None
    low, high = wilson(round(value / 100 * images), images)
    return 100 * low, 100 * high


def share(value: Optional[float], images: int, unit: str = '') -> str:
    """Percent and its interval: '99.26 [98.1, 99.7]', or '99.26 % [...]'."""
    ends = interval_of(value, images)
    if ends is None:
        return percent(value)
    return f'{percent(value)}{unit} {bracket(*ends)}'


def bracket(low: float, high: float) -> str:
    """The ends of an interval of percent: '[98.1, 99.7]'."""
    return f'[{low:.1f}, {high:.1f}]'


def worth(images: int) -> str:
    """What one of so many images counts: '1 image = 1.79 points'."""
    digits = '.2f' if images <= 10_000 else '.2g'
    return f'1 image = {100 / images:{digits}} points'


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


def confidence() -> str:
    """Of every interval, in words: '95 %'."""
    return f'{100 * CONFIDENCE:g}{NBSP}%'
