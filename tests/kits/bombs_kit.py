"""Small packages that ask for a lot of memory or time."""

from __future__ import annotations

import numpy as np
from crafted_kit import Crafted, blob, proto, set_blob, set_value

BIG = 10**9


def _ints(*values):
    return np.array(values, np.int32)


def fill(c):
    c.op('fill', 'y', (BIG,), shape=_ints(BIG), value=np.float32(1))


def fill_that_lies(c):
    c.op('fill', 'y', (3,), shape=_ints(100_000, 100_000), value=np.float32(1))


def fill_of_a_computed_shape(c):
    c.op('shape', 's', (4,), 'INT32', x='x')
    c.op('mul', 'm', (4,), 'INT32', x='s', y=_ints(999, 999, 99, 99))
    c.op('fill', 'y', (None,) * 4, shape='m', value=np.float32(1))


def tile(c):
    c.op('tile', 'y', (BIG, 4, 6, 5), x='x', reps=_ints(BIG, 1, 1, 1))


def many_tiles(c):
    """Each within the budget, all of them held."""
    shape = (10**6, 4, 6, 5)
    names = [c.op('tile', f't{i}', shape, x='x', reps=_ints(10**6, 1, 1, 1)) for i in range(40)]
    c.op(
        'concat',
        'y',
        (4 * 10**7, 4, 6, 5),
        values=names,
        axis=np.int32(0),
        interleave=np.bool_(False),
    )


def doubling(c):
    name = 'x'
    for i in range(1, 33):
        name = c.op(
            'concat',
            f'c{i}',
            (2**i, 4, 6, 5),
            values=[name, name],
            axis=np.int32(0),
            interleave=np.bool_(False),
        )


def avg_pool(c):
    side = 10**5
    c.op(
        'avg_pool',
        'y',
        (1, 4, side, side),
        x='x',
        kernel_sizes=_ints(3, 3),
        strides=_ints(1, 1),
        pad_type=np.array('custom'),
        pad=_ints(side, side, side, side),
    )


def window(c, kind='avg_pool'):
    """Little memory, and a window of 10^6 at a million places."""
    side = 2000
    out = 2 * side + 6 - 1000 + 1, 2 * side + 5 - 1000 + 1
    c.op(
        kind,
        'y',
        (1, 4, *out),
        x='x',
        kernel_sizes=_ints(1000, 1000),
        strides=_ints(1, 1),
        pad_type=np.array('custom'),
        pad=_ints(side, side, side, side),
    )


def max_window(c):
    window(c, 'max_pool')


def l2_window(c):
    window(c, 'l2_pool')


def padding(c):
    c.op(
        'pad',
        'y',
        (1, 4, 6 + BIG, 5),
        x='x',
        pad=_ints(0, BIG, 0, 0),
        mode=np.array('constant'),
        constant_val=np.float32(0),
    )


def border(c):
    c.op(
        'pad',
        'y',
        (1, 4, 6 + BIG, 5),
        x='x',
        pad=_ints(0, BIG, 0, 0),
        mode=np.array('replicate'),
        constant_val=np.float32(0),
    )


def upsample(c):
    c.op(
        'upsample_nearest_neighbor',
        'y',
        (1, 4, 6 * 10**5, 5 * 10**5),
        x='x',
        scale_factor_height=np.float32(1e5),
        scale_factor_width=np.float32(1e5),
    )


def resize(c):
    c.op(
        'resize_bilinear',
        'y',
        (1, 4, 10**5, 10**5),
        x='x',
        target_size_height=np.int32(10**5),
        target_size_width=np.int32(10**5),
        sampling_mode=np.array('DEFAULT'),
    )


def convolution(c, side=20_000, kernel=1):
    c.const('w', np.ones((1, 4, kernel, kernel), np.float32))
    out = 2 * side + 6 - kernel + 1, 2 * side + 5 - kernel + 1
    c.op(
        'conv',
        'y',
        (1, 1, *out),
        x='x',
        weight='w',
        strides=_ints(1, 1),
        pad_type=np.array('custom'),
        pad=_ints(side, side, side, side),
        dilations=_ints(1, 1),
        groups=np.int32(1),
    )


