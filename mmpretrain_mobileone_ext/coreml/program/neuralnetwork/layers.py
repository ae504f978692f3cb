"""Layers of a ``neuralnetwork`` as MIL operations.

Follows Apple's ``NeuralNetwork.proto``, whose names its fields keep. A layer that is one operation
is one line; a function translates any other.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .registry import Emitter, direct, edges, layer

_POOLS = {0: 'max_pool', 1: 'avg_pool', 2: 'l2_pool'}
_GLOBAL_POOLS = {0: 'reduce_max', 1: 'reduce_mean', 2: 'reduce_l2_norm'}
_ACTIVATIONS = {
    'linear': 'linear_activation',
    'ReLU': 'relu',
    'leakyReLU': 'leaky_relu',
    'thresholdedReLU': 'thresholded_relu',
    'PReLU': 'prelu',
    'tanh': 'tanh',
    'scaledTanh': 'scaled_tanh',
    'sigmoid': 'sigmoid',
    'sigmoidHard': 'sigmoid_hard',
    'ELU': 'elu',
    'softsign': 'softsign',
    'softplus': 'softplus',
    'parametricSoftplus': 'softplus_parametric',
}
_BINARY = {
    'add': 'add',
    'multiply': 'mul',
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

_SLICE_AXIS = {0: -3, 1: -2, 2: -1}
_UPSAMPLE = {0: 'DEFAULT', 1: 'STRICT_ALIGN_CORNERS', 2: 'UNALIGN_CORNERS'}
_RESIZE = {0: 'STRICT_ALIGN_CORNERS', 1: 'ALIGN_CORNERS', 2: 'DEFAULT', 3: 'OFFSET_CORNERS'}
_REORGANIZE = {
    0: ('space_to_depth', 'block_size'),
    1: ('depth_to_space', 'block_size'),
    2: ('pixel_shuffle', 'upscale_factor'),
}
_SLICE = {'begin_mask': 'beginMasks', 'end_mask': 'endMasks', 'squeeze_mask': 'squeezeMasks'}

direct('clampedReLU', 'clamped_relu', alpha='alpha', beta='beta')
direct('clip', 'clip', alpha='minVal', beta='maxVal')
direct('concatND', 'concat', '*values', axis='axis', interleave='interleave')
direct('copy', 'identity')
direct('expandDims', 'expand_dims', axes='axes')
direct('flattenTo2D', 'flatten2d', axis='axis')
direct('gather', 'gather', 'x indices', axis='axis')
direct('getShape', 'shape')  # read where the input size is flexible
direct('l2normalize', 'l2_norm', epsilon='epsilon')
direct('lrn', 'local_response_norm', size='localSize', alpha='alpha', beta='beta', k='k')
direct('rankPreservingReshape', 'reshape', shape='targetShape')
direct('reshapeDynamic', 'reshape', 'x shape')
direct('reshapeStatic', 'reshape', shape='targetShape')
direct('sliceDynamic', 'slice_by_index', 'x begin end', stride='strides', **_SLICE)
direct('sliceStatic', 'slice_by_index', begin='beginIds', end='endIds', stride='strides', **_SLICE)
direct('softmaxND', 'softmax', axis='axis')
direct('splitND', 'split', axis='axis', num_splits='numSplits', split_sizes='splitSizes')
direct('stack', 'stack', '*values', axis='axis')
direct('tile', 'tile', reps='reps')
direct('transpose', 'transpose', perm='axes')
for _name in (
    *('ceil', 'floor', 'round', 'sign', 'exp2', 'erf', 'sin', 'cos', 'tan'),
    *('asin', 'acos', 'atan', 'sinh', 'cosh', 'tanh', 'atanh'),
):
    direct(_name, _name)


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
        'bias': emit.bias(),
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
        bias=emit.bias(),
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
        'linear', x=emit.source(), weight=emit.weights(p.weights, (columns, rows)), bias=emit.bias()
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


@layer('activation')
def activation(emit: Emitter) -> None:
    """One of Core ML's activations; their fields are parameters of the operation."""
    kind = str(emit.params.WhichOneof('NonlinearityType'))
    p = getattr(emit.params, kind)
    given = {field.name: getattr(p, field.name) for field in p.DESCRIPTOR.fields}
    params: dict[str, Any] = {
        name: value if isinstance(value, float) else emit.weights(value).reshape(-1)
        for name, value in given.items()
    }
    emit.emit(_ACTIVATIONS[kind], x=emit.source(), **params)


@layer('gelu')
def gelu(emit: Emitter) -> None:
    """``gelu``."""
    mode = emit.params.GeluMode.Name(emit.params.mode)
    emit.emit('gelu', x=emit.source(), mode=mode)


@layer('softmax')
def softmax(emit: Emitter) -> None:
    """``softmax`` over channels, axis -3."""
    emit.emit('softmax', x=emit.source(), axis=-3)


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


