"""The Neural Engine's arithmetic gives what was measured on it, and fp16 arithmetic does not.

Figures are those of S. H. Bryngelson, "Apple Neural Engine: Architecture, Programming, and
Performance", arXiv 2606.22283 (CC BY 4.0), chapter 3 unless said otherwise.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from engine_kit import Made
from runtime_kit import (
    SIZE,
    classifier_config,
    image_input,
    photo,
    planar,
    relative_error,
    save_mil,
    save_torch,
)
from test_op_facts import TRIES, arguments

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program.budget import Ledger
from mmpretrain_mobileone_ext.coreml.program.graph import Feature, Operation, Value
from mmpretrain_mobileone_ext.coreml.runtime.arithmetic import numerics_of
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, LABELS
from mmpretrain_mobileone_ext.coreml.runtime.engine.rules import (
    FUNCTIONS,
    PRODUCTS,
    RULES,
    engine_kind,
)
from mmpretrain_mobileone_ext.coreml.runtime.engine.sums import lane_sum, product_sum
from mmpretrain_mobileone_ext.coreml.runtime.engine.tables import (
    Tables,
    gelu_knots,
    sigmoid_knots,
    silu_knots,
    tanh_knots,
)
from mmpretrain_mobileone_ext.coreml.runtime.load import ReferenceProgram
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.errors import ProgramError

ONE = np.float32(1)
#: Chips of whose arithmetic something is known.
KNOWN = [chip for chip in CHIPS.values() if chip.numerics]
# Magnitude to how many of sixteen ones survive (table "cancel-sweep").
SURVIVORS = {1024: 16, 3000: 16, 4090: 16, 4096: 4, 8000: 4, 16000: 4, 30000: 4}


@pytest.fixture
def probe(tmp_path):
    """Results of a program in fp16: on each chip, and in fp16 arithmetic."""

    def run(build, chips=('A14',), **inputs):
        given = {k: np.float32(v) for k, v in inputs.items()}
        path = save_mil(build, given, tmp_path, half=True)
        loaded = [load_program(path, 'ane', chip=chip) for chip in chips]
        return [
            {k.removesuffix('_cast_fp16'): v for k, v in program.predict(given).items()}
            for program in (*loaded, load_program(path, 'fp16'))
        ]

    return run


def summed(*lanes):
    """Every row's sum, by a product with ones and by a reduction."""

    def build(mb, x):
        ones = np.ones((x.shape[-1], 1), np.float32)
        return [
            mb.matmul(x=x, y=ones, name='product'),
            mb.reduce_sum(x=x, axes=[1], keep_dims=True, name='reduction'),
        ]

    return build, np.float32(lanes)


@pytest.mark.parametrize(
    ('lanes', 'engine', 'half'),
    [([1.0] * 16384, 16384, 16384), ([4096.0] + [1.0] * 1024, 5116, 5120)],
    ids=['ones', 'one-large'],
)
def test_published_sums(probe, lanes, engine, half):
    build, x = summed(lanes)
    ane, fp16 = probe(build, x=x)
    assert {k: float(v[0, 0]) for k, v in ane.items()} == {'product': engine, 'reduction': engine}
    assert float(fp16['product'][0, 0]) == half


def test_published_survivors_whatever_the_order(probe):
    rows = [[v, -v, 1] * 16 for v in SURVIVORS] + [[v, 1, -v] * 16 for v in SURVIVORS]
    build, x = summed(*rows)
    ane, fp16 = probe(build, x=x)
    wanted = 2 * list(SURVIVORS.values())
    for name in ('product', 'reduction'):
        assert ane[name][:, 0].tolist() == wanted
        assert fp16[name][:, 0].tolist() == [16] * len(wanted)


def by_hand(lanes):
    """Four lanes at a time, each addition of numbers of twelve digits, in exact arithmetic."""
    total = 0.0
    for start in range(0, len(lanes), 4):
        tile, *others = map(float, lanes[start : start + 4])
        for lane in others:
            largest = max(abs(tile), abs(lane))
            step = 2.0 ** (np.floor(np.log2(largest)) - 11) if largest else 1.0
            tile = round(tile / step) * step + round(lane / step) * step
        total += tile
    return total


