"""Operations that the engine computes otherwise than in fp32, rounded once.

Products (``conv``, ``conv_transpose``, ``linear``, ``matmul``, ``einsum``) leave through the port
of :mod:`.sums`, sums over axes are those of its lanes, and functions of one number are those of
:mod:`.tables`. All else is computed in fp32 and rounded: in fp16 arithmetic, too.

Lanes are added one by one in every sum and mean over axes, and in products where there are few: at
most :data:`FEW` numbers to add for a sample, in ``linear``, ``matmul`` and in 1x1 convolutions of
pooled maps. Elsewhere a product is one sum in fp32. What that leaves out is less than 3 x 2^-11 of
the sum of absolute products: each of three additions in a tile rounds two numbers by at most 2^-12
of the larger one. It also leaves out partial sums beyond 2^15 of which the end is smaller.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Optional

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ....errors import ProgramError
from ....utils.parity import FP16_OVERFLOWS
from ...program.graph import Operation, Value
from ..ops.elementwise import over_axes
from ..ops.registry import Op
from ..ops.shared import along, choice, slices
from .chips import Numerics
from .sums import PORT_OVERFLOWS, flattened, lane_sum, product_sum, settled
from .tables import (
    LOG_OF_0,
    Function,
    Tables,
    gelu_knots,
    odd,
    sigmoid_knots,
    silu_knots,
    tanh_knots,
)

#: Products of a sample that are added lane by lane: a head of 1000 classes on 2048 channels.
FEW = 2**21
_SLICE_OVERFLOWS = 4095.0  # times 16 rounds to infinity
#: Beyond all fp16 numbers, and finite.
_FAR = 2.0**17

_Rule = Callable[[Op, Operation, Numerics], Op]


def engine_kind(kind: Op, operation: Operation, numerics: Numerics, tables: Tables) -> Op:
    """What computes an operation on the engine; ``kind`` itself where fp32 does.

    Raises:
        ProgramError: a parameter of a function is not one constant, or the table of its values
            takes too much memory.
    """
    if operation.type in FUNCTIONS:
        return _looked_up(kind, operation, tables)
    rule = RULES.get(operation.type)
    return kind if rule is None else rule(kind, operation, numerics)


def overflows_at(operation: Operation, numerics: Numerics) -> float:
    """From where on results of an operation become infinite."""
    saturates = bool(numerics.saturates.value) and operation.type in PRODUCTS
    return PORT_OVERFLOWS if saturates and _has_taps(operation) else FP16_OVERFLOWS


def _has_taps(operation: Operation) -> bool:
    """Whether the port saturates: not behind a convolution that only scales its channels."""
    weight = operation.inputs.get('weight')
    if operation.type != 'conv' or weight is None or isinstance(weight, Value):
        return True
    return math.prod(np.shape(weight)[1:]) > 1


def _replaced(kind: Op, function: Callable[..., Any], fresh: bool = True) -> Op:
    """As ``kind`` in what is known of it, with other values, in new tensors if ``fresh``."""
    return replace(
        kind,
        function=functools.wraps(kind.function)(function),
        selects=False,
        fresh=fresh,
        in_place=None,
    )


class _Port:
    """What products of an operation go through on a chip.

    Attributes:
        factor: what the second operand is multiplied by, so that sums overflow where they should.
    """

    def __init__(self, operation: Operation, numerics: Numerics):
        self._doubled = bool(numerics.saturates.value) and _has_taps(operation)
        self._flushes = bool(numerics.flushes.value)
        self.factor = 2.0 if self._doubled else 1.0

    def wide(self, total: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """The end of one sum in fp32, with the factor in it."""
        return settled(total, bias, self._doubled, self._flushes)

    def lanes(self, x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        """``x @ weight`` lane by lane: (..., k, n) and (..., n, m) to (..., k, m)."""
        products = x.float().unsqueeze(-1) * weight.float().unsqueeze(-3)
        # Lanes of what only scales have all of fp16's range.
        summed = product_sum if self._doubled else lane_sum
        return self.wide(summed(products).mul_(self.factor), bias)


def _conv(kind: Op, operation: Operation, numerics: Numerics) -> Op:
    port = _Port(operation, numerics)

    def conv(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, **window: Any) -> Tensor:
        offset = None if bias is None else along(bias, 1, x.dim())
        dense = x.shape[1] == weight.shape[1] and not any(window.get('pad') or ())
        pooled = {*x.shape[2:], *weight.shape[2:]} == {1}
        if dense and pooled and _few(x.shape[0], *weight.shape[:2]):
            found = port.lanes(x.flatten(1), weight.flatten(1).t().contiguous(), bias)
            return found.reshape(*found.shape, *x.shape[2:])
        return port.wide(kind.function(x, weight * port.factor, None, **window), offset)

    return _replaced(kind, conv)


def _conv_transpose(kind: Op, operation: Operation, numerics: Numerics) -> Op:
    port = _Port(operation, numerics)

    def transposed(
        x: Tensor, weight: Tensor, bias: Optional[Tensor] = None, **window: Any
    ) -> Tensor:
        offset = None if bias is None else along(bias, 1, x.dim())
        return port.wide(kind.function(x, weight * port.factor, None, **window).clone(), offset)

    return _replaced(kind, transposed)


def _linear(kind: Op, operation: Operation, numerics: Numerics) -> Op:
    port = _Port(operation, numerics)

    def linear(x: Tensor, weight: Tensor, bias: Optional[Tensor] = None) -> Tensor:
        if x.dim() > 1 and _few(x.numel(), len(weight)):
            return port.lanes(x, weight.t().contiguous(), bias)
        return port.wide(kind.function(x, weight * port.factor), bias)

    return _replaced(kind, linear)


def _matmul(kind: Op, operation: Operation, numerics: Numerics) -> Op:
    port = _Port(operation, numerics)

    def matmul(
        x: Tensor, y: Tensor, transpose_x: bool = False, transpose_y: bool = False
    ) -> Tensor:
        # Of vectors, torch's rules are those of the operation.
        if min(x.dim(), y.dim()) > 1:
            left = x.transpose(-1, -2) if transpose_x else x
            right = y.transpose(-1, -2) if transpose_y else y
            batch = torch.broadcast_shapes(left.shape[:-2], right.shape[:-2])
            if _few(*batch, *left.shape[-2:], right.shape[-1]):
                return port.lanes(left, right)
        return port.wide(kind.function(x, y * port.factor, transpose_x, transpose_y))

    return _replaced(kind, matmul)


def _einsum(kind: Op, operation: Operation, numerics: Numerics) -> Op:
    port = _Port(operation, numerics)

    def einsum(values: Sequence[Tensor], equation: str) -> Tensor:
        x, y = values
        return port.wide(kind.function([x, y * port.factor], equation).clone())

    return _replaced(kind, einsum)


def _few(*sizes: int) -> bool:
    return math.prod(sizes) <= FEW


def _over_lanes(
    before: Callable[[Tensor], Tensor], after: Callable[[Tensor, int], Tensor]
) -> _Rule:
    def summed(x: Tensor, axes: tuple[int, ...]) -> Tensor:
        # In a .mlmodel sizes may be numbers, too.
        lanes = flattened(before(x.float()), axes)
        return after(lane_sum(lanes), len(lanes))

    return lambda kind, operation, numerics: _replaced(kind, over_axes(summed))


def _as_is(x: Tensor) -> Tensor:
    return x


def _sum(total: Tensor, count: int) -> Tensor:
    return total


def _mean(total: Tensor, count: int) -> Tensor:
    return total / count


def _root(total: Tensor, count: int) -> Tensor:
    return total.sqrt()


class _Function(NamedTuple):
    """A function of ``x``.

    Attributes:
        make: gives it for the value of the parameter.
        reads: the one parameter that it has; '' for none.
    """

    make: Callable[..., Function]
    reads: str = ''


def _looked_up(kind: Op, operation: Operation, tables: Tables) -> Op:
    make, reads = FUNCTIONS[operation.type]
    given = (_constant(kind, operation, reads),) if reads else ()
    lookup = tables.of(operation.type, given, functools.partial(make, *given))
    return _replaced(kind, lambda x, **_: lookup(x))


def _constant(kind: Op, operation: Operation, name: str) -> Any:
    """A parameter that is one number or one word."""
    default = inspect.signature(kind.function).parameters[name].default
    value = operation.inputs.get(name, default)
    if isinstance(value, Value) or np.size(value) != 1:
        raise ProgramError(f'{name} is not one constant, as the Neural Engine needs it')
    return np.asarray(value).item()


_GELUS = {
    'EXACT': F.gelu,
    'TANH_APPROXIMATION': functools.partial(F.gelu, approximate='tanh'),
    'SIGMOID_APPROXIMATION': lambda x: x * torch.sigmoid(1.702 * x),
}


def _gelu(mode: str) -> Function:
    return gelu_knots(choice('gelu mode', mode, _GELUS))


def _shifted(function: Function, epsilon: float) -> Function:
    """A function of ``x + epsilon``, where that is added in fp16."""
    return lambda x: function((x + float(epsilon)).half().float())


def _log(x: Tensor) -> Tensor:
    return torch.where(x == 0, LOG_OF_0, torch.log(x))


def _softplus(x: Tensor) -> Tensor:
    return torch.where(x == torch.inf, 0.0, F.softplus(x, threshold=_FAR))


def _softmax(kind: Op, operation: Operation, numerics: Numerics) -> Op:
    def softmax(x: Tensor, axis: int = -1) -> Tensor:
        # All goes to what is infinite: the largest number is subtracted first.
        return torch.softmax(x.clamp(-_FAR, _FAR), axis)

    return _replaced(kind, softmax)


def _slice(kind: Op, operation: Operation, numerics: Numerics) -> Op:
    """Slices that begin behind the start of the last axis, on chips where these overflow."""
    begins = _BEGINS[operation.type]

    def cut(x: Tensor, **where: Any) -> Tensor:
        part = kind.function(x, **where)
        if not part.is_floating_point() or not begins(x, **where):
            return part
        return torch.where(part.abs() < _SLICE_OVERFLOWS, part, part * torch.inf)

    return _replaced(kind, cut, fresh=False) if numerics.slice_overflows.value else kind


def _by_index(x: Tensor, begin: Any, end: Any, **how: Any) -> bool:
    taken = slices(x.shape, begin, end, **how)[-1]
    return len(taken) > 0 and taken[0] > 0


def _by_size(x: Tensor, begin: Any, size: Any) -> bool:
    return int(begin[-1]) != 0


def _cropped(x: Tensor, crop_height: Any, crop_width: Any) -> bool:
    return int(crop_width[0]) > 0


_BEGINS: dict[str, Callable[..., bool]] = {
    'slice_by_index': _by_index,
    'slice_by_size': _by_size,
    'crop': _cropped,
}
PRODUCTS: dict[str, _Rule] = {
    'conv': _conv,
    'conv_transpose': _conv_transpose,
    'linear': _linear,
    'matmul': _matmul,
    'einsum': _einsum,
}
RULES: dict[str, _Rule] = {
    **PRODUCTS,
    **dict.fromkeys(_BEGINS, _slice),
    'reduce_sum': _over_lanes(_as_is, _sum),
    'reduce_mean': _over_lanes(_as_is, _mean),
    'reduce_l1_norm': _over_lanes(torch.abs, _sum),
    'reduce_l2_norm': _over_lanes(torch.square, _root),
    'reduce_sum_square': _over_lanes(torch.square, _sum),
    'softmax': _softmax,
}
#: Functions of one number.
FUNCTIONS: dict[str, _Function] = {
    'gelu': _Function(_gelu, 'mode'),
    'inverse': _Function(functools.partial(_shifted, torch.reciprocal), 'epsilon'),
    'log': _Function(functools.partial(_shifted, _log), 'epsilon'),
    'rsqrt': _Function(functools.partial(_shifted, torch.rsqrt), 'epsilon'),
    'sigmoid': _Function(sigmoid_knots),
    'silu': _Function(silu_knots),
    'softplus': _Function(lambda: _softplus),
    # infinity / infinity, which is 0, as measured
    'softsign': _Function(lambda: F.softsign),
    'tanh': _Function(lambda: odd(tanh_knots())),
}