def large_kernel(c):
    """Gigabytes of neither inputs nor results, but of work."""
    convolution(c, side=3000, kernel=500)


def transposed(c):
    c.const('w', np.ones((4, 1, 1, 1), np.float32))
    c.op(
        'conv_transpose',
        'y',
        (1, 1, 5 * 50_000 + 1, 4 * 50_000 + 1),
        x='x',
        weight='w',
        strides=_ints(50_000, 50_000),
        pad_type=np.array('valid'),
        dilations=_ints(1, 1),
        groups=np.int32(1),
    )


def gather(c):
    c.const('i', np.zeros(10**6, np.int32))
    c.op('gather', 'a', (10**6, 4, 6, 5), x='x', indices='i', axis=np.int32(0))
    c.op('gather', 'y', (10**6, 10**6, 6, 5), x='a', indices='i', axis=np.int32(1))


def outer_product(c):
    c.op('tile', 't', (1, 10**5, 6, 5), x='x', reps=_ints(1, 25_000, 1, 1))
    c.op('reshape', 'a', (3 * 10**6, 1), x='t', shape=_ints(-1, 1))
    c.op(
        'matmul',
        'y',
        (3 * 10**6, 3 * 10**6),
        x='a',
        y='a',
        transpose_x=np.bool_(False),
        transpose_y=np.bool_(True),
    )


def products(c):
    """A matrix product, again and again."""
    c.op('tile', 't', (1, 1200000, 6, 5), x='x', reps=_ints(1, 300_000, 1, 1))
    c.op('reshape', 'p0', (6000, 6000), x='t', shape=_ints(6000, 6000))
    for i in range(1, 2000):
        c.op(
            'matmul',
            f'p{i}',
            (6000, 6000),
            x=f'p{i - 1}',
            y=f'p{i - 1}',
            transpose_x=np.bool_(False),
            transpose_y=np.bool_(False),
        )


def broadcast(c):
    c.op('tile', 't', (10**5, 4, 6, 5), x='x', reps=_ints(10**5, 1, 1, 1))
    c.op('reshape', 'a', (12 * 10**6, 1), x='t', shape=_ints(-1, 1))
    c.op('reshape', 'b', (1, 12 * 10**6), x='t', shape=_ints(1, -1))
    c.op('add', 'y', (12 * 10**6, 12 * 10**6), x='a', y='b')


def constants_only(c):
    """What a reader that folds constants computes as it reads."""
    c.const('a', np.float32([1]))
    c.op('tile', 't', (3 * 10**8,), x='a', reps=_ints(3 * 10**8))
    for i in range(50):
        c.op('exp', f'e{i}', (3 * 10**8,), x='t')


def long_window(c):
    """Neighbors of every channel, unfolded."""
    c.op('tile', 't', (1, 10**5, 6, 5), x='x', reps=_ints(1, 25_000, 1, 1))
    c.op(
        'local_response_norm',
        'y',
        (1, 10**5, 6, 5),
        x='t',
        size=np.int32(10**5),
        alpha=np.float32(1),
        beta=np.float32(1),
        k=np.float32(1),
    )


def rows(c):
    """Split into as many values as there are entries."""
    c.op('tile', 't', (10**6, 4, 6, 5), x='x', reps=_ints(10**6, 1, 1, 1))
    c.op('split', 'y', (1, 4, 6, 5), x='t', axis=np.int32(0), num_splits=np.int32(10**6))


def dimensions(c):
    c.op('expand_dims', 'y', X_AND_MORE, x='x', axes=_ints(*range(20_000)))


X_AND_MORE = (1,) * 4


def reversed_slice(c):
    c.op('tile', 't', (10**6, 4, 6, 5), x='x', reps=_ints(10**6, 1, 1, 1))
    for i in range(400):
        c.op(
            'slice_by_index',
            f's{i}',
            (10**6, 4, 6, 5),
            x='t',
            begin=_ints(0, 0, 0, 0),
            end=_ints(0, 0, 0, 0),
            stride=_ints(-1, 1, 1, 1),
            begin_mask=np.ones(4, bool),
            end_mask=np.ones(4, bool),
            squeeze_mask=np.zeros(4, bool),
        )


