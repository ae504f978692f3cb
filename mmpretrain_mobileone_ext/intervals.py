"""How far counts of images pin down an accuracy, and a loss of it.

All intervals are two-sided at :data:`CONFIDENCE`: over many draws of as many
images, that share of them covers the value of all images there could be.
"""
from __future__ import annotations

from collections.abc import Callable
from math import sqrt
from statistics import NormalDist

from .errors import MobileOneExtError

#: Of every interval that the package states.
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
_HALVINGS = 60  # the width of a float64's fraction, and some


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The score interval of a share.

    Its ends are the shares p with |hits/total - p| = z sqrt(p (1-p) / total)
    (Wilson 1927, J. Am. Stat. Assoc. 22:209; Brown, Cai and DasGupta 2001,
    Stat. Sci. 16:101, advise it for small counts).

    Args:
        hits: e.g. images with the right label.
        total: images, at least 1.

    Returns:
        Lowest and highest share, 0 to 1.

    Raises:
        MobileOneExtError: counts that cannot be.
    """
    if not 0 <= hits <= total or total < 1:
        raise MobileOneExtError(f'{hits} of {total} images is no share')
    share, weight = hits / total, _Z**2 / total
    middle = share + weight / 2
    spread = sqrt(weight * (share * (1 - share) + weight / 4))
    low, high = ((middle + sign * spread) / (1 + weight) for sign in (-1, 1))
    # At the ends of the scale they are exact, but for rounding.
    return (0.0 if hits == 0 else low, 1.0 if hits == total else high)


def paired_difference(lost: int, gained: int,
                      total: int) -> tuple[float, float]:
    """The score interval of a difference of two shares of the same images.

    Only images on which the two forms differ carry information, as in
    McNemar's test. The ends are the differences d with |Z(d)| = z, where

        Z(d) = (lost - gained - total d) /
               sqrt(total (2 q(d) + d (1 - d)))

    and q(d) is the most likely share of gained images if the difference is
    d: the larger root of 2 total q² + ((2 total - lost + gained) d - lost -
    gained) q - gained d (1 - d) (Tango 1998, Stat. Med. 17:891, equation 14).
    Unlike Wald's interval it does not shrink to a point where no image
    differs: its ends are then ± z² / (total + z²).

    Args:
        lost: images that only the first form gets right.
        gained: images that only the second one gets right.
        total: all images, at least 1.

    Returns:
        Lowest and highest difference, first minus second, -1 to 1.

    Raises:
        MobileOneExtError: counts that cannot be.
    """
    if min(lost, gained) < 0 or lost + gained > total or total < 1:
        raise MobileOneExtError(f'{lost} lost and {gained} gained of {total} '
                                'images cannot be')
    found = (lost - gained) / total
    return (_crossing(lambda d: _tango(lost, gained, total, d) > _Z,
                      -1.0, found),
            _crossing(lambda d: _tango(lost, gained, total, d) > -_Z,
                      found, 1.0))


def _tango(lost: int, gained: int, total: int, d: float) -> float:
    """Z(d); falls as d grows."""
    b = (2 * total - lost + gained) * d - lost - gained
    c = -gained * d * (1 - d)
    q = (sqrt(max(b * b - 8 * total * c, 0.0)) - b) / (4 * total)
    # Where no image could differ, only the difference 0 is possible.
    spread = sqrt(max(total * (2 * q + d * (1 - d)), 0.0))
    away = lost - gained - total * d
    return away / spread if spread > 0 else away * float('inf') if away else 0


def _crossing(above: Callable[[float], bool], low: float,
              high: float) -> float:
    """Where a condition that holds on the left stops to hold."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return (low + high) / 2
