"""Estimate the latency of layers on a chip, with what is known of the error."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Optional

import numpy as np

from ....errors import SpecError
from ...runtime.engine.chips import Chip
from .features import Layer, has_attention
from .fit import Quality
from .forms import FITTED, FORMS, WAITS, Form, count, waits_of

_FILE = Path(__file__).with_name('fitted.json')
#: Of networks that were left out, so many lay within the error that is stated.
COVERAGE = 0.8
#: The fastest engine of the guide by the slowest, GHz (ch. 12, measured on M5 and M1).
_CLOCKS = 1.89 / 1.14

PREDICTED = 'predicted'
NOT_FITTED = 'predicted, not fitted to this chip'
ORDER = 'order only'


@dataclass(frozen=True)
class LatencyModel:
    """A fitted form.

    Attributes:
        form_name: of :data:`~.forms.FORMS`.
        values: its parameters.
        bar: of an estimate's logarithm: made to hold 8 of 10 further networks.
        networks: how many it was fitted to.
        source: of their latencies, in words.
        device: that they were measured on.
        is_calibrated: fitted to a user's own device, on whose chip it then holds.
    """

    form_name: str
    values: Mapping[str, float]
    bar: float
    networks: int
    source: str
    device: str
    is_calibrated: bool = False

    @property
    def form(self) -> Form:
        return FORMS[self.form_name]

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def fitted_model() -> LatencyModel:
    """The one of the package, fitted to the paper's iPhone 12."""
    return LatencyModel(**json.loads(_FILE.read_text(encoding='utf-8')))


def bar_of(quality: Quality, names: Sequence[str]) -> float:
    """The bound that :data:`COVERAGE` of a next network's errors keep, of their logarithm.

    The k-th smallest absolute residual of n networks that were left out, with k = ceil(coverage (n
    + 1)): a conformal bound, as far as the next network is one of their kind.

    Args:
        names: networks of the quality that count.
    """
    logs = sorted(abs(math.log1p(quality.errors[name])) for name in names)
    place = math.ceil(COVERAGE * (len(logs) + 1))
    return logs[min(place, len(logs)) - 1]


class Speed(NamedTuple):
    """Of a chip's engine by that which was fitted, as a range.

    Attributes:
        cores: by its cores.
        clock: at most, by its clock; the least is 1.
    """

    cores: float
    clock: float


def speed_of(chip: Chip) -> Optional[Speed]:
    """What the guide says of a chip beside the A14; None where it says too little.

    Rate and both bandwidths go with the cores (ch. 18), all of it and the floor with the clock. The
    clocks of phones are not in it: those of later generations lie between the slowest and the
    fastest that were measured.
    """
    if chip == FITTED:
        return Speed(1, 1)
    # It is in doubt whether the A14 has the engine of the M2 or that of the M1, so nothing is
    # scaled to an engine before it.
    if _generation(chip) < _generation(FITTED):
        return None
    return Speed(chip.cores / FITTED.cores, _CLOCKS)


def _generation(chip: Chip) -> int:
    return int(''.join(c for c in chip.engine[1:3] if c.isdigit()))


@dataclass(frozen=True)
class Estimate:
    """Milliseconds of one prediction, round trip.

    Attributes:
        chip: its name.
        ms: of all.
        low, high: made to hold 8 of 10 further networks of the published kinds; None where nothing
            says.
        floor_ms: of these, what an empty program takes.
        layers_ms: and each layer; with the floor they add up to ``ms``.
        waits: what each layer waits for, of :data:`~.forms.WAITS`.
        label: how far to believe it.
        notes: what is not in it.
    """

    chip: str
    ms: float
    low: Optional[float]
    high: Optional[float]
    floor_ms: float
    layers_ms: tuple[float, ...]
    waits: tuple[str, ...]
    label: str
    notes: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, float]:
        """Milliseconds of the floor, and of all layers that wait for the same; they add up."""
        found = dict.fromkeys(('floor', *WAITS), 0.0)
        found['floor'] = self.floor_ms
        for what, ms in zip(self.waits, self.layers_ms):
            found[what] += ms
        return found

    def words(self) -> str:
        """E.g. '0.79 ms (0.70 to 0.89), predicted'."""
        if self.low is None or self.high is None:
            return f'about {self.ms:.2f} ms, {self.label}'
        return f'{self.ms:.2f} ms ({self.low:.2f} to {self.high:.2f}), {self.label}'

    def document(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


class Estimator:
    """Estimates one model of time on one chip.

    Args:
        model: fitted.
        chip: where; a calibrated model holds for its own device only, which ``chip`` then names.
    """

    def __init__(self, model: LatencyModel, chip: Chip) -> None:
        self.model, self.chip = model, chip

    @cached_property
    def _speed(self) -> Optional[Speed]:
        return Speed(1, 1) if self.model.is_calibrated else speed_of(self.chip)

    def __call__(self, layers: Sequence[Layer]) -> Estimate:
        """Estimate a file.

        Raises:
            SpecError: no layers.
        """
        if not layers:
            raise SpecError('a program without operations has no latency to estimate')
        counted = count(layers, self.chip)
        each = self.model.form.layer_ms(counted, self.model.values)
        speed = self._speed or Speed(1, 1)
        # In the middle of what the clock may be.
        each = each / (speed.cores * math.sqrt(speed.clock))
        floor = self.model.values['floor'] / math.sqrt(speed.clock)
        total = floor + float(np.sum(each))
        bar = self.model.bar + math.log(speed.clock) / 2
        label, notes = self._label(layers)
        is_bound = label != ORDER
        return Estimate(
            chip=self.chip.name,
            ms=total,
            low=total * math.exp(-bar) if is_bound else None,
            high=total * math.exp(bar) if is_bound else None,
            floor_ms=floor,
            layers_ms=tuple(map(float, each)),
            waits=tuple(WAITS[i] for i in waits_of(counted, self.model.values)),
            label=label,
            notes=notes,
        )

    def _label(self, layers: Sequence[Layer]) -> tuple[str, tuple[str, ...]]:
        if has_attention(layers):
            why = 'attention has no model of time: MobileViT-S took over three times its estimate'
            return ORDER, (why,)
        if self._speed is None:
            why = f"nothing says how fast the engine of the {self.chip.name} is beside the A14's"
            return ORDER, (why,)
        is_own = self.model.is_calibrated or self.chip == FITTED
        return PREDICTED if is_own else NOT_FITTED, ()
