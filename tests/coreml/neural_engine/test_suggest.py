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


@pytest.mark.parametrize(('kernel', 'small'), [((1, 7), (1, 3)), ((5, 2), (3, 2))])
def test_only_long_sides_of_kernels_shrink(kernel, small):
    m = Made((1, 512, 28, 28))
    m.conv((512, 512, *kernel), (1, 512, 28, 28))
    (layer,) = layers_of(m.program)
    (change,) = [c for f in CHANGES if (c := f((layer,), CHIPS['A14'])) and 'sides' in c.change]
    (found,) = change.layers
    assert found.kernel == small
    area = np.prod(small) / np.prod(kernel)
    assert (found.macs, found.weights) == (layer.macs * area, layer.weights * area)


def test_patches_keep_their_kernels():
    m = Made((1, 3, 224, 224))
    m.conv((768, 3, 16, 16), (1, 768, 14, 14), strides=np.array([16, 16]))
    assert not any('sides' in change for change in by_change(layers_of(m.program)))


@pytest.mark.parametrize(
    'steps', [dict(strides=np.array([2, 2])), dict(dilations=np.array([2, 2]))]
)
def test_palettes_are_no_help_to_strided_and_dilated_layers(steps):
    m = Made((1, 512, 14, 14))
    m.conv((512, 512, 3, 3), (1, 512, 14, 14), **steps)
    assert not any('4 bits' in change for change in by_change(layers_of(m.program)))
    plain = Made((1, 512, 14, 14))
    plain.conv((512, 512, 3, 3), (1, 512, 14, 14))
    assert any('4 bits' in change for change in by_change(layers_of(plain.program)))


def test_channels_fill_the_cores():
    m = Made((1, 5, 8, 8))
    m.conv((1021, 5, 1, 1), (1, 1021, 8, 8))
    m.conv((10, 1021, 1, 1), (1, 10, 8, 8), of='conv_0')
    layers = layers_of(m.program)
    change = channels_of(layers, 'A14')
    assert change.layers[0].outputs == ((1, 1020, 8, 8),)
    assert change.layers[0].weights == 1020 * 5
    # The ten at the end are what the network tells.
    assert (change.places, change.layers[1]) == (1, layers[1])
    assert channels_of(layers, 'M5').layers[0].outputs == ((1, 1008, 8, 8),)


def channels_of(layers, chip):
    found = (f(layers, CHIPS[chip]) for f in CHANGES)
    return next(c for c in found if c and 'multiples' in c.change)


def test_the_resolution_is_the_largest_that_fits(networks):
    layers = networks['mobilenet-v2']
    found = by_change(layers)['images of 192 pixels instead of 224']
    largest = max(max(layer.map_bytes) for layer in layers if layer.is_pass)
    limit = CHIPS['A14'].limit('working set').value
    assert largest > limit >= largest * (192 / 224) ** 2
    assert found.places == sum(max(layer.map_bytes, default=0) > limit for layer in layers)
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
            is_small = s.gain_ms < 0.01 * before.ms
            assert not is_small or 'head' in s.change, (name, s.change)
            assert s.sentence.startswith('no gain by the estimate: ') == is_small
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
        for change in filter(None, (f(layers, CHIPS['A14']) for f in CHANGES[:2])):
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
