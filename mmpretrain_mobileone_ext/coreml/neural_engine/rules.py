"""Shapes, types and modes that engines refuse or take by a detour (chapters 4, 13, 17, 19, 25).

A rule is a function of a :class:`View` that yields what it finds; which operations it looks at is
in its decorator. A parameter that a file does not state is not judged; a result whose size is not
known makes its operation unknown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Callable, NamedTuple, Optional

from ..program.graph import Shape
from ..runtime.engine.chips import BYTES, MEASURED, UNKNOWN, Fact
from .view import View


class Finding(NamedTuple):
    """What a rule says of an operation.

    Attributes:
        text: in words, without the operation's name.
        instead: what to write instead, '' for nothing better known.
        label: how it is known.
        stops: the engine does not take it; else it does, by a detour or at a risk.
        limits: it makes less sure that the engine takes it.
    """

    text: str
    instead: str = ''
    label: str = MEASURED
    stops: bool = False
    limits: bool = False


Rule = Callable[[View], Iterator[Finding]]
#: Rules by type of operation; '' for all.
_RULES: dict[str, list[Rule]] = {}
#: Results that are numbers of places, or codes: other types than fp16 by nature.
_INTEGER_RESULTS = ('argsort', 'quantize', 'reduce_argmax', 'reduce_argmin', 'topk')
_RUNNING = ('fp16', 'bool', '')


def rule(*types: str) -> Callable[[Rule], Rule]:
    """Register a rule for types of operations, '' for all."""

    def register(function: Rule) -> Rule:
        for name in types:
            _RULES.setdefault(name, []).append(function)
        return function

    return register


def findings(view: View) -> Iterator[Finding]:
    """All that the rules say of an operation."""
    for check in (*_RULES[''], *_RULES.get(view.op.type, ())):
        yield from check(view)


def _stop(text: str, label: str, instead: str = '') -> Finding:
    return Finding(text, instead, label, stops=True)


def _above(size: Optional[int], limit: Fact) -> bool:
    return size is not None and limit.value is not None and size > limit.value


# ---- all operations -------------------------------------------------------------------------


@rule('')
def _types(view: View) -> Iterator[Finding]:
    """Ch. 4: fp16 in, fp16 out; a result may be made fp32 by a cast."""
    if not view.values.is_typed:
        return
    given = [view.values.dtype(name) for name in view.computed]
    wide = [d for d in given if d in ('fp32', 'fp64')]
    results = [d for d in view.op.dtypes if d not in _RUNNING]
    if view.op.type == 'cast' and results == ['fp32'] and not wide:
        return
    if wide or 'fp32' in results or 'fp64' in results:
        yield _stop('it is fp32', view.label('H13'), 'an export with precision fp16')
    elif view.op.type == 'cast' and results:
        yield _stop(f'it makes {results[0]} of numbers', view.label('H13'))
    elif results and view.op.type not in (*_INTEGER_RESULTS, 'dequantize'):
        yield _stop(f'it computes in {results[0]}', view.label('H13'), 'constants, or fp16')


@rule('')
def _ranks(view: View) -> Iterator[Finding]:
    limit = view.limit('rank')
    ranks = [len(s) for s in _shapes(view)]
    if _above(max(ranks, default=0), limit):
        yield _stop(
            f'rank {max(ranks)}; the most is {limit.value}',
            limit.label,
            'reshape and transpose in steps of rank 5 or less',
        )


@rule('')
def _sizes(view: View) -> Iterator[Finding]:
    """Sizes of what it reads and makes; a batch, depth or channel has limits of its own."""
    for shape in _shapes(view):
        if 0 in shape:
            yield _stop('an axis of size 0', view.label('H13'))
        for axis, size in zip(_axes(shape), shape):
            limit = view.limit(axis)
            if _above(size, limit):
                yield _stop(
                    f'{axis} {size}; the most is {limit.value}',
                    limit.label,
                    'smaller tensors: tiles, or a lower resolution',
                )
                return


@rule('')
def _flexible(view: View) -> Iterator[Finding]:
    """Ch. 8: Core ML compiles fixed sizes ahead of time; what is left of a range is not."""
    if not _is_flexible(view):
        return
    if view.values.has_ranges:
        yield _stop(
            'its size depends on a range of input sizes',
            view.label(),
            'one input size, or a list of them (enumerated)',
        )
    elif view.values.has_lists:
        yield Finding('it is compiled once for each listed input size', label=view.label())
    else:
        yield _stop('its size depends on values', view.label(), 'a fixed size')


def _is_flexible(view: View) -> bool:
    values = view.values
    if values.is_typed:
        return any(None in shape for shape in _shapes(view))
    # Shapes of a neuralnetwork are those of its default size.
    is_varying = not values.varying.isdisjoint(view.op.outputs)
    return is_varying and (values.has_ranges or values.has_lists)


@rule('')
def _unstated(view: View) -> Iterator[Finding]:
    """What no limit was held against is not said to run."""
    if len(view.op.shapes) < len(view.op.outputs) or None in view.op.shapes:
        yield _stop('the size of its result is unknown, so that no limit was checked', UNKNOWN)


@rule('')
def _large(view: View) -> Iterator[Finding]:
    """Ch. 17: the largest operand should stay in the engine's own memory."""
    limit = view.limit('working set')
    sizes = [math.prod(n or 0 for n in s) * BYTES for s in _shapes(view) if None not in s]
    if _above(max(sizes, default=0), limit):
        yield Finding(
            f'an operand beyond {(limit.value or 0) >> 20} MiB is cut into tiles',
            'a lower resolution or fewer channels here',
            limit.label,
        )


