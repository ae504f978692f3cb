"""Neural network layers with weights, poolings and activations, as MIL.

Follows Apple's ``NeuralNetwork.proto``. Each function translates one layer
kind to MIL operations; the parameters carry the names of the protobuf.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .nn_registry import Emitter, edges, layer

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
