"""Functions of one number: tables of 33 knots, and what becomes of 0, infinity and NaN.

Published (chapters 3 and 26): a function is 33 knots at equal distances, 32 differences between
them, and asymptotes beyond; the worst errors of sigmoid, tanh and GELU, the ends of sigmoid's
knots, and what GELU and SiLU are at 0. The knots themselves are not published. Ours are the
function less a fraction of its second difference, which is what a fit does that lies between an
interpolation (0) and one of least squares (1/12): fraction and ends are solved for, so that all
published figures come out. So a table is right in the size of its errors, not in their places.

An fp16 number has 65 536 values, so every function is a list of as many, whatever it is.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ...program.budget import Ledger

Function = Callable[[Tensor], Tensor]

#: Worst absolute errors, chapter 3.
SIGMOID_ERROR, TANH_ERROR, GELU_ERROR = 0.0034, 0.0017, 0.0059
#: Values at 0, chapter 3.
GELU_AT_0, SILU_AT_0 = -0.000543, -0.001259
#: Ends of sigmoid's knots, chapter 3. The upper one is where it rounds to 1 in fp16.
SIGMOID_ENDS = (-9.938, 8.320)
#: The logarithm of 0, chapter 3.
LOG_OF_0 = -45440.0
_SEGMENTS = 32
_HALVES = 2**16
_BYTES = 4 * _HALVES  # of a table


class Lookup:
    """A function as the list of its values at all fp16 numbers.

    What is NaN becomes 0, and NaN itself is taken as infinity.

    Args:
        function: of fp32 numbers; it sees every fp16 number but NaN and -0.
    """

    def __init__(self, function: Function):
        bits = torch.arange(_HALVES, dtype=torch.int32).to(torch.int16)
        x = bits.view(torch.float16).float()
        x = torch.where(x.isnan(), torch.inf, x) + 0.0  # -0 + 0 is 0
        values = function(x).float()
        values = torch.where(values.isnan(), 0.0, values)
        self._values = values.half().float()

    def __call__(self, x: Tensor) -> Tensor:
        """The function of fp16 numbers in fp32."""
        return _LookedUp.apply(self._values.to(x.device), x)


class Tables:
    """The tables of one program, each made once and its bytes counted.

    Args:
        ledger: takes the bytes.
    """

    def __init__(self, ledger: Ledger):
        self._ledger = ledger
        self._made: dict[tuple[Any, ...], Lookup] = {}

    def of(self, name: str, given: tuple[Any, ...], make: Callable[[], Function]) -> Lookup:
        """The table of a function.

        Args:
            name: of the operation.
            given: values of its parameters.
            make: gives the function.

        Raises:
            ProgramError: it takes more memory than is left.
        """
        key = (name, *given)
        if key not in self._made:
            self._ledger.hold(_BYTES, f'the table of operation {name!r}')
            self._made[key] = Lookup(make())
        return self._made[key]


class _LookedUp(torch.autograd.Function):
    """Values of a table at fp16 numbers: of a whole batch at once, unlike torch's own rule."""

    @staticmethod
    def forward(values: Tensor, x: Tensor) -> Tensor:
        # Maps have their channels innermost in memory, and are to keep them there.
        is_map = x.dim() > 3
        inner = x.movedim(-3, -1) if is_map else x
        places = inner.half().view(torch.int16).int().bitwise_and_(_HALVES - 1)
        found = values.index_select(0, places.reshape(-1)).view(places.shape)
        return found.movedim(-1, -3) if is_map else found

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: tables have no gradient."""

    @staticmethod
    def vmap(info: Any, in_dims: tuple[None, int], values: Tensor, x: Tensor) -> Any:
        return _LookedUp.apply(values, x), in_dims[1]


@dataclass(frozen=True)
class Knots:
    """A piecewise linear function between equidistant knots.

    Attributes:
        function: what it stands for, of float64 numbers.
        low, high: the first and the last knot.
        fraction: of the second difference, by which knots lie off the function.
        below, above: what it is beyond the knots.
    """

    function: Function
    low: float
    high: float
    fraction: float
    below: Function
    above: Function

    def __call__(self, x: Tensor) -> Tensor:
        """The piecewise linear function of ``x``, in float64; knots are stored in fp16."""
        x, knots = x.double(), self._knots()
        inside = self._between(x, _half(knots), _half(knots.diff()))
        outside = torch.where(x < self.low, self.below(x), self.above(x))
        return torch.where((x >= self.low) & (x <= self.high), inside, outside)

    def worst_error(self) -> float:
        """Largest absolute error between the knots, before anything is rounded."""
        x, knots = torch.linspace(self.low, self.high, 10_001, dtype=torch.float64), self._knots()
        return float((self._between(x, knots, knots.diff()) - self.function(x)).abs().max())

    @property
    def _step(self) -> float:
        return (self.high - self.low) / _SEGMENTS

    def _knots(self) -> Tensor:
        at = torch.linspace(self.low, self.high, _SEGMENTS + 1, dtype=torch.float64)
        before, here, after = (self.function(at + k * self._step) for k in (-1, 0, 1))
        return here - self.fraction * (before - 2 * here + after)

    def _between(self, x: Tensor, knots: Tensor, slopes: Tensor) -> Tensor:
        place = (x.clamp(self.low, self.high) - self.low) / self._step
        segment = place.floor().clamp(0, _SEGMENTS - 1).long()
        return knots[segment] + slopes[segment] * (place - segment)


def _half(values: Tensor) -> Tensor:
    return values.half().double()


def _solved(goal: Callable[[float], float], low: float, high: float) -> float:
    """Where a rising function is 0, by bisection."""
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if goal(middle) > 0 else (middle, high)
    return (low + high) / 2


def _zero(x: Tensor) -> Tensor:
    return torch.zeros_like(x)


def _one(x: Tensor) -> Tensor:
    return torch.ones_like(x)


def _same(x: Tensor) -> Tensor:
    return x


def _fitted(make: Callable[[float], Knots], error: float) -> Knots:
    """The knots whose fraction of the second difference gives a worst error."""
    # The error between knots falls as they move towards the other side.
    return make(_solved(lambda fraction: error - make(fraction).worst_error(), 0.0, 1 / 24))


@functools.cache
def sigmoid_knots() -> Knots:
    """Ends as published; the fraction gives the published error."""
    return _fitted(
        lambda fraction: Knots(torch.sigmoid, *SIGMOID_ENDS, fraction, _zero, _one), SIGMOID_ERROR
    )


@functools.cache
def tanh_knots() -> Knots:
    """Knots for 0 and above, up to where tanh rounds to 1 in fp16; the fraction as sigmoid's."""
    end = math.atanh(1 - 2.0**-12)
    return _fitted(lambda fraction: Knots(torch.tanh, 0.0, end, fraction, _zero, _one), TANH_ERROR)