@layer(*_BINARY)
def binary(emit: Emitter) -> None:
    """An operation of two inputs, or of more, pairwise from the left."""
    op_type, (left, *others) = _BINARY[emit.kind], emit.sources()
    if not others and emit.kind in ('add', 'multiply'):
        others = [np.float32(emit.params.alpha)]
    if not others:
        emit.emit('identity', x=left)
    for index, right in enumerate(others, 1):
        left = emit.emit(op_type, index == len(others), x=left, y=right)


@layer(*_COMPARE)
def compare(emit: Emitter) -> None:
    """1 where the comparison holds, else 0; of one input, with ``alpha``."""
    x, *others = emit.sources()
    (y,) = others or [np.float32(emit.params.alpha)]
    holds = emit.emit(_COMPARE[emit.kind], False, x=x, y=y)
    # A neural network knows no booleans: its values are all floats.
    emit.emit('cast', x=holds, dtype='fp32')


@layer(*_REDUCE)
def reduce(emit: Emitter) -> None:
    """``reduce_*`` over axes, or over all."""
    p = emit.params
    axes = None if p.reduceAll else [int(axis) for axis in p.axes]
    keep = bool(p.keepDims)
    emit.emit(_REDUCE[emit.kind], x=emit.source(), axes=axes, keep_dims=keep)


@layer('squeeze')
def squeeze(emit: Emitter) -> None:
    """``squeeze`` of axes, or of all."""
    p = emit.params
    axes = None if p.squeezeAll else list(p.axes)
    emit.emit('squeeze', x=emit.source(), axes=axes)


@layer('concat')
def concat(emit: Emitter) -> None:
    """``concat`` over channels."""
    if emit.params.sequenceConcat:
        raise emit.refuse('concatenation of sequences')
    emit.emit('concat', values=emit.sources(), axis=-3)


@layer('slice')
def slice_one(emit: Emitter) -> None:
    """``x[..., start:end:stride, ...]`` on C, H or W."""
    p = emit.params
    emit.emit(
        'slice_axis',
        x=emit.source(),
        axis=_SLICE_AXIS[p.axis],
        begin=int(p.startIndex),
        end=int(p.endIndex),
        stride=int(p.stride) or 1,
    )


@layer('padding')
def padding(emit: Emitter) -> None:
    """``pad`` of (H, W)."""
    p = emit.params
    kind = p.WhichOneof('PaddingType')
    modes = {'reflection': 'reflect', 'replication': 'replicate'}
    emit.emit(
        'pad',
        x=emit.source(),
        pad=[n for pair in edges(p.paddingAmounts) for n in pair],
        mode=modes.get(kind, 'constant'),
        constant_val=p.constant.value if kind == 'constant' else 0.0,
    )


@layer('crop')
def crop(emit: Emitter) -> None:
    """``crop`` of (H, W) by border amounts."""
    if len(emit.sources()) != 1:
        raise emit.refuse('cropping to the size of another input')
    height, width = edges(emit.params.cropAmounts)
    emit.emit('crop', x=emit.source(), crop_height=height, crop_width=width)


@layer('constantPad')
def constant_pad(emit: Emitter) -> None:
    """``pad`` of every dimension with a constant."""
    p = emit.params
    if p.padToGivenOutputSizeMode or len(emit.sources()) != 1:
        raise emit.refuse('padding to a given output size')
    amounts = [int(n) for n in p.padAmounts]
    emit.emit('pad', x=emit.source(), pad=amounts, constant_val=p.value)


@layer('upsample')
def upsample(emit: Emitter) -> None:
    """``upsample_nearest_neighbor`` or bilinear, by a mode."""
    p = emit.params
    height, width = p.fractionalScalingFactor or p.scalingFactor
    scales = {'scale_factor_height': height, 'scale_factor_width': width}
    x = emit.source()
    if p.mode == p.NN:
        emit.emit('upsample_nearest_neighbor', x=x, **scales)
        return
    sampling = _UPSAMPLE[p.linearUpsampleMode]
    emit.emit(
        'upsample_bilinear',
        x=x,
        align_corners=sampling == 'STRICT_ALIGN_CORNERS',
        half_pixel_centers=sampling == 'UNALIGN_CORNERS',
        **scales,
    )


@layer('resizeBilinear')
def resize_bilinear(emit: Emitter) -> None:
    """``resize_bilinear``."""
    height, width = emit.params.targetSize
    emit.emit(
        'resize_bilinear',
        x=emit.source(),
        target_size_height=int(height),
        target_size_width=int(width),
        sampling_mode=_RESIZE[emit.params.mode.samplingMethod],
    )


@layer('reorganizeData')
def reorganize(emit: Emitter) -> None:
    """``space_to_depth``, ``depth_to_space`` or ``pixel_shuffle``."""
    op_type, name = _REORGANIZE[emit.params.mode]
    inputs = {'x': emit.source(), name: int(emit.params.blockSize)}
    emit.emit(op_type, **inputs)
