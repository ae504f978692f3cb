"""Layers of a program: what they compute, read and write, and which cost nothing."""

from __future__ import annotations

import numpy as np
import pytest
from engine_kit import Made

from mmpretrain_mobileone_ext.coreml.neural_engine.latency.features import (
    INPUT,
    as_rows,
    from_rows,
    has_attention,
    layers_of,
)
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.forms import count
from mmpretrain_mobileone_ext.coreml.program.graph import Packed, Value
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import find_chip
from mmpretrain_mobileone_ext.errors import ProgramError

MAP, VECTOR = (1, 16, 32, 32), (1, 16, 1, 1)
BYTES = 2 * 16 * 32 * 32


def made(build):
    """The layers of a program, by name."""
    program = Made()
    build(program)
    return layers_of(program.program)


def test_a_convolution():
    layer, *_ = made(lambda m: m.conv((24, 16, 3, 3), (1, 24, 16, 16), strides=np.array([2, 2])))
    assert (layer.kind, layer.kernel, layer.stride, layer.groups) == ('conv', (3, 3), (2, 2), 1)
    assert layer.weights == 24 * 16 * 9
    assert layer.macs == 24 * 16 * 16 * 16 * 9
    assert (layer.inputs, layer.outputs, layer.reads) == ((MAP,), ((1, 24, 16, 16),), (INPUT,))
    assert layer.map_bytes == (BYTES, 2 * 24 * 16 * 16)
    assert not layer.uses_winograd


@pytest.mark.parametrize(
    ('weight', 'groups', 'kind', 'winograd'),
    [
        ((16, 16, 3, 3), 1, 'conv', True),
        ((16, 1, 3, 3), 16, 'depthwise', False),
        ((16, 4, 3, 3), 4, 'conv', False),
        ((16, 16, 1, 1), 1, 'conv', False),
    ],
)
def test_kinds_of_convolutions(weight, groups, kind, winograd):
    layer, *_ = made(lambda m: m.conv(weight, groups=np.int32(groups)))
    assert (layer.kind, layer.uses_winograd) == (kind, winograd)
    assert layer.macs == 32 * 32 * np.prod(weight)


def test_a_dilated_convolution_has_all_its_products():
    spread = np.array([2, 2], np.int32)
    layer, *_ = made(lambda m: m.conv((16, 8, 3, 3), dilations=spread))
    assert layer.dilation == (2, 2)
    assert not layer.uses_winograd


def test_a_transposed_convolution_multiplies_at_its_input():
    def build(m):
        m.op('conv_transpose', (1, 8, 64, 64), weight=np.zeros((16, 8, 2, 2), np.float16))

    (layer,) = made(build)
    assert layer.macs == 32 * 32 * 16 * 8 * 4


def test_products_of_maps_and_of_weights():
    def build(m):
        a = m.op('reshape', (1, 64, 256))
        b = m.op('transpose', (1, 256, 64), of=a)
        m.op('matmul', (1, 64, 64), of=a, y=Value(b))
        m.op('matmul', (1, 64, 10), of=a, y=np.zeros((256, 10), np.float16))
        m.op('linear', (1, 64, 12), of=a, weight=np.zeros((12, 256), np.float16))

    found = made(build)
    assert [layer.kind for layer in found] == ['free', 'move', 'matmul', 'linear', 'linear']
    assert [layer.macs for layer in found[2:]] == [64 * 256 * 64, 64 * 256 * 10, 64 * 256 * 12]
    assert has_attention(found)
    assert not has_attention(found[3:])


def test_what_is_computed_where_a_map_is_made_costs_no_pass():
    def build(m):
        first = m.conv()
        fused = m.op('gelu', of=first)
        m.op('add', of=fused, y=np.float16(3))
        m.op('silu', of=first)

    conv, gelu, add, silu = made(build)
    # The convolution's result is read twice, so that its function runs on its own; what follows
    # that is computed along with it.
    assert [conv.is_fused, gelu.is_fused, add.is_fused] == [False, False, True]
    assert (gelu.has_table, add.has_table, silu.has_table) == (True, False, True)
    alone = made(lambda m: m.op('relu', of=m.conv()))
    assert [layer.is_fused for layer in alone] == [False, True]
    assert not made(lambda m: m.op('silu', of=m.conv()))[1].is_fused


