"""How much regularization is in force in which epoch (no torch here).

Small networks need less of it (paper, section 3.3): S0 and S1 train with
crops and flips alone, larger ones with augmentation and image size that grow
while they train.
"""
from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Optional, Union

from ..errors import SpecError
from ..option_checks import mapping, sequence

#: Parameters of the folded backbones at which strength is 0 and 1.
S1_BACKBONE = 3_483_840
S4_BACKBONE = 12_789_352


@dataclass(frozen=True)
class Phase:
    """What holds from ``begin`` to the next phase; None leaves a thing alone.

    Attributes:
        begin: epoch, counted from 0, or share of the run as a float in
            [0, 1).
        resolution: pixels of the images that are trained on.
        magnitude: share of RandAugment's own magnitude.
        label_smoothing: of ``LabelSmoothLoss``.
        dropout: probability of the model's dropout.
    """
    begin: Union[int, float] = 0
    resolution: Optional[int] = None
    magnitude: Optional[float] = None
    label_smoothing: Optional[float] = None
    dropout: Optional[float] = None

    def __post_init__(self) -> None:
        whole = type(self.begin) is int and self.begin >= 0
        share = type(self.begin) is float and 0 <= self.begin < 1
        if not (whole or share):
            raise SpecError(f'phase begin={self.begin!r} must be an epoch (an '
                            'integer >= 0) or a share (a float in [0, 1))')
        if self.resolution is not None and (
                type(self.resolution) is not int or self.resolution < 1):
            raise SpecError(f'phase resolution={self.resolution!r} must be a '
                            'number of pixels')
        for name, top in (('magnitude', math.inf), ('label_smoothing', 1),
                          ('dropout', 1)):
            value = getattr(self, name)
            number = isinstance(value, (int, float)) and \
                not isinstance(value, bool)
            if value is not None and not (number and 0 <= value < top):
                raise SpecError(f'phase {name}={value!r} must be a number in '
                                f'[0, {top})')

    def first_epoch(self, max_epochs: int) -> int:
        """The epoch in which the phase begins, counted from 0."""
        if isinstance(self.begin, float):
            # 0.29 of 100 is 28.999999999999996.
            return int(self.begin * max_epochs + 1e-9)
        return self.begin


@dataclass(frozen=True)
class Plan:
    """Phases in the order of their epochs; the first begins at 0."""
    phases: tuple[Phase, ...]
    max_epochs: int

    def __post_init__(self) -> None:
        begins = [p.first_epoch(self.max_epochs) for p in self.phases]
        if not begins or begins[0] or begins != sorted(set(begins)):
            raise SpecError(f'phases begin in epochs {begins}; the first must '
                            'begin in 0 and each later than the one before')
        if begins[-1] >= self.max_epochs:
            raise SpecError(f'a phase begins in epoch {begins[-1]}, but the '
                            f'run has {self.max_epochs}')

    def at(self, epoch: int) -> Phase:
        """The phase in force in ``epoch``, counted from 0."""
        return [p for p in self.phases
                if p.first_epoch(self.max_epochs) <= epoch][-1]

    def uses(self, knob: str) -> bool:
        """Whether any phase sets ``knob``; refuses what only some set.

        Raises:
            SpecError: a phase does and another does not.
        """
        values = [getattr(p, knob) for p in self.phases]
        if all(v is None for v in values):
            return False
        if any(v is None for v in values):
            raise SpecError(f'{knob} is set in some phases only ({values}); '
                            'set it in all or none')
        return True


def read_phases(given: Sequence[Mapping[str, Any]]) -> tuple[Phase, ...]:
    """Phases of a config.

    Raises:
        SpecError: an unknown key or a value that is not allowed.
    """
    known = [f.name for f in fields(Phase)]
    for phase in sequence('phases', given):
        mapping('phase', phase)
        unknown = sorted(set(phase) - set(known))
        if unknown:
            raise SpecError(f'phase has unknown keys {unknown}; allowed are '
                            f'{known}')
    return tuple(Phase(**phase) for phase in given)


def strength_for(parameters: int) -> float:
    """Strength for a backbone with so many parameters after the fold.

    0 up to S1 and 1 from S4 on, by the logarithm between them; that gives
    S2 0.39 and S3 0.64. That it grows with size is the paper's; the numbers
    between 0 and 1 are this package's.
    """
    place = math.log(parameters / S1_BACKBONE) / \
        math.log(S4_BACKBONE / S1_BACKBONE)
    return min(1.0, max(0.0, place))