def _shapes(view: View) -> list[Shape]:
    """Shapes that are stated, of what it reads and makes; not of constants."""
    read = [view.values.shape(name) for name in view.computed]
    return [s for s in (*read, *view.op.shapes) if s is not None]


def _axes(shape: Shape) -> Sequence[str]:
    """Names of the axes in the engine's order, batch, depth, channels, height, width."""
    if len(shape) == 4:
        return ('batch', 'channels', 'height', 'width')
    if len(shape) == 5:
        return ('batch', 'depth', 'channels', 'height', 'width')
    # Ch. 4: each axis of a smaller one, and its length if it has one axis.
    return ('width',) * len(shape)


@rule(
    *('add', 'sub', 'mul', 'real_div', 'floor_div', 'pow', 'maximum', 'minimum', 'select'),
    *('equal', 'not_equal', 'greater', 'greater_equal', 'less', 'less_equal'),
)
def _broadcasts(view: View) -> Iterator[Finding]:
    """Ch. 17: along the depth, axis 1 of 5, only on later engines than the A13's."""
    shapes = [s for name in view.op.inputs if (s := view.shape(name)) and len(s) == 5]
    if view.chip.tier == 'A13' and len({s[1] for s in shapes}) > 1:
        text = 'an operand of rank 5 is repeated along its second axis'
        yield _stop(text, view.label(), 'reshape to rank 4 or less')


# ---- convolution and product ----------------------------------------------------------------


@rule('conv', 'conv_transpose')
def _volumes(view: View) -> Iterator[Finding]:
    shape = view.shape('weight')
    if shape is not None and len(shape) == 5:
        yield _stop(
            'no engine has three-dimensional convolutions',
            view.label('H13'),
            'two-dimensional ones over slices',
        )
    elif shape is not None and len(shape) == 3:
        yield _stop(
            'the guide compiled convolutions of (N, C, H, W) only',
            UNKNOWN,
            'expand_dims to a height of 1',
        )


@rule('conv', 'conv_transpose')
def _kernels(view: View) -> Iterator[Finding]:
    window = _window(view)
    steps = view.numbers('strides') if 'strides' in view.op.inputs else (1, 1)
    if len(window) != 2:
        return
    if len(steps) != 2:
        yield _stop('its strides are no two constant numbers', UNKNOWN, 'constant strides')
    for name, size, step in zip(('height', 'width'), window, steps):
        is_small = view.op.type == 'conv_transpose' and step > 1
        limit = view.limit(f'small kernel {name}' if is_small else f'kernel {name}')
        if _above(size, limit):
            yield _stop(
                f'kernel {name} {size}; the most is {limit.value}',
                limit.label,
                f'a sequence of kernels of {limit.value} or less',
            )


@rule('conv')
def _disputed_widths(view: View) -> Iterator[Finding]:
    """App. A has 16 from the A14 on; ch. 12 has 13, and 15 from the A16 on."""
    window = _window(view)
    least = 15 if view.chip.tier == 'A16' else 13
    if len(window) == 2 and least < window[1] <= (view.limit('kernel width').value or 0):
        text = f'kernel width {window[1]}: app. A takes it, ch. 12 has {least} as the most'
        yield Finding(text, f'a width of {least} or less', view.label(), limits=True)


