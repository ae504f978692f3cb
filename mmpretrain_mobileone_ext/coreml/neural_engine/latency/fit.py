"""Fit a form of the model to latencies, and say how wrong it is on networks it never saw."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from ....errors import SpecError
from .forms import Counts, Form

#: A parameter that a fit does not need goes to one of these ends, where it changes nothing.
_RANGE = math.log(1e4)
#: Residuals of a logarithm beyond which a network counts less.
_SOFT = 0.1
_STARTS = (0.0, -1.0, 1.0)


_INSTALL = "pip install 'scipy>=1.9'"


def _scipy(name: str) -> Any:
    """A module of SciPy, which fits need and estimates do not."""
    try:
        return import_module(f'scipy.{name}')
    except ImportError as error:
        raise SpecError(f'cannot import scipy ({error}); fits need it: {_INSTALL}') from error


@dataclass(frozen=True)
class Sample:
    """One network and its latency.

    Attributes:
        name: of the network.
        counted: of its file.
        ms: as measured.
        has_attention: products of two maps, of which the guide's author knows no analytic form
            (ch. 18). Such a network is predicted, and fits nothing.
    """

    name: str
    counted: Counts
    ms: float
    has_attention: bool = False


def fit(form: Form, samples: Sequence[Sample]) -> dict[str, float]:
    """Fit all parameters by least squares on relative errors of networks without attention.

    Errors are differences of logarithms, softened beyond 10 %; parameters are logarithms too, hence
    positive. The best of several starts.

    Raises:
        SpecError: fewer samples than parameters.
    """
    used = [s for s in samples if not s.has_attention]
    if len(used) < len(form.parameters):
        raise SpecError(
            f'{len(used)} latencies for the {len(form.parameters)} parameters of '
            f'{form.name!r}; at least as many are needed'
        )
    start = np.log([p.start for p in form.parameters])

    # All networks as one list of layers: a call of the form is then one for all of them.
    counted = Counts(*map(np.concatenate, zip(*(s.counted for s in used))))
    firsts = np.cumsum([0, *(len(s.counted.macs) for s in used[:-1])])
    measured = np.array([s.ms for s in used])

    def residuals(logs: np.ndarray) -> np.ndarray:
        values = _named(form, logs)
        layers = np.add.reduceat(form.layer_ms(counted, values), firsts)
        return np.log((values['floor'] + layers) / measured)

    found = [
        _scipy('optimize').least_squares(
            residuals,
            start + shift,
            bounds=(start - _RANGE, start + _RANGE),
            loss='soft_l1',
            f_scale=_SOFT,
        )
        for shift in _STARTS
    ]
    return _named(form, min(found, key=lambda f: f.cost).x)


def fit_scale(
    form: Form, values: Mapping[str, float], samples: Sequence[Sample]
) -> tuple[dict[str, float], str]:
    """Fit the floor and a common scale of all layers, or with one sample one scale of both.

    Args:
        values: to begin from.
        samples: at least one.

    Returns:
        tuple: the parameters, and what was fitted in words.
    """
    layers = [form.total_ms(s.counted, values) - values['floor'] for s in samples]

    def predicted(logs: np.ndarray) -> list[float]:
        floor, scale = np.exp(logs[0]) * values['floor'], np.exp(logs[-1])
        return [floor + scale * ms for ms in layers]

    def residuals(logs: np.ndarray) -> list[float]:
        return [math.log(ms / s.ms) for ms, s in zip(predicted(logs), samples)]

    # Of one network nobody can tell floor and layers apart.
    count = 2 if len(set(layers)) > 1 else 1
    optimize = _scipy('optimize')
    logs = optimize.least_squares(residuals, np.zeros(count), bounds=(-_RANGE, _RANGE)).x
    floor, scale = float(np.exp(logs[0])), float(np.exp(logs[-1]))
    words = (
        f'one scale of {scale:.2f}'
        if count == 1
        else (f'floor of {floor * values["floor"]:.2f} ms and scale of {scale:.2f} for all layers')
    )
    return _scaled(form, values, floor, scale), words


def _scaled(
    form: Form, values: Mapping[str, float], floor: float, scale: float
) -> dict[str, float]:
    """Parameters with which every layer takes ``scale`` times as long."""
    found = {}
    for parameter in form.parameters:
        is_rate = parameter.unit.endswith('/s')
        factor = floor if parameter.name == 'floor' else 1 / scale if is_rate else scale
        found[parameter.name] = values[parameter.name] * factor
    return found


def _named(form: Form, logs: np.ndarray) -> dict[str, float]:
    return {p.name: float(math.exp(v)) for p, v in zip(form.parameters, logs)}


@dataclass(frozen=True)
class Quality:
    """How a form does on networks that were left out of its fit, one at a time.

    Attributes:
        form: its name.
        values: fitted to all.
        predicted: network to ms, by the fit without it.
        measured: network to ms.
    """

    form: str
    values: Mapping[str, float]
    predicted: Mapping[str, float]
    measured: Mapping[str, float]

    @property
    def errors(self) -> dict[str, float]:
        """Signed relative errors: 0.2 is predicted 20 % too long."""
        return {n: self.predicted[n] / ms - 1 for n, ms in self.measured.items()}

    @property
    def median_error(self) -> float:
        """Median of the absolute relative errors."""
        return median(map(abs, self.errors.values()))

    @property
    def spearman(self) -> float:
        """Rank correlation of predicted and measured."""
        names = list(self.measured)
        pairs = [self.predicted[n] for n in names], [self.measured[n] for n in names]
        return float(_scipy('stats').spearmanr(*pairs).statistic)


def leave_one_out(form: Form, samples: Sequence[Sample]) -> Quality:
    """Predict each network by a fit to all others.

    Raises:
        SpecError: too few samples.
    """
    predicted = {}
    for i, left_out in enumerate(samples):
        values = fit(form, [*samples[:i], *samples[i + 1 :]])
        predicted[left_out.name] = form.total_ms(left_out.counted, values)
    measured = {s.name: s.ms for s in samples}
    return Quality(form.name, fit(form, samples), predicted, measured)
