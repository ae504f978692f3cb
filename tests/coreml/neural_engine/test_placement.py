"""Placement: types, shapes and modes that an engine refuses, and where units change."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from engine_kit import IMAGE, Made
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.coreml.neural_engine import placement
from mmpretrain_mobileone_ext.coreml.neural_engine.forecast import forecasts
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.estimate import fitted_model
from mmpretrain_mobileone_ext.coreml.neural_engine.placement import place, segments
from mmpretrain_mobileone_ext.coreml.neural_engine.rules import _RULES
from mmpretrain_mobileone_ext.coreml.neural_engine.verdict import judge
from mmpretrain_mobileone_ext.coreml.program.graph import Block, Feature, Packed, Value, sources
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, MEASURED, UNKNOWN
from mmpretrain_mobileone_ext.errors import ProgramError


def last(made, chip='M1'):
    """The placement of the last operation."""
    return place(made.program, CHIPS[chip])[-1]


def on(made):
    """Chips whose engine takes the last operation."""
    return [c for c in ('M1', 'M2', 'M3', 'M5') if last(made, c).on_engine]


ALL = ['M1', 'M2', 'M3', 'M5']


def one(kind, shape=IMAGE, result=None, dtype='fp16', **inputs):
    made = Made(shape)
    made.op(kind, result or shape, dtype, **inputs)
    return made


def test_a_convolution_runs_everywhere_and_is_measured_on_an_m1():
    made = Made()
    made.conv()
    assert on(made) == ALL
    assert (last(made).label, last(made).reason, last(made).remarks) == (MEASURED, '', ())


@pytest.mark.parametrize(
    ('made', 'chips'),
    [
        (one('relu', dtype='fp32'), []),
        (one('cast', dtype='fp32', dtype_='fp32'), ALL),
        (one('cast', dtype='int32'), []),
        (one('reduce_argmax', (1, 10), (1,), 'int32', axis=np.int32(-1)), ALL),
        (one('greater', dtype='bool', y=np.float16(0)), ALL),
        (one('add', dtype='int32', y=np.int32(1)), []),
        (one('no_such_thing'), []),
    ],
)
def test_types(made, chips):
    assert on(made) == chips


def test_what_reads_fp32_is_not_on_the_engine():
    made = Made(feature=Feature('x', 'tensor', IMAGE, 'fp32'))
    made.op('relu')
    assert on(made) == []
    # A neuralnetwork states no types: all its layers are called fp32.
    made.format = 'neuralnetwork'
    assert on(made) == ALL


@given(st.sampled_from([1, 2, 3, 4]), st.booleans())
def test_one_more_than_a_size_is_refused(axis, is_above):
    names = ('batch', 'channels', 'height', 'width')
    for name in ALL:
        limit = CHIPS[name].limit(names[axis - 1]).value
        shape = [1, 1, 1, 1]
        shape[axis - 1] = limit + is_above
        found = last(one('relu', tuple(shape)), name)
        assert found.on_engine is not is_above
        assert is_above is (f'{limit + 1}; the most is {limit}' in found.reason)


@pytest.mark.parametrize('rank', range(1, 8))
def test_ranks(rank):
    assert (on(one('reshape', (2,) * rank)) == ALL) is (rank <= 5)


@pytest.mark.parametrize(
    ('weight', 'inputs', 'chips'),
    [
        ((16, 16, 3, 13), {}, ALL),
        ((16, 16, 3, 14), {}, ['M2', 'M3', 'M5']),
        ((16, 16, 3, 17), {}, []),
        ((16, 16, 29, 3), {}, ALL),
        ((16, 16, 30, 3), {}, ['M2', 'M3', 'M5']),
        ((16, 16, 33, 3), {}, []),
        ((16, 16, 3, 3, 3), {}, []),
        ((16, 16, 3), {}, []),
        ((16, 1, 3, 3), {'groups': np.int32(16)}, ALL),
        ((16, 16, 3, 3), {'strides': np.array([5, 5])}, ALL),
        ((16, 16, 3, 3), {'strides': np.zeros(0)}, []),
        ((16, 16, 3, 3), {'strides': Value('x')}, []),
        ((16, 16, 33, 3), {'strides': np.ones(1)}, []),
    ],
)
def test_kernels(weight, inputs, chips):
    made = Made((1, 16, 64, 64))
    made.conv(weight, (1, 16, 60, 60), **inputs)
    assert on(made) == chips


def test_widths_on_which_chapters_differ_are_told():
    def width(size, chip):
        made = Made((1, 16, 64, 64))
        made.conv((16, 16, 3, size), (1, 16, 60, 60))
        return 'ch. 12' in remarks(made, chip)

    assert [width(n, 'M2') for n in (13, 14, 16)] == [False, True, True]
    assert [width(n, 'M5') for n in (15, 16)] == [False, True]


def remarks(made, chip='M1'):
    return ' '.join(r.text for r in last(made, chip).remarks)


def test_detours_of_a_convolution_are_told():
    def conv(**inputs):
        made = Made((1, 1024, 8, 8))
        made.conv((1024, 1024 // inputs.get('groups', 1), 3, 3), (1, 1024, 8, 8), **inputs)
        return remarks(made)

    assert 'taken apart' in conv(groups=2)
    assert '3 groups do not divide the 4 cores' in conv(groups=3)
    assert conv(groups=1024) == ''  # depthwise has its own path
    assert 'several steps' in conv(strides=np.array([5, 5]))
    assert conv(strides=np.array([8, 3]), dilations=np.array([8, 8])) == ''


def test_a_kernel_taller_than_its_input():
    made = Made((1, 16, 4, 4))
    made.conv((16, 16, 5, 5), (1, 16, 4, 4))
    assert on(made) == []
    assert last(made).label == UNKNOWN


def test_dilations_beyond_those_that_were_tried():
    made = Made()
    made.conv(dilations=np.array([9, 1]))
    assert (last(made).on_engine, last(made).label) == (False, UNKNOWN)


def test_a_transposed_convolution_has_small_kernels_along_its_strides():
    def takes(width, stride):
        made = Made()
        made.op(
            'conv_transpose', weight=np.zeros((16, 16, 3, width)), strides=np.array([1, stride])
        )
        return on(made)

    assert takes(13, 1) == ALL
    assert takes(8, 2) == ['M2', 'M3', 'M5']
    assert takes(9, 2) == []


@pytest.mark.parametrize(
    ('made', 'chips'),
    [
        (one('pad', mode='constant', pad=np.array([0, 0, 0, 0, 1, 1, 2, 2])), ALL),
        (one('pad', mode='reflect', pad=np.array([1, 1, 2, 2])), ['M2', 'M3', 'M5']),
        (one('pad', mode='replicate', pad=np.array([1, 1, 2, 2])), []),
        (one('pad', mode='constant', pad=np.array([0, 0, 1, 1, 0, 0, 0, 0])), []),
        (one('gather', indices=np.array([0, 1])), ['M2', 'M3', 'M5']),
        (one('tile', reps=np.array([1, 1, 2, 3])), ALL),
        (one('tile', reps=np.array([1, 1, 5, 1])), []),
        (one('prelu', alpha=np.zeros(16)), ALL),
        (one('prelu', (1, 16), alpha=np.zeros(16)), []),
        (one('linear', weight=np.zeros((4, 32))), ALL),
        (one('linear', (1, 1, 1, 2, 32), weight=np.zeros((4, 32))), []),
        (one('matmul', y=np.zeros((32, 4))), ALL),
        (one('matmul', (1, 2, 3, 4, 5), y=np.zeros((5, 4))), []),
        (one('transpose', (1, 1, 16385, 2), (1, 1, 2, 16385)), ['M5']),
        (one('reduce_argmax', (1, 2048), (1,), 'int32', axis=np.int32(1)), ALL),
        (one('reduce_argmax', (1, 2049), (1,), 'int32', axis=np.int32(1)), []),
        (one('cumsum'), []),
        (one('add', (1, 4, 3, 2, 2), y=np.zeros((1, 1, 3, 2, 2))), ['M2', 'M3', 'M5']),
        (one('add', (1, 4, 3, 2, 2), y=np.zeros((1, 4, 1, 2, 2))), ALL),
        (one('mul', (1, 4, 3, 2), y=np.zeros((1, 1, 3, 2))), ALL),
        (one('resize_bilinear'), ALL),
        (one('sin'), ['M3', 'M5']),
    ],
    ids=lambda v: v.operations[0].type if isinstance(v, Made) else '-'.join(v) or 'none',
)
def test_modes(made, chips):
    assert on(made) == chips


def test_a_slice_along_the_width_is_a_risk_until_the_a14():
    def sliced(*begin, chip='M1', **inputs):
        return remarks(one('slice_by_index', begin=np.array(begin), **inputs), chip)

    assert 'above 4094' in sliced(0, 0, 0, 3)
    assert 'above 4094' in sliced(0, 0, 0, 3, chip='M2')
    assert sliced(0, 0, 0, 3, chip='M3') == ''
    assert sliced(0, 0, 3, 0) == ''
    assert sliced(0, 0, 0, 3, begin_mask=np.array([True] * 4)) == ''


def test_a_slice_of_a_neuralnetwork_is_one_of_mil():
    def sliced(axis):
        made = Made(format='neuralnetwork')
        made.op('slice_axis', axis=axis, begin=3, end=9, stride=1)
        assert on(made) == ALL
        return remarks(made)

    assert 'above 4094' in sliced(-1)
    assert sliced(-2) == ''


def test_a_computed_slice_comes_with_the_a14():
    made = Made()
    made.op('slice_by_index', begin=Value('x'))
    assert on(made) == ['M2', 'M3', 'M5']


def test_reductions_through_a_transpose():
    def reduced(size, chip):
        axes = np.array([-1])
        return remarks(one('reduce_mean', (1, 1, 8, size), (1, 1, 8, 1), axes=axes), chip)

    assert reduced(191, 'M1') == ''
    assert 'transpose' in reduced(192, 'M1')
    assert reduced(383, 'M3') == ''
    assert 'transpose' in reduced(384, 'M5')


def test_ranges_of_sizes_leave_the_engine_and_lists_do_not():
    free = (1, 16, None, None)
    ranged = Feature('x', 'tensor', IMAGE, 'fp16', ranges=((1, 1), (16, 16), (8, 64), (8, 64)))
    made = Made(feature=ranged)
    made.op('relu', free)
    assert on(made) == []
    listed = Feature('x', 'tensor', IMAGE, 'fp16', shapes=(IMAGE, (1, 16, 64, 64)))
    made = Made(feature=listed)
    made.op('relu', free)
    assert on(made) == ALL
    assert 'each listed' in remarks(made)


@pytest.mark.parametrize('name', ['M1', 'A14'])
def test_sizes_of_a_neuralnetwork_are_those_of_one_input_only(name):
    def judged(**feature):
        made = Made(
            feature=Feature('x', 'tensor', IMAGE, 'fp64', **feature), format='neuralnetwork'
        )
        made.op('relu')
        return last(made, name)

    assert judged().on_engine
    ranged = judged(ranges=((1, 1), (16, 16), (8, -1), (8, -1)))
    assert not ranged.on_engine
    assert 'a range of input sizes' in ranged.reason
    listed = judged(shapes=(IMAGE, (1, 16, 64, 64)))
    assert listed.on_engine
    assert [r.text for r in listed.remarks] == ['it is compiled once for each listed input size']


def test_sizes_that_depend_on_values_leave_the_engine():
    found = last(one('relu', result=(None, 4)))
    assert (found.on_engine, found.reason) == (False, 'its size depends on values')


@pytest.mark.parametrize('format', ['mlprogram', 'neuralnetwork'])
def test_what_no_limit_was_held_against_is_unknown(format):
    made = Made(format=format)
    made.op('relu', None)
    made.op('lstm')
    relu, lstm = place(made.program, CHIPS['M1'])
    assert (relu.on_engine, relu.label, lstm.label) == (False, UNKNOWN, MEASURED)
    verdict = judge([relu], CHIPS['M1'])
    assert 'none of 1 operation is known to run on the engine' in verdict.sentence
    assert not verdict.is_whole


def test_what_converts_an_input_or_a_result_is_at_the_border():
    made = Made(feature=Feature('x', 'image', (1, 3, 32, 32), 'uint8'))
    scaled = made.op('mul', (1, 3, 32, 32), 'fp32', y=np.float32(2))
    shifted = made.op('add', (1, 3, 32, 32), 'fp32', of=scaled, y=np.float32(2))
    half = made.op('cast', (1, 3, 32, 32), of=shifted, dtype_='fp16')
    relu = made.op('relu', (1, 3, 32, 32), of=half)
    wide = made.op('mul', (1, 3, 32, 32), 'fp32', of=relu, y=np.float32(2))
    made.op('cast', (1, 3, 32, 32), 'fp32', of=relu)
    made.op('classify', None, 'string', of=wide)
    found = place(made.program, CHIPS['M1'])
    assert [p.on_engine for p in found] == [False, False, False, True, False, True, False]
    assert [p.is_border for p in found] == [True, True, True, False, False, False, True]


#: What a file of others may hold where a rule looks for a size, an axis or a mode.
ODD = [
    *(0, -1, 7, True, 'text', '', (), ('a',), (Value('x'), Value('x')), Value('x'), Value('no')),
    *(np.zeros(0), np.zeros((2, 2)), np.float32('nan'), np.int64(2**62), np.array(['a', 'b'])),
    *(np.zeros((1, 1, 1, 1)), np.zeros((0, 3, 3)), np.array([-9, 9]), np.arange(8)),
    *((np.ones(2), np.ones(3)), np.zeros((16, 16, 3, 3)), np.ones((64, 64)), np.ones(64)),
]
PARAMETERS = ['weight', 'strides', 'dilations', 'groups', 'axes', 'axis', 'pad', 'mode', 'begin']
PARAMETERS += ['begin_mask', 'end', 'reps', 'kernel_sizes', 'y', 'alpha', 'size', 'dtype_']
PARAMETERS += ['query', 'key']
SHAPES = st.sampled_from([IMAGE, (1, 64), (64,), (), None])
SHAPES |= st.lists(st.none() | st.integers(0, 70_000), max_size=7).map(tuple)


@given(
    st.sampled_from(sorted({*filter(None, _RULES), 'einsum', 'scaled_dot_product_attention'})),
    st.dictionaries(st.sampled_from(PARAMETERS), st.sampled_from(range(len(ODD))), max_size=6),
    SHAPES,
    SHAPES,
)
def test_odd_files_are_judged_too(kind, inputs, shape, result):
    made = Made()
    first = made.op('relu', shape)
    made.op(kind, result, of=first, **{name: ODD[index] for name, index in inputs.items()})
    for chip in ('A12', 'M1', 'M5'):
        found = place(made.program, CHIPS[chip])[-1]
        assert found.on_engine is not bool(found.reason)
        verdict = judge(place(made.program, CHIPS[chip]), CHIPS[chip])
        verdict.to_dict()
        for forecast in forecasts(made.program, [verdict], fitted_model(), with_suggestions=True):
            assert forecast.estimate is not None or forecast.why
            forecast.document()


def test_what_depends_on_no_input_should_be_a_constant():
    made = Made()
    drawn = made.op('random_uniform', of=None)
    made.op('scatter', of=made.op('fill', of=None))
    made.op('scatter', of=drawn)
    made.op('scatter')
    found = place(made.program, CHIPS['M1'])
    told = ['as a constant' in p.instead for p in found if not p.on_engine]
    assert told == [False, True, False, False]


def test_nested_operations_stay_with_their_loop():
    inner = Made()
    inner.op('relu')
    made = Made()
    made.op('cond', blocks=(Block((), tuple(inner.operations), ('relu_0',)),) * 2)
    found = place(made.program, CHIPS['M5'])
    assert [p.operation.type for p in found] == ['cond', 'relu', 'relu']
    assert not any(p.on_engine for p in found)
    assert [p.is_inner for p in found] == [False, True, True]
    assert switches(found) == 0


def switches(found):
    return judge(found, CHIPS['M5']).switches


AFFINE = Packed(('constexpr_affine_dequantize',), 8, 2320)


def palette(bits):
    return Packed(('constexpr_lut_to_dense',), bits, bits * 288 + 32)


SPARSE = Packed(('constexpr_sparse_to_dense',), 16, 2000)
BLOCKS = Packed(('constexpr_blockwise_shift_scale',), 8, 2400)
CHAIN = Packed(('constexpr_lut_to_sparse', 'constexpr_sparse_to_dense'), 4, 1000)


@pytest.mark.parametrize(
    ('packed', 'wanted'),
    [
        (AFFINE, {'A12': False, 'M1': False, 'M2': True, 'M3': True, 'M5': True}),
        (palette(4), {'A12': False, 'M1': True, 'M2': True, 'M3': True, 'M5': True}),
        (palette(6), {'M1': False, 'M2': None, 'M5': None}),
        (palette(8), {'M1': True, 'M5': True}),
        (palette(2), {'M1': False, 'M5': False}),
        (SPARSE, {'A12': False, 'M1': True, 'M2': True, 'M5': True}),
        (BLOCKS, {'M1': False, 'M2': False, 'M3': True, 'M5': True}),
        (BLOCKS._replace(bits=4), {'M1': False, 'M2': False, 'M3': None, 'M5': None}),
        (CHAIN, {'M1': False, 'M2': False, 'M3': True, 'M5': True}),
        (Packed(('constexpr_of_tomorrow',), 3, 9), {'M1': None, 'M5': None}),
    ],
)
def test_streams(packed, wanted):
    for name, streams in wanted.items():
        made = Made()
        made.op('conv', weight=np.zeros((16, 16, 3, 3), np.float16), packed={'weight': packed})
        found = last(made, name)
        assert found.streams is streams
        (weight,) = found.weights
        moved = {True: packed.bytes, False: 2 * 2304, None: None}[streams]
        assert (weight.moved_bytes, weight.stored_bytes) == (moved, packed.bytes)
        assert (weight.label == UNKNOWN) is (streams is None)


@pytest.mark.parametrize('name', ['strides', 'dilations'])
def test_weights_of_strided_convolutions_do_not_stream(name):
    def streams(step):
        made = Made()
        weight = np.zeros((16, 16, 3, 3), np.float16)
        packed = {'weight': palette(4)}
        made.op('conv', weight=weight, packed=packed, **{name: np.array([1, step])})
        return last(made).streams

    assert [streams(step) for step in (1, 2)] == [True, False]


def test_dense_weights_are_read_as_they_are():
    made = Made()
    made.conv()
    assert last(made).streams is None
    assert last(made).weights[0].moved_bytes == 2 * 2304


def graph(units, edges):
    """Operations on the engine or not, each reading some before it, or the input."""
    made = Made()
    names = ['x']
    for unit, edge in zip(units, edges):
        read = [names[e % len(names)] for e in (edge if isinstance(edge, tuple) else (edge,))]
        names.append(made.op('concat' if unit else 'lstm', of=read))
    return place(made.program, CHIPS['M5'])


EDGES = st.tuples(st.integers(0, 9), st.integers(0, 9))


@given(st.lists(st.tuples(st.booleans(), EDGES), min_size=1, max_size=6))
def test_segments_are_an_order_of_execution(steps):
    found = graph(*zip(*steps))
    runs = segments(found)
    ran = [p for run in runs for p in run.placements]
    assert sorted(p.operation.name for p in ran) == sorted(p.operation.name for p in found)
    done = {'x'}
    for p in ran:
        assert done.issuperset(sources(p.operation))
        done.update(p.operation.outputs)
    assert all(a.on_engine != b.on_engine for a, b in zip(runs, runs[1:]))
    assert all(p.on_engine == run.on_engine for run in runs for p in run.placements)
    assert switches(found) == len(runs) - 1 == fewest(found)


def fewest(found):
    """Of all orders of execution, tried one after another."""

    def changes(done, unit, left):
        if not left:
            return 0
        ready = [p for p in left if done.issuperset(sources(p.operation))]
        return min(
            (unit not in (None, p.on_engine))
            + changes(done | set(p.operation.outputs), p.on_engine, [q for q in left if q is not p])
            for p in ready
        )

    return changes({'x'}, None, list(found))


def test_a_branch_on_the_cpu_costs_its_two_switches():
    # x -> lstm -> relu, and x -> relu -> add of both.
    assert switches(graph([True, False, True], [0, 1, 2])) == 2
    # Two lstm that do not wait for each other are one run.
    assert switches(graph([False, True, False, True], [0, 0, 0, 3])) == 1
    assert switches(graph([True] * 4, [0, 1, 2, 3])) == 0


def test_a_long_chain_is_looked_at_once(monkeypatch):
    asked = []
    monkeypatch.setattr(placement, 'sources', lambda op: asked.append(op) or sources(op))
    found = graph([i % 2 == 0 for i in range(40)], range(40))
    asked.clear()
    assert len(segments(found)) == 40
    assert len(asked) == 40


def test_layers_that_wait_for_each_other_are_refused():
    made = Made(format='neuralnetwork')
    made.op('add', of='tanh_1', y=Value('x'))
    made.op('tanh', of='add_0')
    with pytest.raises(ProgramError, match=r"'add_0' reads 'tanh_1', which is not made before it"):
        place(made.program, CHIPS['A14'])


def test_a_value_that_is_made_twice_is_that_of_the_last_layer():
    made = Made(format='neuralnetwork')
    made.op('relu')
    made.op('lstm', of='relu_0')
    first, second = made.operations
    made.operations[1] = replace(second, outputs=first.outputs)
    made.op('relu', of='relu_0')
    found = place(made.program, CHIPS['M5'])
    assert [s.on_engine for s in segments(found)] == [True, False, True]


@pytest.mark.parametrize('kind', ['add', 'scatter'])
def test_what_makes_nothing_is_no_constant(kind):
    made = Made()
    made.op(kind)
    (op,) = made.operations
    made.operations = [replace(op, outputs=(), dtypes=(), shapes=())]
    made.op('relu')
    assert 'as a constant' not in place(made.program, CHIPS['M1'])[0].instead
