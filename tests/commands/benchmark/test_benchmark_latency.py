"""``benchmark-latency``: networks as they are built, and what the command says and writes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mmpretrain_mobileone_ext.commands.benchmark.latency.networks import THIRTY, layers, network
from mmpretrain_mobileone_ext.commands.benchmark.latency.options import LatencyOptions
from mmpretrain_mobileone_ext.commands.benchmark.latency.plain import ACTIVATIONS, PLANS
from mmpretrain_mobileone_ext.commands.benchmark.latency.run import (
    LAYERS,
    read_features,
    run,
    write_features,
)
from mmpretrain_mobileone_ext.commands.benchmark.latency.table import forms_table, lines
from mmpretrain_mobileone_ext.coreml.neural_engine.latency.published import published
from mmpretrain_mobileone_ext.errors import MobileOneExtError, SpecError
from mmpretrain_mobileone_ext.utils.text import PlainConsole

MEASURED = Path(__file__).resolve().parents[3] / 'docs/measured/latency.json'
#: Multiply-adds and parameters, millions, as the papers state them (MobileOne, tables 7 and 9).
PAPER = {
    'mobileone-s0': (275, 2.079),
    'mobileone-s4': (2978, 14.838),
    'mobilenet-v1': (575, 4.2),
    'mobilenet-v2': (300, 3.4),
    'mobilenet-v3-small': (56, 2.5),
    'mobilenet-v3-large': (219, 5.4),
    'shufflenet-v2-1x': (146, 2.3),
    'shufflenet-v2-2x': (591, 7.4),
    'efficientnet-b0': (390, 5.3),
    'mixnet-s': (256, 4.1),
    'repvgg-a0': (1400, 8.3),
}


@pytest.mark.parametrize('name', PAPER)
def test_networks_are_those_of_the_paper(name):
    """By sizes that the layers are not made from."""
    found = read_features(LAYERS)[name]
    macs, weights = PAPER[name]
    assert sum(layer.macs for layer in found) / 1e6 == pytest.approx(macs, rel=0.07)
    assert sum(layer.weights for layer in found) / 1e6 == pytest.approx(weights, rel=0.04)


@pytest.mark.parametrize('plan', PLANS)
def test_thirty_layers_are_thirty(plan):
    found = read_features(LAYERS)
    for kind in ACTIVATIONS:
        layers = found[f'thirty-layers/{plan}/{kind}']
        pooled = [layer for layer in layers if layer.type == 'reduce_mean']
        convolutions = [layer for layer in layers if layer.type == 'conv']
        # Squeeze-and-excitation is a mean and two convolutions a layer.
        more = 30 if kind == 'se' else 0
        assert len(pooled) == 1 + more
        assert len(convolutions) == 30 + 2 * more


def test_the_file_of_layers_is_read_as_it_was_written(tmp_path):
    networks = read_features(LAYERS)
    assert set(networks) == {*published().ms, *THIRTY}
    assert read_features(write_features(tmp_path / 'a.json.gz', networks)) == networks
    fewer = {name: found for name, found in networks.items() if name != 'mixnet-s'}
    path = write_features(tmp_path / 'b.json.gz', fewer)
    with pytest.raises(MobileOneExtError, match='lacks mixnet-s'):
        read_features(path)


def test_what_was_found_is_shown(capsys):
    found = json.loads(MEASURED.read_text('utf-8'))
    PlainConsole(width=200).print(forms_table(found))
    text = capsys.readouterr().out
    assert all(row['name'] in text for row in found['forms'])
    assert '(baseline)' in text
    assert any('8 of 10 further networks' in line for line in lines(found))


def test_one_source_of_layers():
    with pytest.raises(SpecError, match='give one of them'):
        LatencyOptions(export=Path('a'), features=Path('b'))


def test_a_network_that_nobody_can_build():
    with pytest.raises(MobileOneExtError, match="'alexnet' is none of the networks"):
        network('alexnet')


def without_names(layer):
    """coremltools numbers values, and orders those of a sum or product, as it likes."""
    fields = {**vars(layer), 'name': ''}
    if layer.type in ('add', 'mul'):
        fields.update(inputs=sorted(layer.inputs), reads=sorted(layer.reads))
    return fields


@pytest.mark.slow
@pytest.mark.parametrize('name', ['mobileone-s0', 'mobilenet-v1', 'thirty-layers/separable/se'])
def test_an_export_has_the_layers_of_the_file(name, tmp_path):
    found, kept = layers(network(name), tmp_path), read_features(LAYERS)[name]
    assert list(map(without_names, found)) == list(map(without_names, kept))


@pytest.mark.slow
def test_the_command_writes_what_it_found(tmp_path):
    out, model = tmp_path / 'latency.json', tmp_path / 'fitted.json'
    assert run(['--json', str(out), '--write-model', str(model)]) == out
    found = json.loads(out.read_text())
    assert found['model'] == json.loads(model.read_text())
    assert len(found['networks']) == 15
