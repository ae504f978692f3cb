"""What a form of a network loses against another, and what images can say.

All intervals are two-sided at :data:`CONFIDENCE`: over many draws of as many images, that share of
them covers the value of all images there could be.

A loss is paired: both forms see the same images, and only those count that one of them gets right
and the other does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from math import sqrt
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, Optional

from ..errors import MobileOneExtError

if TYPE_CHECKING:
    from torch import Tensor

#: Of every interval that the package states.
CONFIDENCE = 0.95
_Z = NormalDist().inv_cdf((1 + CONFIDENCE) / 2)
#: Input channels of a weight of 4 bits that share a scale.
INT4_BLOCK = 32
#: coremltools' own default: weights of fewer numbers are hardly worth few bits.
_SMALL = 2048
_HALVINGS = 60  # the width of a float64's fraction, and some


def is_sensitive(count: int, first: bool, depthwise: bool) -> bool:
    """Whether few bits lose more in a layer's weight than its bytes are worth.

    The stem, depthwise layers and weights of fewer than 2048 numbers hold few bytes, nothing
    averages their errors out, and those of the stem reach everything behind it.

    Args:
        count: numbers in the weight.
        first: it is the stem's.
        depthwise: every filter sees one input channel.
    """
    return first or depthwise or count < _SMALL


def wilson(hits: int, total: int) -> tuple[float, float]:
    """The score interval of a share.

    Its ends are the shares p with |hits/total - p| = z sqrt(p (1-p) / total) (Wilson 1927, J. Am.
    Stat. Assoc. 22:209; Brown, Cai and DasGupta 2001, Stat. Sci. 16:101, advise it for small
    counts).

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


def paired_difference(lost: int, gained: int, total: int) -> tuple[float, float]:
    """The score interval of a difference of two shares of the same images.

    Only images on which the two forms differ carry information, as in McNemar's test. The ends are
    the differences d with |Z(d)| = z, where

        Z(d) = (lost - gained - total d) /
               sqrt(total (2 q(d) + d (1 - d)))

    and q(d) is the most likely share of gained images if the difference is d: the larger root of 2
    total q² + ((2 total - lost + gained) d - lost - gained) q - gained d (1 - d) (Tango 1998, Stat.
    Med. 17:891, equation 14). Unlike Wald's interval it does not shrink to a point where no image
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
        raise MobileOneExtError(f'{lost} lost and {gained} gained of {total} images cannot be')
    found = (lost - gained) / total
    return (
        _crossing(lambda d: _tango(lost, gained, total, d) > _Z, -1.0, found),
        _crossing(lambda d: _tango(lost, gained, total, d) > -_Z, found, 1.0),
    )


def _tango(lost: int, gained: int, total: int, d: float) -> float:
    """Z(d); falls as d grows."""
    b = (2 * total - lost + gained) * d - lost - gained
    c = -gained * d * (1 - d)
    q = (sqrt(max(b * b - 8 * total * c, 0.0)) - b) / (4 * total)
    # Where no image could differ, only the difference 0 is possible.
    spread = sqrt(max(total * (2 * q + d * (1 - d)), 0.0))
    away = lost - gained - total * d
    return away / spread if spread > 0 else away * float('inf') if away else 0


def _crossing(above: Callable[[float], bool], low: float, high: float) -> float:
    """Where a condition that holds on the left stops to hold."""
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if above(middle) else (low, middle)
    return (low + high) / 2


#: Points of top-1 that a form may lose where nobody gave another number.
DEFAULT_DROP = 0.5
#: Times the bound that labels may change: where as many images are gained as lost the accuracy
#: stays, but other images need not repeat that balance.
CHANGED = 2.0
#: Differences of shares are no binary fractions.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Answers:
    """The first class of every image.

    Attributes:
        reference: (N,) int64, of the network.
        candidate: (N,) int64, of the form that is looked at.
        labels: (N,) int64, the right ones; None where some image has none.
    """

    reference: Tensor
    candidate: Tensor
    labels: Optional[Tensor] = None

    @property
    def right(self) -> Tensor:
        """(N,) bool: the right label; the network's where none is known."""
        wanted = self.reference if self.labels is None else self.labels
        return self.candidate == wanted

    @property
    def of_reference(self) -> Answers:
        """What the network says, as a form."""
        return Answers(self.reference, self.reference, self.labels)

    def part(self, which: slice) -> Answers:
        """Those of some of the images."""
        return Answers(
            self.reference[which],
            self.candidate[which],
            None if self.labels is None else self.labels[which],
        )


@dataclass(frozen=True)
class Loss:
    """What one form loses against another on the same images.

    Attributes:
        lost: images that only the other form gets right.
        gained: images that only this form gets right.
        images: all of them, at least 1.
        points: percentage points lost; below zero where more is gained.
        low, high: its interval, :func:`~.intervals.paired_difference`.
    """

    lost: int
    gained: int
    images: int
    points: float = field(init=False)
    low: float = field(init=False)
    high: float = field(init=False)

    def __post_init__(self) -> None:
        low, high = paired_difference(self.lost, self.gained, self.images)
        found = (self.lost - self.gained) / self.images
        for name, value in (('points', found), ('low', low), ('high', high)):
            # Shares of images are no binary fractions: 0.5 is to equal 0.5.
            object.__setattr__(self, name, round(100 * value, 9))

    @property
    def words(self) -> str:
        """'0.37 points (95 % interval -0.52 to 1.53)'."""
        return (
            f'{_signed(self.points)} points ({100 * CONFIDENCE:g} % '
            f'interval {_signed(self.low)} to {_signed(self.high)})'
        )