@functools.cache
def gelu_knots(function: Function = F.gelu) -> Knots:
    """Ends and fraction give the published error and the published value at 0.

    Args:
        function: GELU, or an approximation of it with the same knots.
    """
    end = _solved(lambda end: _gelu(F.gelu, end).worst_error() - GELU_ERROR, 2.0, 8.0)
    return _gelu(function, end)


def _gelu(function: Function, end: float) -> Knots:
    fraction = _fraction(F.gelu, end, GELU_AT_0)
    return Knots(function, -end, end, fraction, _zero, _same)


@functools.cache
def silu_knots() -> Knots:
    """No error is published: the fraction is GELU's, the ends give the published value at 0."""
    fraction = gelu_knots().fraction
    end = _solved(lambda end: fraction - _fraction(F.silu, end, SILU_AT_0), 2.0, 16.0)
    return Knots(F.silu, -end, end, fraction, _zero, _same)


def _fraction(function: Function, end: float, at_0: float) -> float:
    """Of the second difference, so that the middle one of the knots, at 0, has a value."""
    step = torch.tensor(2 * end / _SEGMENTS, dtype=torch.float64)
    return -at_0 / float(function(-step) + function(step))


def odd(half: Function) -> Function:
    """The odd function that is ``half`` above 0."""
    return lambda x: torch.where(x < 0, -half(-x), half(x))