def long_chain(c):
    c.op('tile', 'e0', (3 * 10**5, 4, 6, 5), x='x', reps=_ints(3 * 10**5, 1, 1, 1))
    for i in range(1, 2000):
        c.op('exp', f'e{i}', (3 * 10**5, 4, 6, 5), x=f'e{i - 1}')


def sorting(c):
    c.op('tile', 't', (3 * 10**5, 4, 6, 5), x='x', reps=_ints(3 * 10**5, 1, 1, 1))
    for i in range(100):
        c.op(
            'cumsum',
            f'e{i}',
            (3 * 10**5, 4, 6, 5),
            x='t',
            axis=np.int32(0),
            exclusive=np.bool_(True),
            reverse=np.bool_(True),
        )


def one_hot(c):
    c.op(
        'one_hot',
        'y',
        (3, BIG),
        indices=_ints(0, 1, 2),
        one_hot_vector_size=np.int32(BIG),
        axis=np.int32(-1),
        on_value=np.float32(1),
        off_value=np.float32(0),
    )


def counting(c):
    c.op('range_1d', 'y', (BIG,), 'INT32', start=np.int32(0), end=np.int32(BIG), step=np.int32(1))


def crops(c):
    side = 20_000
    c.op(
        'crop_resize',
        'y',
        (1, 4, side, side),
        x='x',
        boxes=np.float32([[0, 0, 1, 1]]),
        box_indices=_ints(0),
        target_height=np.int32(side),
        target_width=np.int32(side),
    )


def turned(c):
    side = 20_000
    c.op(
        'affine',
        'y',
        (1, 4, side, side),
        x='x',
        transform_matrix=np.ones((1, 6), np.float32),
        output_height=np.int32(side),
        output_width=np.int32(side),
        sampling_mode=np.array('bilinear'),
        padding_mode=np.array('constant'),
        padding_value=np.float32(0),
        coordinates_mode=np.array('normalized_minus_one_to_one'),
        align_corners=np.bool_(True),
    )


def suppression(c):
    """As many rounds as there are boxes."""
    c.op('tile', 't', (200_000, 4, 6, 5), x='x', reps=_ints(200_000, 1, 1, 1))
    c.op('reshape', 'b', (1, 4, 6 * 10**6), x='t', shape=_ints(1, 4, 6 * 10**6))
    c.op(
        'non_maximum_suppression',
        'y',
        (1, 4, 6 * 10**6),
        boxes='b',
        scores='b',
        iou_threshold=np.float32(1),
        max_boxes=np.int32(6 * 10**6),
    )


def _sequence(c, kind, gates, **further):
    c.op('tile', 't', (25_000, 4, 6, 5), x='x', reps=_ints(25_000, 1, 1, 1))
    c.op('reshape', 's', (3 * 10**6, 1, 1), x='t', shape=_ints(-1, 1, 1))
    weight = np.ones((gates, 1), np.float32)
    one = np.ones((1, 1), np.float32)
    c.op(kind, 'y', (1, 1, 1), x='s', initial_h=one, weight_ih=weight, weight_hh=weight, **further)


def long_lstm(c):
    _sequence(c, 'lstm', 4, initial_c=np.ones((1, 1), np.float32))


def long_gru(c):
    _sequence(c, 'gru', 3)


def _endless(c, condition):
    c.op('while_loop', 'y', (1, 4, 6, 5), loop_vars=['x'])
    operation, outer = c.block.operations[-1], c.block
    for part in range(2):
        block = operation.blocks.add()
        item = block.inputs.add()
        item.name = 'v'
        item.type.CopyFrom(operation.outputs[0].type)
        c.block = block
        block.outputs.append('v' if part else condition(c))
    c.block = outer


def endless(c):
    _endless(c, lambda c: c.const('t', np.bool_(True)))