def test_tiles_are_added_as_by_hand():
    rng = np.random.default_rng(0)
    size = 2.0 ** rng.integers(-8, 12, (64, 23))
    lanes = np.float16(rng.normal(size=(64, 23)) * size).astype(np.float32)
    found = lane_sum(torch.tensor(lanes.T))
    wanted = torch.tensor([by_hand(row) for row in lanes])
    magnitude = torch.tensor(np.abs(lanes).sum(1))
    # What is left is the rounding of six sums in fp32.
    assert ((found - wanted).abs() <= 6 * 2.0**-24 * magnitude).all()
    # The bound of what a sum in fp32 leaves out, and that it leaves something out.
    lost = (torch.tensor(lanes).double().sum(1) - wanted).abs()
    assert (lost <= 3 * 2.0**-11 * magnitude).all()
    assert (lost > 2.0**-14 * magnitude).any()


def test_products_end_at_32768(probe):
    """Of any linear layer, and of convolutions of two taps; not of other operations."""
    maps = np.zeros((1, 2, 2, 4), np.float32)
    maps[0, :, 0] = [[32752, 32768, -32768, 60000], [0, 0, 0, 0]]

    def build(mb, x, one):
        first = np.float32([[[[1]], [[0]]]])
        each = np.ones((2, 1, 1, 1), np.float32)
        return [
            mb.conv(x=x, weight=first, name='two_taps'),
            mb.conv(x=x, weight=each, groups=2, name='one_tap'),
            mb.conv_transpose(x=x, weight=first.transpose(1, 0, 2, 3), name='transposed'),
            mb.mul(x=x, y=np.float32(1.5), name='elementwise'),
            mb.reduce_sum(x=x, axes=[1], name='reduction'),
            mb.linear(x=one, weight=np.ones((1, 1), np.float32), name='linear'),
        ]

    ane, fp16 = probe(build, x=maps, one=np.float32([[32752], [32768], [-40000]]))
    ended = [32752, np.inf, -np.inf, np.inf]
    for name in ('two_taps', 'transposed'):
        assert ane[name][0, 0, 0].tolist() == ended
        assert fp16[name][0, 0, 0].tolist() == [32752, 32768, -32768, 60000]
    assert ane['linear'][:, 0].tolist() == [32752, np.inf, -np.inf]
    assert fp16['linear'][:, 0].tolist() == [32752, 32768, -40000]
    assert ane['one_tap'][0, 0, 0].tolist() == maps[0, 0, 0].tolist()
    assert ane['reduction'][0, 0].tolist() == maps[0, 0, 0].tolist()
    assert ane['elementwise'][0, 0, 0].tolist() == [49120, 49152, -49152, np.inf]


def test_a_partial_sum_that_ends_stays_infinite(probe):
    build, x = summed([20000, 20000, 0, 0, -20000, -20000, 0, 0], [9000, 0, 0, 0, -9000, 0, 0, 0])
    ane, fp16 = probe(build, x=x)
    assert ane['product'][:, 0].tolist() == [np.inf, 0]
    assert ane['reduction'][:, 0].tolist() == [0, 0]
    assert fp16['product'][:, 0].tolist() == [0, 0]


def test_the_bias_is_added_in_fp16(probe):
    """2048 + 1 is rounded, half to even, and 1 is added to that (chapters 3 and 20)."""

    def build(mb, x):
        weight, bias = np.ones((1, 2, 1, 1), np.float32), np.float32([1])
        return mb.conv(x=x, weight=weight, bias=bias, name='conv')

    x = np.zeros((1, 2, 1, 2), np.float32)
    x[0, :, 0] = [[2048, 4], [1, 5]]
    ane, fp16 = probe(build, x=x)
    assert ane['conv'].reshape(-1).tolist() == [2048, 10]
    assert fp16['conv'].reshape(-1).tolist() == [2050, 10]


def test_a_number_that_is_none_is_infinite(probe):
    def build(mb, x):
        return [
            mb.relu(x=x, name='relu'),
            mb.sigmoid(x=x, name='sigmoid'),
            mb.tanh(x=x, name='tanh'),
            mb.erf(x=x, name='erf'),
            mb.exp(x=x, name='exp'),
            mb.maximum(x=x, y=ONE, name='maximum'),
            mb.softmax(x=x, axis=1, name='softmax'),
        ]

    ane, fp16 = probe(build, x=np.float32([[1, np.nan, 2]]))
    found = {k: float(v[0, 1]) for k, v in ane.items()}
    inf = np.inf
    assert found == dict(relu=inf, sigmoid=1, tanh=1, erf=1, exp=inf, maximum=inf, softmax=1)
    assert ane['softmax'].tolist() == [[0, 1, 0]]
    assert all(np.isnan(v).any() for v in fp16.values())