@rule('conv')
def _taller(view: View) -> Iterator[Finding]:
    window, shape = _window(view), view.shape()
    if len(window) != 2 or shape is None or len(shape) != 4 or shape[-2] is None:
        return
    if window[0] > shape[-2]:
        # Ch. 17 saw it refused, and does not tell of an input that padding makes tall enough.
        yield _stop(
            f'a kernel of height {window[0]} on an input of height {shape[-2]}',
            UNKNOWN,
            'the rows of the kernel that meet the input',
        )


@rule('conv')
def _groups(view: View) -> Iterator[Finding]:
    groups = (view.numbers('groups') or (1,))[0]
    shape, weight = view.shape(), view.shape('weight')
    if groups < 2 or not shape or len(shape) < 2 or not weight:
        return
    channels = shape[1]
    if channels is None or groups == channels:
        return  # depthwise has a path of its own
    limit = view.limit('group product')
    product = channels * math.prod(n or 1 for n in weight[2:])
    if _above(product, limit):
        text = f'group convolutions beyond {limit.value} (channels x kernel) are taken apart'
        yield Finding(text, 'fewer groups, or one', limit.label)
    if view.chip.cores % groups:
        text = f'{groups} groups do not divide the {view.chip.cores} cores'
        yield Finding(text, '1, 2 or 4 groups', view.label())


@rule('conv')
def _strides(view: View) -> Iterator[Finding]:
    if any(s not in (1, 2, 3, 4, 8) for s in view.numbers('strides')):
        yield Finding(
            'a stride other than 1, 2, 3, 4 and 8 is made of several steps',
            'strides of 1, 2, 3, 4 or 8',
            view.label('H13'),
        )


@rule('conv')
def _dilations(view: View) -> Iterator[Finding]:
    if any(d > 8 for d in view.numbers('dilations')):
        text = 'the guide tells of dilations to 8 only'
        yield _stop(text, UNKNOWN, 'dilations of 8 or less')


@rule('conv', 'conv_transpose')
def _dynamic_weights(view: View) -> Iterator[Finding]:
    shape = view.shape()
    if view.is_computed('weight') and shape and shape[0] != 1:
        yield _stop(
            'computed weights with a batch other than 1',
            view.label('H13'),
            'a batch of 1, or matmul',
        )


@rule('linear')
def _linear(view: View) -> Iterator[Finding]:
    shape, weight = view.shape(), view.shape('weight')
    if shape is not None and len(shape) >= 5:
        yield _stop('an input of rank 5', view.label(), 'reshape to rank 4 or less')
    limit = view.limit('working set')
    if weight and _above(math.prod(n or 0 for n in weight) * BYTES, limit):
        yield Finding(
            f'weights beyond {(limit.value or 0) >> 20} MiB are no convolution any more, but tiles',
            'two smaller layers',
            limit.label,
        )


@rule('matmul')
def _product(view: View) -> Iterator[Finding]:
    if any(len(view.shape(name) or ()) == 5 for name in ('x', 'y')):
        yield _stop('operands of rank 5', view.label('H13'), 'reshape to rank 4 or less')


def _window(view: View) -> tuple[int, ...]:
    """Height and width of the kernel; shorter or longer for other ranks."""
    shape = view.shape('weight')
    if shape is None or None in shape[2:]:
        return ()
    return tuple(int(n or 0) for n in shape[2:])


# ---- pooling, reduction ---------------------------------------------------------------------


@rule('avg_pool', 'max_pool', 'l2_pool')
def _pools(view: View) -> Iterator[Finding]:
    window = view.numbers('kernel_sizes')
    if len(window) != 2:
        text = f'the guide tells of pools over two axes, not over {len(window)}'
        yield _stop(text, UNKNOWN, 'a pool over height and width')
        return
    limit = view.limit('average window')
    if view.op.type == 'avg_pool' and _above(max(window), limit):
        yield Finding(
            f'a window beyond {limit.value}: app. A refuses it, ch. 17 took 128',
            'reduce_mean for the whole map, or two pools',
            limit.label,
            limits=True,
        )


@rule(
    'reduce_sum',
    'reduce_mean',
    'reduce_max',
    'reduce_min',
    'reduce_sum_square',
    'reduce_l1_norm',
    'reduce_l2_norm',
    'reduce_log_sum',
    'reduce_log_sum_exp',
)
def _reductions(view: View) -> Iterator[Finding]:
    limit = view.limit('reduced axis')
    if limit.value is not None and max(_reduced(view), default=0) >= limit.value:
        yield Finding(
            f'a reduction over {limit.value} or more goes through a transpose',
            'reducing one axis at a time',
            limit.label,
        )