def test_squeeze_and_excitation_reads_and_writes():
    def build(m):
        x = m.conv()
        mean = m.op('reduce_mean', VECTOR, of=x)
        gate = m.op('sigmoid', VECTOR, of=m.conv((16, 16, 1, 1), VECTOR, of=mean))
        m.op('mul', of=x, y=Value(gate))

    found = made(build)
    assert [layer.kind for layer in found] == ['conv', 'reduce', 'conv', 'function', 'arithmetic']
    counted = count(found)
    assert counted.reductions.tolist() == [0, 1, 0, 0, 0]
    assert counted.bare.tolist() == [0, BYTES + 32, 0, 0, 2 * BYTES + 32]
    assert counted.maps.tolist() == [2 * BYTES, BYTES + 32, 64, 0, 2 * BYTES + 32]


def test_silu_is_a_table_and_a_product():
    counted = count(made(lambda m: m.op('silu', of=m.conv())))
    assert counted.bare.tolist() == [0, 5 * BYTES]
    assert counted.tables.tolist() == [0, 1]


def test_addresses_are_no_passes():
    def build(m):
        x = m.conv()
        half = m.op('slice_by_index', (1, 8, 32, 32), of=x)
        m.op('concat', (1, 24, 32, 32), of=[x, half])

    counted = count(made(build))
    assert counted.maps.tolist() == [2 * BYTES, 0, 0]


@pytest.mark.parametrize(('chip', 'bits'), [('A14', 4), ('A12', 16)])
def test_weights_come_as_the_chip_reads_them(chip, bits):
    program = Made()
    packed = Packed(('constexpr_lut_to_dense',), 4, 16 * 16 * 9 // 2)
    program.conv(packed={'weight': packed})
    (layer,) = layers_of(program.program, find_chip(chip))
    assert layer.weight_bits == bits
    assert count([layer]).weights[0] == layer.weights * bits / 8


def test_rows_make_the_same_layers():
    found = made(lambda m: m.op('silu', of=m.conv()))
    assert from_rows(as_rows(found)) == found


@pytest.mark.parametrize('shape', [None, (1, None, 32, 32)])
def test_a_result_of_no_fixed_shape_is_refused(shape):
    with pytest.raises(ProgramError, match=r'relu_0.*no fixed shape'):
        made(lambda m: m.op('relu', shape))


@pytest.mark.parametrize(
    ('inputs', 'said'),
    [
        ({'strides': Value('x')}, 'strides that are no constant numbers'),
        ({'strides': np.zeros(0, np.int32)}, 'strides that are no constant numbers'),
        ({'groups': Value('x')}, 'groups that are no constant numbers'),
        ({'strides': (np.ones(2), np.ones(3))}, 'strides that are no constant numbers'),
        ({'shape': (16,)}, 'a map of rank 1'),
        ({'shape': (1, 0, 32, 32)}, 'an axis of size 0'),
    ],
)
def test_a_convolution_that_none_can_compute_is_refused(inputs, said):
    with pytest.raises(ProgramError, match=said):
        made(lambda m: m.conv(**inputs))


def test_products_with_vectors_have_an_axis_less():
    def build(m):
        rows = m.op('reshape', (64, 256))
        vector = m.op('relu', (256,), of=m.op('reshape', (256,)))
        m.op('matmul', (64,), of=rows, y=Value(vector))
        other = m.op('reshape', (256,))
        m.op('matmul', (), of=vector, y=Value(other))

    found = made(build)
    assert [layer.macs for layer in found if layer.type == 'matmul'] == [64 * 256, 256]


def test_parameters_come_in_no_order():
    def build(m):
        m.op('reshape', (16, 16, 3, 3))
        (op,) = m.operations
        weight = op.outputs[0]
        m.op('conv', of=None, weight=Value(weight), x=Value('x'), bias=Value(weight))

    assert made(build)[-1].inputs == (MAP, (16, 16, 3, 3))