def test_what_is_indeterminate_is_0(probe):
    def build(mb, x, zero):
        return [
            mb.sub(x=x, y=x, name='difference'),
            mb.mul(x=x, y=zero, name='product'),
            mb.sqrt(x=mb.sub(x=zero, y=ONE), name='sqrt'),
            mb.rsqrt(x=mb.sub(x=zero, y=ONE), name='rsqrt'),
            mb.log(x=mb.sub(x=zero, y=ONE), name='log'),
        ]

    ane, fp16 = probe(build, x=[np.inf], zero=[0.0])
    assert {k: v.tolist() for k, v in ane.items()} == {name: [0] for name in ane}
    assert not any(np.signbit(v).any() for v in ane.values())
    assert all(np.isnan(v).all() for v in fp16.values())


def test_functions_of_zero_and_infinity(probe):
    def build(mb, zero, far):
        return [
            mb.inverse(x=zero, epsilon=np.float32(0), name='inverse'),
            mb.rsqrt(x=zero, epsilon=np.float32(0), name='rsqrt'),
            mb.log(x=zero, name='log'),
            mb.softplus(x=far, name='softplus'),
            mb.softsign(x=far, name='softsign'),
        ]

    ane, fp16 = probe(build, zero=[-0.0, 0.0], far=[np.inf, 1.0])
    assert ane['inverse'].tolist() == ane['rsqrt'].tolist() == [np.inf, np.inf]
    assert ane['log'].tolist() == [-45440, -45440]
    assert ane['softplus'].tolist() == [0, float(np.float16(np.log1p(np.e)))]
    assert ane['softsign'].tolist() == [0, 0.5]
    assert fp16['log'][1] == -np.inf
    assert fp16['softplus'][0] == np.inf


def test_published_errors_of_tables(probe):
    """Worst errors, and values at 0, of results that are fp16 numbers."""
    bits = np.arange(2**16).astype(np.uint16).view(np.float16)
    x = np.float32(np.unique(bits[np.abs(bits) <= 12]))

    def build(mb, x):
        names = 'sigmoid', 'tanh', 'gelu', 'silu', 'relu'
        return [getattr(mb, name)(x=x, name=name) for name in names]

    ane, fp16 = probe(build, x=x)
    wide = torch.tensor(x, dtype=torch.float64)
    exact = dict(sigmoid=wide.sigmoid(), tanh=wide.tanh(), gelu=torch.nn.functional.gelu(wide))
    published = dict(sigmoid=0.0034, tanh=0.0017, gelu=0.0059)
    for name, worst in published.items():
        error = np.abs(ane[name] - exact[name].numpy())
        # Rounding of a knot and of a result below 1, and of the published figure.
        assert error[np.abs(x) < 3].max() == pytest.approx(worst, abs=2 * 2.0**-12 + 5e-5), name
        assert error.max() <= worst + 2.0**-9, name
        # fp16 arithmetic is off by half a unit of the last place: below 16, by 2^-8.
        assert np.abs(fp16[name] - exact[name].numpy())[np.abs(x) < 1].max() < worst / 4
    at_0 = x == 0
    assert ane['gelu'][at_0][0] == pytest.approx(-0.000543, abs=5e-7)
    assert ane['silu'][at_0][0] == pytest.approx(-0.001259, abs=5e-7)
    assert fp16['gelu'][at_0][0] == fp16['silu'][at_0][0] == 0
    assert np.array_equal(ane['relu'], np.maximum(x, 0))
    assert np.array_equal(ane['tanh'], -ane['tanh'][::-1])


def test_tables_lie_between_interpolation_and_least_squares():
    """What was solved for is no end of what was searched, and gives the published figures."""
    tables = sigmoid_knots(), tanh_knots(), gelu_knots(), silu_knots()
    assert all(0 < knots.fraction < 1 / 12 for knots in tables)
    assert all(2 < knots.high < 16 for knots in tables)
    errors = [knots.worst_error() for knots in tables[:3]]
    assert errors == pytest.approx([0.0034, 0.0017, 0.0059], rel=1e-6)