def endless_by_numbers(c):
    def condition(c):
        c.op('reduce_max', 'm', (), x='v', axes=_ints(0, 1, 2, 3), keep_dims=np.bool_(False))
        return c.op('greater_equal', 'g', (), 'BOOL', x='m', y=np.float32(0))

    _endless(c, condition)


def scattering(c):
    c.op('tile', 't', (10**5, 4, 6, 5), x='x', reps=_ints(10**5, 1, 1, 1))
    c.const('i', np.zeros(10**5, np.int32))
    for i in range(40):
        c.op(
            'scatter',
            f's{i}',
            (10**5, 4, 6, 5),
            data='t',
            indices='i',
            updates='t',
            axis=np.int32(0),
            mode=np.array('add'),
        )


def marked(c):
    _tiled(c, 12_000_000)
    for i in range(40):
        c.op('non_zero', f'n{i}', (None, 1), 'INT32', x='t')


def blocks_of_samples(c):
    c.op(
        'space_to_batch',
        'y',
        (1, 4, 10**5, 10**5),
        x='x',
        block_shape=_ints(1, 1),
        paddings=np.array([[0, 10**5 - 6], [0, 10**5 - 5]], np.int32),
    )


def operations(c):
    name = 'x'
    for i in range(100_000):
        name = c.op('relu', f'r{i}', (1, 4, 6, 5), x=name)


def nested_blocks(c):
    c.op('cond', 'y', (1, 4, 6, 5), x='x')
    for _ in range(100_000):
        c.block.operations[-1].blocks.add().outputs.append('x')


def specializations(c):
    c.op('relu', 'y', (1, 4, 6, 5), x='x')
    for i in range(100_000):
        c.main.block_specializations[f'CoreML{i + 9}'].CopyFrom(c.block)


def table(c):
    """A table whose indices would fill 10^9 places."""
    c.constexpr(
        'constexpr_lut_to_dense',
        'w',
        (BIG,),
        indices=(np.zeros(8, np.uint8), 'UINT8'),
        lut=(np.ones(2, np.float16), 'FLOAT16'),
        shape=(np.array([BIG], np.uint32), 'UINT32'),
    )
    c.op('add', 'y', (BIG,), x='x', y='w')


def sparse(c):
    c.constexpr(
        'constexpr_sparse_to_dense',
        'w',
        (BIG,),
        nonzero_data=(np.ones(2, np.float16), 'FLOAT16'),
        mask=(np.zeros(8, np.uint8), 'UINT8'),
        shape=(np.array([BIG], np.uint32), 'UINT32'),
    )
    c.op('add', 'y', (BIG,), x='x', y='w')


def scales(c):
    """One number, scaled for a million channels on another axis."""
    c.constexpr(
        'constexpr_affine_dequantize',
        'w',
        (10**5, 10**5),
        quantized_data=(np.ones((1, 10**5), np.int8), 'INT8'),
        zero_point=(np.ones(10**5, np.int8), 'INT8'),
        scale=(np.ones(10**5, np.float16), 'FLOAT16'),
        axis=np.int32(0),
    )
    c.op('add', 'y', (10**5, 10**5), x='x', y='w')


def one_weight_for_all(c):
    """The same 4 MB of the file as 2000 weights."""
    for i in range(2000):
        op = c.block.operations.add()
        op.type = 'const'
        set_value(op.attributes['name'], f'w{i}')
        set_blob(op.attributes['val'], 64, (1, 1, 1000, 1000))
        output = op.outputs.add()
        output.name = f'w{i}'
        output.type.CopyFrom(op.attributes['val'].type)
        c.op(
            'reduce_sum',
            f's{i}',
            (1, 1, 1, 1),
            x=f'w{i}',
            axes=_ints(0, 1, 2, 3),
            keep_dims=np.bool_(True),
        )
    c.op('add', 'y', (1, 4, 6, 5), x='x', y='s0')


def _tiled(c, *shape):
    """A value 't' of this shape, its size a multiple of 120."""
    count = int(np.prod(shape)) // 120
    c.op('tile', 'l', (count, 4, 6, 5), x='x', reps=_ints(count, 1, 1, 1))
    c.op('reshape', 't', shape, x='l', shape=_ints(*shape))


