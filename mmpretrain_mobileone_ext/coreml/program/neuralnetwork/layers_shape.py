"""Neural network layers that move data, as MIL.

Follows Apple's ``NeuralNetwork.proto``; see :mod:`.layers`.
"""

from __future__ import annotations

from .registry import Emitter, edges, layer

_SLICE_AXIS = {0: -3, 1: -2, 2: -1}
_UPSAMPLE = {0: 'DEFAULT', 1: 'STRICT_ALIGN_CORNERS', 2: 'UNALIGN_CORNERS'}
_RESIZE = {0: 'STRICT_ALIGN_CORNERS', 1: 'ALIGN_CORNERS', 2: 'DEFAULT', 3: 'OFFSET_CORNERS'}
_REORGANIZE = {
    0: ('space_to_depth', 'block_size'),
    1: ('depth_to_space', 'block_size'),
    2: ('pixel_shuffle', 'upscale_factor'),
}


@layer('reshapeStatic', 'rankPreservingReshape')
def reshape(emit: Emitter) -> None:
    """``reshape``."""
    shape = [int(n) for n in emit.params.targetShape]
    emit.emit('reshape', x=emit.source(), shape=shape)


@layer('getShape')
def get_shape(emit: Emitter) -> None:
    """``shape``; read where the input size is flexible."""
    emit.emit('shape', x=emit.source())


@layer('reshapeDynamic')
def reshape_dynamic(emit: Emitter) -> None:
    """``reshape`` to a shape computed at run time."""
    x, shape = emit.sources()
    emit.emit('reshape', x=x, shape=shape)


@layer('gather')
def gather(emit: Emitter) -> None:
    """``gather``."""
    x, indices = emit.sources()
    emit.emit('gather', x=x, indices=indices, axis=int(emit.params.axis))


@layer('flattenTo2D')
def flatten(emit: Emitter) -> None:
    """``flatten2d``."""
    emit.emit('flatten2d', x=emit.source(), axis=int(emit.params.axis))


@layer('squeeze')
def squeeze(emit: Emitter) -> None:
    """``squeeze`` of axes, or of all."""
    p = emit.params
    axes = None if p.squeezeAll else list(p.axes)
    emit.emit('squeeze', x=emit.source(), axes=axes)


@layer('expandDims')
def expand_dims(emit: Emitter) -> None:
    """``expand_dims``."""
    emit.emit('expand_dims', x=emit.source(), axes=list(emit.params.axes))


@layer('transpose')
def transpose(emit: Emitter) -> None:
    """``transpose``."""
    emit.emit('transpose', x=emit.source(), perm=list(emit.params.axes))


@layer('tile')
def tile(emit: Emitter) -> None:
    """``tile``."""
    if len(emit.sources()) != 1:
        raise emit.refuse('a repetition computed at run time')
    emit.emit('tile', x=emit.source(), reps=list(emit.params.reps))


@layer('concat')
def concat(emit: Emitter) -> None:
    """``concat`` over channels."""
    if emit.params.sequenceConcat:
        raise emit.refuse('concatenation of sequences')
    emit.emit('concat', values=emit.sources(), axis=-3)


@layer('concatND')
def concat_nd(emit: Emitter) -> None:
    """``concat`` over any axis."""
    p = emit.params
    emit.emit('concat', values=emit.sources(), axis=int(p.axis), interleave=bool(p.interleave))


@layer('stack')
def stack(emit: Emitter) -> None:
    """``stack``."""
    emit.emit('stack', values=emit.sources(), axis=int(emit.params.axis))


@layer('splitND')
def split_nd(emit: Emitter) -> None:
    """``split``."""
    p = emit.params
    sizes = [int(n) for n in p.splitSizes] or None
    count = None if sizes else int(p.numSplits)
    emit.emit('split', x=emit.source(), axis=int(p.axis), num_splits=count, split_sizes=sizes)


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


@layer('sliceStatic')
def slice_static(emit: Emitter) -> None:
    """``slice_by_index``."""
    p = emit.params
    emit.emit(
        'slice_by_index',
        x=emit.source(),
        begin=list(p.beginIds),
        end=list(p.endIds),
        stride=list(p.strides),
        begin_mask=list(p.beginMasks),
        end_mask=list(p.endMasks),
        squeeze_mask=list(p.squeezeMasks) or None,
    )


@layer('sliceDynamic')
def slice_dynamic(emit: Emitter) -> None:
    """``slice_by_index`` whose begin and end are computed at run time."""
    p = emit.params
    if len(emit.sources()) != 3:
        raise emit.refuse('anything but begin and end computed at run time')
    x, begin, end = emit.sources()
    emit.emit(
        'slice_by_index',
        x=x,
        begin=begin,
        end=end,
        stride=list(p.strides) or None,
        begin_mask=list(p.beginMasks) or None,
        end_mask=list(p.endMasks) or None,
        squeeze_mask=list(p.squeezeMasks) or None,
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