@rule('reduce_argmax', 'reduce_argmin')
def _searches(view: View) -> Iterator[Finding]:
    shape, limit = view.shape(), view.limit('searched axis')
    axis = (view.numbers('axis') or (-1,))[0]
    size = shape[axis] if shape and -len(shape) <= axis < len(shape) else None
    if _above(size, limit):
        yield _stop(
            f'a search among {size}; the most is {limit.value}',
            limit.label,
            'the largest of parts of the axis first',
        )


def _reduced(view: View) -> list[int]:
    shape = view.shape()
    if shape is None:
        return []
    axes = view.numbers('axes', tuple(range(len(shape))))
    return [shape[a] or 0 for a in axes if -len(shape) <= a < len(shape)]


# ---- movement -------------------------------------------------------------------------------


@rule('transpose')
def _transposes(view: View) -> Iterator[Finding]:
    shape, limit = view.shape(), view.limit('transpose')
    if limit.value == 0:
        yield Finding('a transpose is always made of several steps', label=limit.label)
    elif shape and _above(max(n or 0 for n in shape[-2:]), limit):
        yield _stop(
            f'a transpose of {shape[-2:]}; the most is {limit.value}',
            limit.label,
            'smaller tensors',
        )


@rule('pad')
def _pads(view: View) -> Iterator[Finding]:
    mode = str(view.constant('mode', 'constant'))
    if mode not in ('constant', 'reflect', 'symmetric'):
        yield _stop(f'the guide does not tell of padding by {mode!r}', UNKNOWN, 'constant padding')
    elif mode != 'constant' and not view.chip.has_texture_engine:
        yield _stop(f'{mode} padding comes with the A14', view.label(), 'constant padding')
    amounts = view.numbers('pad')
    if any(amounts[:-4]):
        yield _stop(
            'padding of an axis other than height and width', view.label(), 'concat with constants'
        )


@rule('slice_by_index', 'slice_by_size')
def _slices(view: View) -> Iterator[Finding]:
    computed = [p for p in ('begin', 'end', 'size') if view.is_computed(p)]
    if computed and not view.chip.has_texture_engine:
        text = f'a slice whose {computed[0]} is computed comes with the A14'
        yield _stop(text, view.label('H13'), 'fixed places')
    begin, shape = view.numbers('begin'), view.shape()
    skipped = view.numbers('begin_mask', (0,))
    is_inside = bool(begin) and begin[-1] != 0 and not any(skipped[-1:])
    if is_inside and shape and len(begin) == len(shape) > 2:
        yield from _offset(view)


@rule('slice_axis')
def _axis_slices(view: View) -> Iterator[Finding]:
    if view.numbers('axis')[:1] == (-1,) and any(view.numbers('begin')):
        yield from _offset(view)


def _offset(view: View) -> Iterator[Finding]:
    """Ch. 19: a slice that begins within the width."""
    numerics = view.chip.numerics
    if numerics is not None and numerics.slice_overflows.value:
        text = 'an offset along the width makes infinities of magnitudes above 4094'
        yield Finding(text, 'an offset along another axis', numerics.slice_overflows.label)


@rule('gather', 'gather_along_axis')
def _gathers(view: View) -> Iterator[Finding]:
    if view.chip.tier == 'A13':
        yield _stop(
            'before the A14 it takes a batch and depth of one and three index channels only',
            view.label('H13'),
            'slices and concat, where the indices are fixed',
        )


@rule('tile')
def _tiles(view: View) -> Iterator[Finding]:
    if any(n not in (1, 2, 3, 4, 8) for n in view.numbers('reps')):
        yield _stop('the guide tells of 2, 3, 4 and 8 copies only', UNKNOWN, 'concat, or broadcast')


@rule('prelu')
def _slopes(view: View) -> Iterator[Finding]:
    shape = view.shape()
    if shape is not None and len(shape) < 3:
        text = f'an input of rank {len(shape)}; it needs 3 or more'
        yield _stop(text, view.label('H13'), 'relu(x) - slope * relu(-x)')


@rule('concat')
def _fan_in(view: View) -> Iterator[Finding]:
    if len(view.computed) >= 12:
        text = 'joins 12 or more branches: the compiler may search for seconds'
        yield Finding(text, 'fewer branches', view.label('H13'))