def test_a_slice_behind_the_start_of_a_row(probe):
    """4094 passes, 4096 is infinite, on chips up to A14; not along other axes (chapters 3, 12)."""
    x = np.float32([4094, 4096, -4096, 60000])
    maps = np.tile(x[:, None, None], (1, 1, 3, 3))

    def build(mb, x):
        return [
            mb.slice_by_index(x=x, begin=[0, 0, 0, 1], end=[1, 4, 3, 3], name='width'),
            mb.slice_by_size(x=x, begin=[0, 0, 0, 2], size=[1, 4, 3, 1], name='sized'),
            mb.slice_by_index(x=x, begin=[0, 0, 1, 0], end=[1, 4, 3, 3], name='height'),
            mb.slice_by_index(x=x, begin=[0, 0, 0, 0], end=[1, 4, 3, 2], name='start'),
        ]

    *engines, fp16 = probe(build, [chip.name for chip in KNOWN], x=maps)
    for chip, ane in zip(KNOWN, engines):
        overflow = chip.engine[:3] in ('H13', 'H14')
        wanted = [4094, np.inf, -np.inf, np.inf] if overflow else x.tolist()
        assert ane['width'][0, :, 0, 0].tolist() == ane['sized'][0, :, 0, 0].tolist() == wanted
        for name in ('height', 'start'):
            assert np.array_equal(ane[name], fp16[name])


def test_denormal_sums_by_chip(probe):
    """Flushed on M1, kept on M5, and kept by elementwise operations of both."""
    least = 2.0**-24

    def build(mb, x):
        return [
            mb.matmul(x=x, y=np.ones((2, 1), np.float32), name='product'),
            mb.mul(x=x, y=np.float32(2), name='elementwise'),
        ]

    first, later, fp16 = probe(build, ('M1', 'M5'), x=[[least, least]])
    assert first['product'].tolist() == [[0]]
    for found in (later, fp16):
        assert found['product'].tolist() == [[2 * least]]
    for found in (first, later):
        assert found['elementwise'].tolist() == [[2 * least, 2 * least]]


def test_unknown_chips_are_refused():
    with pytest.raises(ProgramError, match="arithmetic of chip 'A12'; allowed: A13, A14, A15"):
        numerics_of('A12')
    with pytest.raises(ProgramError, match="chip is 'A99'; allowed: A12, A13"):
        numerics_of('A99')
    for chip in KNOWN:
        # No fact is surer than that the chip has this engine.
        assert all(LABELS.index(f.label) >= LABELS.index(chip.sureness) for f in chip.numerics)


def two_layers(mb, x):
    first = mb.conv(x=x, weight=np.full((2, 2, 1, 1), 100, np.float32), name='first')
    second = mb.conv(x=first, weight=np.full((2, 2, 1, 1), 2, np.float32), name='second')
    third = mb.conv(x=second, weight=np.full((1, 2, 1, 1), 0.01, np.float32), name='third')
    return mb.relu(x=third, name='last')


def test_overflow_names_the_layer(tmp_path):
    x = torch.ones(3, 1, 2, 4, 4)
    x[1, 0, :, 0, 0], x[2, 0, :, 1, 1:3] = 41, -45  # 32 800, and -36 000
    path = save_mil(two_layers, {'x': x[0].numpy()}, tmp_path, half=True)
    half, engine = (load_program(path, a, record_range=True) for a in ('fp16', 'ane'))
    half.predict_batch({'x': x})
    assert half.overflows == {}
    batch = engine.predict_batch({'x': x})
    assert engine.overflows == {'second_cast_fp16': 6}
    assert engine.ranges['first_cast_fp16'] == 9000
    engine.reset()
    single = torch.cat([torch.tensor(engine.predict({'x': v})['last']) for v in x])
    # A row alone is that of a batch to the bit, as on the engine.
    assert torch.equal(single, batch['last'])
    assert engine.overflows == {'second_cast_fp16': 6}
    assert load_program(path, 'fp32').predict({'x': x[1]})['last'].max() == pytest.approx(
        656, rel=1e-3
    )


def test_operations_in_fp32_run_elsewhere(tmp_path):
    x = np.full((1, 2, 4, 4), 41, np.float32)
    path = save_mil(two_layers, {'x': x}, tmp_path)
    full, engine = (load_program(path, a).predict({'x': x})['last'] for a in ('fp32', 'ane'))
    assert np.array_equal(full, engine)


