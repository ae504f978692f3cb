"""Neural network layers that compute element by element, as MIL.

Follows Apple's ``NeuralNetwork.proto``; see :mod:`.layers`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .nn_registry import Emitter, layer

_SAME_NAME = (
    'ceil',
    'floor',
    'sign',
    'round',
    'exp2',
    'sin',
    'cos',
    'tan',
    'asin',
    'acos',
    'atan',
    'sinh',
    'cosh',
    'tanh',
    'atanh',
    'erf',
)

_BINARY = {
    'addBroadcastable': 'add',
    'multiplyBroadcastable': 'mul',
    'subtractBroadcastable': 'sub',
    'divideBroadcastable': 'real_div',
    'floorDivBroadcastable': 'floor_div',
    'modBroadcastable': 'mod',
    'powBroadcastable': 'pow',
    'maxBroadcastable': 'maximum',
    'minBroadcastable': 'minimum',
    'max': 'maximum',
    'min': 'minimum',
}

_REDUCE = {
    'reduceL1': 'reduce_l1_norm',
    'reduceL2': 'reduce_l2_norm',
    'reduceMax': 'reduce_max',
    'reduceMin': 'reduce_min',
    'reduceSum': 'reduce_sum',
    'reduceProd': 'reduce_prod',
    'reduceMean': 'reduce_mean',
    'reduceLogSum': 'reduce_log_sum',
    'reduceSumSquare': 'reduce_sum_square',
    'reduceLogSumExp': 'reduce_log_sum_exp',
}

_UNARY = {0: 'sqrt', 1: 'rsqrt', 2: 'inverse', 4: 'exp', 5: 'log', 6: 'abs'}

_COMPARE = {
    'equal': 'equal',
    'notEqual': 'not_equal',
    'lessThan': 'less',
    'lessEqual': 'less_equal',
    'greaterThan': 'greater',
    'greaterEqual': 'greater_equal',
}


@layer(*_SAME_NAME)
def same_name(emit: Emitter) -> None:
    """Layers named as their MIL operation."""
    emit.emit(emit.kind, x=emit.source())


@layer('unary')
def unary(emit: Emitter) -> None:
    """``f(scale * x + shift)`` with one of eight functions."""
    p = emit.params
    x = emit.source()
    # Documented default of scale: 1.
    scale = p.scale or 1.0
    if (scale, p.shift) != (1.0, 0.0):
        x = emit.emit(
            'linear_activation', False, x=x, alpha=scale, beta=p.shift
        )
    if p.type == p.POWER:
        emit.emit('pow', x=x, y=np.float32(p.alpha))
    elif p.type == p.THRESHOLD:
        emit.emit('threshold', x=x, alpha=p.alpha)
    elif p.type in (p.RSQRT, p.INVERSE):
        emit.emit(_UNARY[p.type], x=x, epsilon=p.epsilon)
    elif p.type == p.LOG:
        emit.emit('log', x=x, epsilon=0.0)
    else:
        emit.emit(_UNARY[p.type], x=x)


@layer('add', 'multiply')
def add_or_multiply(emit: Emitter) -> None:
    """Sum or product of the inputs; of one input, with ``alpha``."""
    op_type = 'add' if emit.kind == 'add' else 'mul'
    sources = emit.sources()
    if len(sources) == 1:
        sources = (*sources, np.float32(emit.params.alpha))
    _fold(emit, op_type, sources)


@layer(*_BINARY)
def binary(emit: Emitter) -> None:
    """Broadcast operation of two inputs; max and min of two or more."""
    _fold(emit, _BINARY[emit.kind], emit.sources())


def _fold(emit: Emitter, op_type: str, sources: tuple[Any, ...]) -> None:
    """Combine the sources pairwise from the left."""
    if len(sources) == 1:
        emit.emit('identity', x=sources[0])
        return
    left = sources[0]
    for index, right in enumerate(sources[1:], 2):
        last = index == len(sources)
        left = emit.emit(op_type, last, x=left, y=right)


@layer(*_COMPARE)
def compare(emit: Emitter) -> None:
    """1 where the comparison holds, else 0; of one input, with ``alpha``."""
    sources = emit.sources()
    if len(sources) == 1:
        sources = (*sources, np.float32(emit.params.alpha))
    x, y = sources
    holds = emit.emit(_COMPARE[emit.kind], False, x=x, y=y)
    # A neural network knows no booleans: its values are all floats.
    emit.emit('cast', x=holds, dtype='fp32')


@layer('clip')
def clip(emit: Emitter) -> None:
    """``clip``."""
    p = emit.params
    emit.emit('clip', x=emit.source(), alpha=p.minVal, beta=p.maxVal)


@layer('copy')
def copy(emit: Emitter) -> None:
    """``identity``."""
    emit.emit('identity', x=emit.source())


@layer(*_REDUCE)
def reduce(emit: Emitter) -> None:
    """``reduce_*`` over axes, or over all."""
    p = emit.params
    axes = None if p.reduceAll else [int(axis) for axis in p.axes]
    keep = bool(p.keepDims)
    emit.emit(_REDUCE[emit.kind], x=emit.source(), axes=axes, keep_dims=keep)
