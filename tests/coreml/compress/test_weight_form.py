"""Forms of weights: names, targets, groups, and bytes as on disk."""

from __future__ import annotations

import numpy as np
import pytest
from compress_kit import save_small
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.coreml.compress.apply import apply_plan
from mmpretrain_mobileone_ext.coreml.compress.coding import (
    DENSE,
    INT8,
    TABLE_BITS,
    Form,
    find_weights,
    group_size,
    parse_form,
    stored_bytes,
    table,
)
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.utils.files import tree_bytes

NAMES = {
    'dense': DENSE,
    'int8': INT8,
    'palettize4': table(4),
    'prune50': Form(pruned=50),
    'prune5': Form(pruned=5),
    'prune25+int8': Form('int8', 8, 25),
    'prune99+palettize3': table(3, 99),
}


@pytest.mark.parametrize('name', NAMES)
def test_names(name):
    assert NAMES[name].name == name
    if name != 'dense':
        assert parse_form(name) == NAMES[name]


@given(bits=st.sampled_from((0, *TABLE_BITS)), integers=st.booleans(), pruned=st.integers(0, 99))
def test_every_name_is_read_back(bits, integers, pruned):
    form = (
        Form('int8', 8, pruned)
        if integers
        else table(bits, pruned)
        if bits
        else Form(pruned=pruned)
    )
    if form != DENSE:
        assert parse_form(form.name) == form


@pytest.mark.parametrize(
    'name',
    [
        '',
        'int4',
        'palettize',
        'palettize5',
        'palettize16',
        'prune',
        'prune0',
        'prune100',
        'prune05',
        'prune50+',
        '+int8',
        'int8+prune50',
        'INT8',
        'prune50int8',
        'prune50+dense',
        'int8 ',
    ],
)
def test_no_names(name):
    with pytest.raises(ExportError, match='allowed: dense, int8'):
        parse_form(name)


def test_oldest():
    assert [parse_form(n).oldest for n in ('int8', 'palettize4', 'palettize1', 'prune50')] == [
        'iOS16'
    ] * 4
    assert [parse_form(n).oldest for n in ('palettize3', 'prune50+int8', 'prune9+palettize4')] == [
        'iOS18'
    ] * 3


@given(channels=st.integers(1, 300), inputs=st.integers(1, 300), bits=st.sampled_from(TABLE_BITS))
def test_groups(channels, inputs, bits):
    shape = (channels, inputs, 1, 1)
    assert group_size(shape, bits, 'iOS16') == channels
    assert group_size(shape, bits, 'iOS17') == channels
    size = group_size(shape, bits, 'iOS18')
    assert channels % size == 0
    if size < channels:
        assert size >= 8
        tables = channels // size * 2**bits * 2
        assert tables <= np.prod(shape) * bits / 8 / 16


def test_groups_of_known_shapes():
    assert group_size((1024, 1024, 1, 1), 4, 'iOS18') == 8
    assert group_size((128, 64, 1, 1), 4, 'iOS18') == 16
    assert group_size((64, 1, 3, 3), 4, 'iOS18') == 64
    assert group_size((10, 128), 4, 'iOS18') == 10


@pytest.mark.parametrize(
    ('target', 'names'),
    [
        (
            'iOS16',
            (
                'int8',
                'palettize8',
                'palettize6',
                'palettize4',
                'palettize2',
                'palettize1',
                'prune50',
                'prune75',
            ),
        ),
        (
            'iOS18',
            (
                'int8',
                'palettize4',
                'palettize3',
                'palettize2',
                'prune50',
                'prune50+int8',
                'prune25+palettize4',
            ),
        ),
    ],
)
def test_bytes_as_on_disk(target, names, tmp_path):
    """Within 250 bytes a weight: names in the specification differ."""
    source = save_small(tmp_path, target)
    weights = find_weights(read_program(source))
    dense = tree_bytes(source)
    predicted = []
    for name in names:
        form = parse_form(name)
        out = apply_plan(
            source, {w.name: form for w in weights}, tmp_path / f'{name}.mlpackage', Palettes()
        )
        expected = sum(
            stored_bytes(form, w.shape, target) - stored_bytes(DENSE, w.shape, target)
            for w in weights
        )
        predicted.append(expected)
        found = tree_bytes(out) - dense
        assert abs(found - expected) < 250 * len(weights), name
    assert len(set(predicted)) == len(names)
    assert max(predicted) - min(predicted) > 4 * 250 * len(weights)


def test_small_weights_are_not_worth_integers():
    """Scale, zero point and records cost more than 288 weights save."""
    assert stored_bytes(INT8, (32, 1, 3, 3), 'iOS16') > stored_bytes(DENSE, (32, 1, 3, 3), 'iOS16')
    assert stored_bytes(INT8, (256, 1, 3, 3), 'iOS16') < stored_bytes(
        DENSE, (256, 1, 3, 3), 'iOS16'
    )
    assert stored_bytes(DENSE, (8, 8), 'iOS16', 4) == stored_bytes(DENSE, (8, 16), 'iOS16', 2)