def test_rows_of_many_lanes_are_those_of_few(monkeypatch):
    """Where lanes are added and where they are not, the result is the same but for rounding."""
    rng = torch.Generator().manual_seed(0)
    x = torch.randn(5, 64, generator=rng).half().float()
    weight = torch.randn(8, 64, generator=rng).half().float()
    numerics = numerics_of('A14')
    operation = Operation('l', 'linear', {'weight': weight.numpy()}, ('y',), ('fp16',))
    linear = engine_kind(OPS['linear'], operation, numerics, Tables(Ledger()))
    few = linear(x, weight)
    monkeypatch.setattr('mmpretrain_mobileone_ext.coreml.runtime.engine.rules.FEW', 0)
    many = linear(x, weight)
    bound = 3 * 2.0**-11 * (x.abs() @ weight.abs().T) + 2.0**-10 * many.abs()
    assert ((few - many).abs() <= bound).all()
    assert not torch.equal(few, many)
    assert product_sum(torch.full((4, 1), 9000.0)).isinf().all()


SUMS = [n for n in RULES if n in PRODUCTS or n.startswith('reduce')]
# Of tables; of a logarithm near 0, the rounding of a number near 1.
ERRORS = dict(sigmoid=0.0034, tanh=0.0017, gelu=0.0059, silu=0.0137, log=2.0**-10)


@pytest.mark.parametrize('name', [*RULES, *FUNCTIONS])
def test_a_rule_changes_the_rounding_and_nothing_else(name):
    """Of ordinary numbers, on random parameters."""
    rng = np.random.default_rng([1, *name.encode()])
    for _ in range(TRIES):
        given = {k: half(v) for k, v in arguments(name, rng).items()}
        constants = {k: v for k, v in given.items() if not isinstance(v, torch.Tensor)}
        if 'weight' in given:
            constants['weight'] = given['weight'].numpy()
        operation = Operation('o', name, constants, ('y',), ('fp16',))
        kind = engine_kind(OPS[name], operation, numerics_of('A14'), Tables(Ledger()))
        wanted = OPS[name](**given)
        if not wanted.is_floating_point():
            continue  # what runs there is fp16
        found = kind(**given)
        assert (kind.data, kind.lists) == (OPS[name].data, OPS[name].lists)
        assert found.shape == wanted.shape
        bound = 2.0**-8 * wanted.abs() + ERRORS.get(name, 0.0)
        if name in SUMS:
            bound = 2.0**-8 * OPS[name](**{k: absolute(v) for k, v in given.items()}).abs()
        # Logarithms below are of what fp16 takes for 0.
        ordinary = wanted.isfinite() & (wanted.abs() < (4094 if name != 'log' else 16))
        assert ((found - wanted).abs() <= bound + 2.0**-14)[ordinary].all()


def half(value):
    """Arguments as fp16 has them."""
    if isinstance(value, list):
        return [half(v) for v in value]
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.half().float() if is_float else value


def absolute(value):
    if isinstance(value, list):
        return [absolute(v) for v in value]
    is_float = isinstance(value, torch.Tensor) and value.is_floating_point()
    return value.abs() if is_float else value


def test_a_neuralnetwork_runs_there_as_a_whole(tiny_net, tmp_path):
    """A .mlmodel declares no types: fp16 arithmetic rounds nothing of it, the engine everything."""
    path = save_torch(
        tiny_net,
        tmp_path,
        torch.rand(1, 3, *SIZE),
        kind='neuralnetwork',
        inputs=[image_input((1, 3, *SIZE), scale=1 / 58)],
        classifier_config=classifier_config(),
    )
    pixels = {'image': torch.cat([planar(photo(seed=i)) for i in range(3)])}
    full, engine = (load_program(path, a).predict_batch(pixels) for a in ('fp32', 'ane'))
    (name,) = (k for k in full if k != 'classLabel')
    assert torch.equal(engine[name], engine[name].half().float())
    assert 1e-5 < relative_error(engine[name], full[name]) < 1e-2


def test_budgets_hold(tmp_path):
    """What lanes and tables take is counted before it is computed."""

    def build(mb, x):
        weight = np.ones((1000, 500), np.float32)
        return mb.gelu(x=mb.linear(x=x, weight=weight), mode='EXACT', name='last')

    x = np.ones((1, 500), np.float32)
    path = save_mil(build, {'x': x}, tmp_path, half=True)
    least = 500 * 1000 * 4
    # The weights, and their products.
    assert (
        load_program(path, 'ane', memory_budget=20 * least).predict({'x': x})['last'][0, 0] == 500
    )
    assert load_program(path, 'fp16', memory_budget=1.5 * least).predict({'x': x})
    with pytest.raises(ProgramError, match='memory_budget'):
        load_program(path, 'ane', memory_budget=1.5 * least)
    with pytest.raises(ProgramError, match='work_budget'):
        load_program(path, 'ane', work_budget=1e6)