def loss_between(before: Answers, after: Answers) -> Loss:
    """What ``after`` loses of what ``before`` gets right, image by image."""
    first, second = before.right, after.right
    return Loss(int((first & ~second).sum()), int((second & ~first).sum()), len(first))


@dataclass(frozen=True)
class Verdict:
    """Whether a form keeps the accuracy, as far as the images can say.

    Attributes:
        loss: against the form that it was made from.
        bound: percentage points that it may lose.
        bound_name: where the bound comes from.
        changed: images with another label than the network's.
        changed_before: of the form that it was made from.
        judged_apart: the form was the best of many on other images.
        labelled: right are true labels, not the network's.
    """

    loss: Loss
    bound: float
    bound_name: str
    changed: int
    changed_before: int = 0
    judged_apart: bool = False
    labelled: bool = True

    @property
    def beyond(self) -> bool:
        """More is lost than may be."""
        return self.loss.points > self.bound + _ROUNDING

    @property
    def uncertain(self) -> bool:
        """So few images do not exclude a loss beyond the bound."""
        return self.loss.high > self.bound + _ROUNDING

    @property
    def restless(self) -> bool:
        """More labels changed than :data:`CHANGED` bounds."""
        added = 100 * (self.changed - self.changed_before) / self.loss.images
        return too_many_changed(added, self.bound)

    @property
    def level(self) -> str:
        """'good', 'warn' or 'bad'."""
        return 'bad' if self.beyond else 'warn' if self.uncertain or self.restless else 'good'

    @property
    def words(self) -> str:
        """The verdict in a few words."""
        bound = f'{self.bound:g} points'
        if self.beyond:
            return f'more than {bound}'
        if self.restless:
            return f'within {bound}, but many labels changed'
        if self.uncertain:
            return f'within {bound}, but too few images to be sure'
        return f'within {bound}, and so is the whole interval'

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for metadata and JSON."""
        loss = self.loss
        return dict(
            level=self.level,
            bound_points=self.bound,
            bound=self.bound_name,
            lost_points=loss.points,
            low=loss.low,
            high=loss.high,
            confidence=CONFIDENCE,
            lost=loss.lost,
            gained=loss.gained,
            images=loss.images,
            changed_labels=self.changed,
            judged_apart=self.judged_apart,
            labelled=self.labelled,
        )


def too_many_changed(points: float, bound: float) -> bool:
    """Whether so many labels changed that an equal top-1 is a balance.

    Args:
        points: percentage points of agreement with the network lost.
        bound: percentage points of top-1 that may be lost.
    """
    return points > CHANGED * bound + _ROUNDING


def verdict_on(
    before: Answers, after: Answers, bound: float, bound_name: str, judged_apart: bool = False
) -> Verdict:
    """The verdict on ``after``, which was made from ``before``.

    Args:
        bound: percentage points that may be lost.
        bound_name: where it comes from.
        judged_apart: ``after`` was the best of many on other images.
    """
    return Verdict(
        loss_between(before, after),
        bound,
        bound_name,
        changed=_changed(after),
        changed_before=_changed(before),
        judged_apart=judged_apart,
        labelled=after.labels is not None,
    )


def _changed(answers: Answers) -> int:
    return int(answers.candidate.ne(answers.reference).sum())


def _signed(points: float) -> str:
    """Two digits, and no minus before zero."""
    return f'{round(points, 2) + 0.0:.2f}'


@dataclass(frozen=True)
class ClassScore:
    """How well one class is told from the others.

    Attributes:
        name: of the class.
        images: that are of it.
        precision: percent of the images that are said to be of it that are; None where none is.
        recall: percent of its images that are said to be of it; None where it has none.
    """

    name: str
    images: int
    precision: Optional[float]
    recall: Optional[float]


@dataclass(frozen=True)
class Confusion:
    """What images are, and what is said of them.

    Attributes:
        names: of the classes.
        counts: images by true class and by what was said, in the order of ``names``.
    """

    names: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]

    @property
    def scores(self) -> list[ClassScore]:
        """One a class, in the order of ``names``."""
        said = [sum(column) for column in zip(*self.counts)]
        return [
            ClassScore(name, sum(row), _percent(row[i], said[i]), _percent(row[i], sum(row)))
            for i, (name, row) in enumerate(zip(self.names, self.counts))
        ]

    @property
    def mixed_up(self) -> list[tuple[int, str, str]]:
        """(images, true class, what was said), the most frequent first."""
        found = [
            (count, self.names[truth], self.names[said])
            for truth, row in enumerate(self.counts)
            for said, count in enumerate(row)
            if count and truth != said
        ]
        return sorted(found, key=lambda one: -one[0])


def _percent(part: int, whole: int) -> Optional[float]:
    return 100 * part / whole if whole else None


def confusion(truth: Tensor, said: Tensor, names: Sequence[str]) -> Confusion:
    """Count images by true class and by what was said.

    Args:
        truth, said: (N,), class numbers.
        names: of the classes; one without a name is called by its number.
    """
    import torch

    total = max(len(names), 1 + int(torch.cat([truth, said]).max()))
    named = (*names, *map(str, range(len(names), total)))
    counts = torch.bincount(truth * total + said, minlength=total**2).view(total, total)
    return Confusion(named, tuple(map(tuple, counts.tolist())))
