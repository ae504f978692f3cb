"""Layers of a ``neuralnetwork`` that compute, as MIL operations.

Follows Apple's ``NeuralNetwork.proto``. Each function translates one layer
kind to MIL operations; the parameters carry the names of the protobuf.

Follows Apple's ``NeuralNetwork.proto``; see :mod:`.layers`.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .registry import Emitter, edges, layer

_POOLS = {0: 'max_pool', 1: 'avg_pool', 2: 'l2_pool'}
_GLOBAL_POOLS = {0: 'reduce_max', 1: 'reduce_mean', 2: 'reduce_l2_norm'}


def _padding(params: Any, kinds: str) -> dict[str, Any]:
    """MIL's ``pad_type`` and ``pad`` from a layer's padding oneof."""
    if params.WhichOneof(kinds) == 'same':
        upper_left = params.same.asymmetryMode == 1
        return {'pad_type': 'same_lower' if upper_left else 'same'}
    (top, bottom), (left, right) = edges(params.valid.paddingAmounts)
    return {'pad_type': 'custom', 'pad': [top, bottom, left, right]}


@layer('convolution')
def convolution(emit: Emitter) -> None:
    """``conv`` or, with ``isDeconvolution``, ``conv_transpose``."""
    p = emit.params
    if len(emit.sources()) != 1:
        raise emit.refuse('a weight computed at run time')
    groups = int(p.nGroups) or 1
    channels = p.outputChannels
    per_group = (p.kernelChannels, channels // groups)
    shape = per_group if p.isDeconvolution else (channels, per_group[0])
    shared = {
        'x': emit.source(),
        'weight': emit.weights(p.weights, (*shape, *p.kernelSize)),
        'bias': emit.weights(p.bias) if p.hasBias else None,
        'strides': list(p.stride) or [1, 1],
        'dilations': list(p.dilationFactor) or [1, 1],
        'groups': groups,
        **_padding(p, 'ConvolutionPaddingType'),
    }
    if not p.isDeconvolution:
        emit.emit('conv', **shared)
        return
    wanted = [1, channels, *p.outputShape] if p.outputShape else None
    emit.emit('conv_transpose', output_shape=wanted, **shared)


@layer('innerProduct')
def inner_product(emit: Emitter) -> None:
    """``linear``."""
    p = emit.params
    if p.int8DynamicQuantize:
        raise emit.refuse('int8 dynamic quantization')
    emit.emit(
        'linear',
        x=emit.source(),
        weight=emit.weights(p.weights, (p.outputChannels, p.inputChannels)),
        bias=emit.weights(p.bias) if p.hasBias else None,
    )


@layer('batchedMatmul')
def batched_matmul(emit: Emitter) -> None:
    """``matmul`` of two inputs, or ``linear`` with stored weights."""
    p = emit.params
    if len(emit.sources()) == 2:
        x, y = emit.sources()
        transposed = {'transpose_x': p.transposeA, 'transpose_y': p.transposeB}
        emit.emit('matmul', x=x, y=y, **transposed)
        return
    if p.int8DynamicQuantize or p.transposeA:
        raise emit.refuse('int8 dynamic quantization or transposeA')
    rows, columns = p.weightMatrixFirstDimension, p.weightMatrixSecondDimension
    emit.emit(
        'linear',
        x=emit.source(),
        weight=emit.weights(p.weights, (columns, rows)),
        bias=emit.weights(p.bias) if p.hasBias else None,
    )


@layer('batchnorm')
def batchnorm(emit: Emitter) -> None:
    """``batch_norm``, or ``instance_norm`` if that is asked for."""
    p = emit.params
    if p.computeMeanVar != p.instanceNormalization:
        raise emit.refuse('statistics over the batch')
    shared = {
        'x': emit.source(),
        'gamma': emit.weights(p.gamma),
        'beta': emit.weights(p.beta),
        'epsilon': p.epsilon,
    }
    if p.instanceNormalization:
        emit.emit('instance_norm', **shared)
        return
    mean, variance = emit.weights(p.mean), emit.weights(p.variance)
    emit.emit('batch_norm', mean=mean, variance=variance, **shared)


@layer('scale')
def scale(emit: Emitter) -> None:
    """``x * scale + bias``, both broadcast."""
    p = emit.params
    factor = emit.weights(p.scale, list(p.shapeScale))
    product = emit.emit('mul', not p.hasBias, x=emit.source(), y=factor)
    if p.hasBias:
        offset = emit.weights(p.bias, list(p.shapeBias))
        emit.emit('add', x=product, y=offset)


@layer('bias')
def bias(emit: Emitter) -> None:
    """``x + bias``, broadcast."""
    p = emit.params
    emit.emit('add', x=emit.source(), y=emit.weights(p.bias, list(p.shape)))


@layer('loadConstantND', 'loadConstant')
def load_constant(emit: Emitter) -> None:
    """A constant tensor."""
    emit.load(emit.weights(emit.params.data, list(emit.params.shape)))


@layer('mvn')
def mvn(emit: Emitter) -> None:
    """Zero mean, unit variance over (H, W), or over (C, H, W)."""
    p = emit.params
    if not p.normalizeVariance:
        raise emit.refuse('normalizing the mean alone')
    axes = [-3, -2, -1] if p.acrossChannels else [-2, -1]
    emit.emit('layer_norm', x=emit.source(), axes=axes, epsilon=p.epsilon)


@layer('lrn')
def lrn(emit: Emitter) -> None:
    """``local_response_norm``."""
    p = emit.params
    emit.emit(
        'local_response_norm',
        x=emit.source(),
        size=int(p.localSize),
        alpha=p.alpha,
        beta=p.beta,
        k=p.k,
    )


@layer('l2normalize')
def l2normalize(emit: Emitter) -> None:
    """``l2_norm``."""
    emit.emit('l2_norm', x=emit.source(), epsilon=emit.params.epsilon)


@layer('pooling')
def pooling(emit: Emitter) -> None:
    """``max_pool``, ``avg_pool``, ``l2_pool``, or global."""
    p = emit.params
    if p.globalPooling:
        mode = _GLOBAL_POOLS[p.type]
        emit.emit(mode, x=emit.source(), axes=[-2, -1], keep_dims=True)
        return
    inputs = {
        'x': emit.source(),
        'kernel_sizes': list(p.kernelSize),
        'strides': list(p.stride) or [1, 1],
    }
    if p.WhichOneof('PoolingPaddingType') == 'includeLastPixel':
        both = [int(n) for n in p.includeLastPixel.paddingAmounts] or [0, 0]
        pads = [both[0], both[0], both[1], both[1]]
        inputs.update(pad_type='custom', pad=pads, ceil_mode=True)
    else:
        inputs.update(_padding(p, 'PoolingPaddingType'))
    if _POOLS[p.type] == 'avg_pool':
        inputs['exclude_padding_from_average'] = p.avgPoolExcludePadding
    emit.emit(_POOLS[p.type], **inputs)


_ALPHA = ('alpha',)
_ALPHA_BETA = ('alpha', 'beta')

# Activation kind to (MIL operation, its scalar parameters).
_ACTIVATIONS: dict[str, tuple[str, tuple[str, ...]]] = {
    'linear': ('linear_activation', _ALPHA_BETA),
    'ReLU': ('relu', ()),
    'leakyReLU': ('leaky_relu', _ALPHA),
    'thresholdedReLU': ('thresholded_relu', _ALPHA),
    'tanh': ('tanh', ()),
    'scaledTanh': ('scaled_tanh', _ALPHA_BETA),
    'sigmoid': ('sigmoid', ()),
    'sigmoidHard': ('sigmoid_hard', _ALPHA_BETA),
    'ELU': ('elu', _ALPHA),
    'softsign': ('softsign', ()),
    'softplus': ('softplus', ()),
}


@layer('activation')
def activation(emit: Emitter) -> None:
    """One of Core ML's activations."""
    kind = str(emit.params.WhichOneof('NonlinearityType'))
    p = getattr(emit.params, kind)
    x = emit.source()
    if kind == 'PReLU':
        emit.emit('prelu', x=x, alpha=_vector(emit, p.alpha))
    elif kind == 'parametricSoftplus':
        alpha, beta = _vector(emit, p.alpha), _vector(emit, p.beta)
        emit.emit('softplus_parametric', x=x, alpha=alpha, beta=beta)
    else:
        op_type, names = _ACTIVATIONS[kind]
        emit.emit(op_type, x=x, **{name: getattr(p, name) for name in names})


def _vector(emit: Emitter, params: Any) -> np.ndarray[Any, Any]:
    return emit.weights(params).reshape(-1)


@layer('clampedReLU')
def clamped_relu(emit: Emitter) -> None:
    """``clamped_relu``."""
    p = emit.params
    emit.emit('clamped_relu', x=emit.source(), alpha=p.alpha, beta=p.beta)


@layer('gelu')
def gelu(emit: Emitter) -> None:
    """``gelu``."""
    mode = emit.params.GeluMode.Name(emit.params.mode)
    emit.emit('gelu', x=emit.source(), mode=mode)


@layer('softmaxND')
def softmax_nd(emit: Emitter) -> None:
    """``softmax`` over any axis."""
    emit.emit('softmax', x=emit.source(), axis=int(emit.params.axis))


@layer('softmax')
def softmax(emit: Emitter) -> None:
    """``softmax`` over channels, axis -3."""
    emit.emit('softmax', x=emit.source(), axis=-3)


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
        x = emit.emit('linear_activation', False, x=x, alpha=scale, beta=p.shift)
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