def loaded(made, arithmetic='ane', memory_budget=1e8):
    """A program made operation by operation."""
    place = torch.device('cpu')
    return ReferenceProgram(made.program, arithmetic, False, place, memory_budget, 1e12)


@pytest.mark.parametrize('kind', FUNCTIONS)
def test_a_table_is_made_once_and_counted(kind):
    """However often a program uses it; each parameter has one of its own."""
    made, last = Made(shape=(1, 4)), 'x'
    for _ in range(50):
        last = made.op(kind, shape=(1, 4), of=last)
    (size,) = {loaded(made)._ledger.held, 4 * 2**16}
    assert loaded(made, 'fp16')._ledger.held == 0
    with pytest.raises(ProgramError, match=f"the table of operation '{kind}' .*memory_budget"):
        loaded(made, memory_budget=size - 1)
    if FUNCTIONS[kind].reads == 'epsilon':
        for k in range(3):
            made.op(kind, shape=(1, 4), epsilon=np.float32(k + 1))
        assert loaded(made)._ledger.held == 4 * size


ODD = {
    'mode': ('gelu', {'mode': 'NOPE'}),
    'many numbers': ('rsqrt', {'epsilon': np.zeros(3, np.float32)}),
    'a word': ('log', {'epsilon': 'small'}),
    'computed': ('inverse', {'epsilon': Value('x')}),
    'scalar weight': ('conv', {'weight': np.float16(1)}),
}


@pytest.mark.parametrize(('kind', 'given'), ODD.values(), ids=ODD)
def test_odd_parameters_are_refused_in_one_line(kind, given):
    made = Made()
    made.op(kind, **given)
    with pytest.raises(ProgramError, match=rf"^operation '{kind}' \(named .*\) failed: .+$"):
        loaded(made)


@pytest.mark.parametrize('side', [1, 2])
def test_what_only_scales_has_all_of_fp16(side):
    """Of a pooled map, too, which is computed as a product of few numbers."""
    made = Made(shape=(1, 1, side, side))
    made.op('conv', shape=(1, 1, side, side), weight=np.full((1, 1, 1, 1), 200, np.float16))
    program = loaded(made)
    (found,) = program.predict({'x': np.full((1, 1, side, side), 200, np.float32)}).values()
    assert (found == 40_000).all()
    assert program.overflows == {}


NOTHING = {
    'linear': dict(shape=(1, 3), weight=np.zeros((3, 0), np.float16)),
    'reduce_sum': dict(shape=(1, 1), axes=np.int32([1]), keep_dims=True),
}


@pytest.mark.parametrize(('kind', 'given'), NOTHING.items(), ids=NOTHING)
def test_a_sum_of_nothing_is_0(kind, given):
    made = Made(shape=(1, 0))
    made.op(kind, **given)
    (found,) = loaded(made).predict({'x': np.zeros((1, 0), np.float32)}).values()
    assert np.array_equal(found, np.zeros(given['shape']))


def test_inputs_of_a_neuralnetwork_are_fp16():
    made = Made(feature=Feature('x', 'tensor', (1, 4), 'fp32'), format='neuralnetwork')
    made.op('identity', shape=(1, 4), dtype='fp32')
    made.operations = [replace(o, attributes={'layer': 'activation'}) for o in made.operations]
    x = np.float32([[1 + 2.0**-12, 1e5, 3, np.nan]])
    (found,) = loaded(made).predict({'x': x}).values()
    assert np.array_equal(found, [[1, np.inf, 3, np.inf]])
    (kept,) = loaded(made, 'fp16').predict({'x': x}).values()
    assert np.array_equal(kept, x, equal_nan=True)


@pytest.mark.parametrize(('kind', 'name'), [('linear', 'weight'), ('mul', 'y')])
def test_constants_of_a_neuralnetwork_are_fp16(kind, name):
    """As those of an mlprogram, which are stored so."""
    made = Made(feature=Feature('x', 'tensor', (1, 2), 'fp32'), format='neuralnetwork')
    made.op(kind, shape=(1, 2), dtype='fp32', **{name: np.float32([[7e4, 0], [0, 0.5]])[:, :2]})
    made.operations = [replace(o, attributes={'layer': kind}, shapes=()) for o in made.operations]
    x = {'x': np.float32([[0.125, 1]])}
    (found,), (kept,) = (loaded(made, a).predict(x).values() for a in ('ane', 'fp16'))
    assert (found[0, 0], kept[0, 0]) == (np.inf, 8750)
