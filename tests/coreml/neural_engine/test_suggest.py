"""What would shorten a network, estimated on its own layers."""

from __future__ import annotations

import numpy as np
import pytest
from engine_kit import Made

from mmpretrain_mobileone_ext.commands.benchmark.latency.run import LAYERS, read_features
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.estimate import (
    ORDER,
    Estimator,
    fitted_model,
)
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.features import layers_of
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.forms import WORKING_SET
from mmpretrain_mobileone_ext.coreml.neural_engine.suggest import CHANGES, UNSEEN, suggest
from mmpretrain_mobileone_ext.coreml.program.graph import Value
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS

ESTIMATE = Estimator(fitted_model(), CHIPS['A14'])
WIDE, VECTOR = (1, 64, 112, 112), (1, 64, 1, 1)


@pytest.fixture(scope='module')
def networks():
    return read_features(LAYERS)


def block(activation='relu', se=False, self_gate=False, kernel=3):
    """Layers of a depthwise convolution and what is behind it."""
    m = Made(WIDE)
    x = m.conv((64, 1, kernel, kernel), WIDE, groups=np.int32(64))
    if se:
        mean = m.op('reduce_mean', VECTOR, of=x)
        gate = m.op('sigmoid', VECTOR, of=m.conv((64, 64, 1, 1), VECTOR, of=mean))
        x = m.op('mul', WIDE, of=x, y=Value(gate))
    if self_gate:
        added = m.op('add', WIDE, of=x, y=np.float16(3))
        clipped = m.op('clip', WIDE, of=added)
        x = m.op('mul', WIDE, of=x, y=Value(clipped))
    else:
        x = m.op(activation, WIDE, of=x)
    m.conv((64, 64, 1, 1), WIDE, of=x)
    return layers_of(m.program)


def by_change(layers):
    return {s.change: s for s in suggest(layers, ESTIMATE)}


@pytest.mark.parametrize(
    ('wrong', 'change'),
    [
        (dict(se=True), 'leave squeeze-and-excitation out'),
        (dict(activation='silu'), 'ReLU instead of silu'),
        (dict(self_gate=True), 'ReLU instead of x * f(x), as hard-swish'),
    ],
)
def test_a_change_gives_exactly_the_network_without_it(wrong, change):
    found = by_change(block(**wrong))[change]
    plain = ESTIMATE(block())
    assert found.ms == pytest.approx(plain.ms, rel=1e-6)
    assert found.gain_ms == pytest.approx(ESTIMATE(block(**wrong)).ms - plain.ms, rel=1e-3)
    assert (found.places, found.label) == (1, 'predicted')
    assert change not in by_change(block())


def test_kernels_shrink_where_products_count():
    m = Made((1, 256, 28, 28))
    m.conv((256, 256, 7, 7), (1, 256, 28, 28))
    (found,) = [s for s in suggest(layers_of(m.program), ESTIMATE) if 'kernels' in s.change]
    small = Made((1, 256, 28, 28))
    small.conv((256, 256, 3, 3), (1, 256, 28, 28))
    assert found.ms == pytest.approx(ESTIMATE(layers_of(small.program)).ms)


def test_channels_fill_the_cores():
    m = Made((1, 5, 8, 8))
    m.conv((1021, 5, 1, 1), (1, 1021, 8, 8))
    whole = [s for s in suggest(layers_of(m.program), ESTIMATE) if 'multiples of 4' in s.change]
    assert not whole or whole[0].gain_ms > 0
    change = next(c for f in CHANGES if (c := f(layers_of(m.program))) and 'multiples' in c.change)
    assert change.layers[0].outputs == ((1, 1020, 8, 8),)
    assert change.layers[0].weights == 1020 * 5


def test_the_resolution_is_the_largest_that_fits(networks):
    layers = networks['mobilenet-v2']
    found = by_change(layers)['images of 192 pixels instead of 224']
    largest = max(max(layer.map_bytes) for layer in layers if layer.is_pass)
    assert largest > WORKING_SET >= largest * (192 / 224) ** 2
    assert found.places == sum(max(layer.map_bytes, default=0) > WORKING_SET for layer in layers)
    assert not any('pixels' in change for change in by_change(networks['mobileone-s1']))


def test_only_what_applies_sorted_by_what_it_saves(networks):
    for name, layers in networks.items():
        found = suggest(layers, ESTIMATE)
        gains = [s.gain_ms for s in found]
        before = ESTIMATE(layers)
        assert gains == sorted(gains, reverse=True)
        for s in found:
            assert s.ms <= before.ms
            assert s.share == pytest.approx(s.gain_ms / before.ms)
            is_small = s.gain_ms < 0.002 * before.ms
            assert not is_small or 'head' in s.change, (name, s.change)
    assert {s.change for s in suggest(networks['repvgg-a0'], ESTIMATE)}.isdisjoint(
        ['leave squeeze-and-excitation out', 'ReLU instead of silu']
    )


def test_labels_say_how_far_to_believe_a_change(networks):
    found = by_change(networks['mobileone-s2'])
    assert found['weights of 4 bits (--compress palettize4)'].label == UNSEEN
    assert {s.label for s in suggest(networks['mobilevit-s'], ESTIMATE)} == {ORDER}


def test_published_gates_are_all_found(networks):
    for name, gates in (('mobileone-s4', 12), ('mobilenet-v3-small', 9), ('efficientnet-b0', 16)):
        assert by_change(networks[name])['leave squeeze-and-excitation out'].places == gates


def test_a_changed_network_is_still_one(networks):
    """What layers read is what is before them, of the same shape."""
    for layers in networks.values():
        for change in filter(None, (f(layers) for f in CHANGES[:2])):
            for i, layer in enumerate(change.layers):
                assert all(-1 <= r < i for r in layer.reads)


def test_palettes_are_no_help_where_they_are_expanded(networks):
    old = Estimator(fitted_model(), CHIPS['A12'])
    assert not any('4 bits' in s.change for s in suggest(networks['mobileone-s2'], old))


def test_a_mean_over_channels_is_no_gate():
    m = Made(WIDE)
    x = m.conv((64, 64, 1, 1), WIDE)
    mean = m.op('reduce_mean', (1, 1, 112, 112), of=x)
    m.op('mul', WIDE, of=x, y=Value(mean))
    assert not any('squeeze' in change for change in by_change(layers_of(m.program)))