def edge_window(c):
    _tiled(c, 1, 4, 360, 360)
    c.op(
        'max_pool',
        'y',
        (1, 4, 261, 261),
        x='t',
        kernel_sizes=_ints(100, 100),
        strides=_ints(1, 1),
        pad_type=np.array('valid'),
        pad=_ints(0, 0, 0, 0),
    )


def edge_filter(c):
    _tiled(c, 1, 1, 4_800, 4_800)
    c.const('w', np.ones((1, 1, 3, 3), np.float32))
    c.op(
        'conv',
        'y',
        (1, 1, 4_798, 4_798),
        x='t',
        weight='w',
        strides=_ints(1, 1),
        pad_type=np.array('valid'),
        dilations=_ints(1, 1),
        groups=np.int32(1),
    )


def edge_transposed(c):
    _tiled(c, 1, 8, 300, 300)
    c.const('w', np.ones((8, 8, 40, 40), np.float32))
    c.op(
        'conv_transpose',
        'y',
        (1, 8, 495, 495),
        x='t',
        weight='w',
        strides=_ints(1, 1),
        pad_type=np.array('valid'),
        dilations=_ints(5, 5),
        groups=np.int32(1),
    )


def edge_order(c):
    _tiled(c, 12_000_000)
    c.op(
        'topk',
        'y',
        (6_000_000,),
        x='t',
        k=np.int32(6_000_000),
        axis=np.int32(0),
        ascending=np.bool_(False),
    )
    output = c.block.operations[-1].outputs.add()
    output.CopyFrom(c.block.operations[-1].outputs[0])
    output.name = 'i'
    output.type.tensorType.dataType = proto().MIL_pb2.INT32


def edge_softmax(c):
    _tiled(c, 4_800, 3_600)
    c.op('softmax', 'y', (4_800, 3_600), x='t', axis=np.int32(0))


def edge_copies(c):
    _tiled(c, 24, 20, 24, 20, 12, 8)
    c.op('transpose', 'p', (8, 20, 12, 24, 20, 24), x='t', perm=_ints(5, 3, 4, 2, 1, 0))
    c.op('reshape', 'y', (24 * 20, 46_080), x='p', shape=_ints(24 * 20, 46_080))


def edge_integers(c):
    _tiled(c, 12_000_000)
    c.op('cast', 'n', (12_000_000,), 'INT32', x='t', dtype=np.array('int32'))
    c.const('k', np.int32(7))
    for i in range(60):
        c.op('mod', f'm{i}', (12_000_000,), 'INT32', x='n', y='k')


#: Name to what writes the operations. Far beyond the budgets, or cheap.
BOMBS = {
    function.__name__: function
    for function in (
        fill,
        fill_that_lies,
        fill_of_a_computed_shape,
        tile,
        many_tiles,
        doubling,
        avg_pool,
        window,
        max_window,
        l2_window,
        padding,
        border,
        upsample,
        resize,
        convolution,
        large_kernel,
        transposed,
        gather,
        outer_product,
        products,
        broadcast,
        constants_only,
        long_window,
        rows,
        dimensions,
        reversed_slice,
        long_chain,
        sorting,
        table,
        sparse,
        scales,
        one_hot,
        counting,
        crops,
        turned,
        suppression,
        long_lstm,
        long_gru,
        endless,
        endless_by_numbers,
        scattering,
        blocks_of_samples,
    )
}
#: As large as a file can well be.
HEAVY = {
    function.__name__: function
    for function in (
        operations,
        nested_blocks,
        specializations,
        one_weight_for_all,
        edge_window,
        edge_filter,
        edge_transposed,
        edge_order,
        edge_softmax,
        edge_copies,
        edge_integers,
        marked,
    )
}

ONE_WEIGHT = blob(np.ones((1000, 1000), np.float32), 2)


def write_bomb(name, folder):
    crafted = Crafted()
    {**BOMBS, **HEAVY}[name](crafted)
    weights = ONE_WEIGHT if name == 'one_weight_for_all' else None
    return crafted.save(folder, weights=weights)
