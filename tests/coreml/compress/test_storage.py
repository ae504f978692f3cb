"""Ways to store a weight: names, targets, groups, and bytes as on disk."""

from __future__ import annotations

import numpy as np
import pytest
from compress_kit import save_small
from hypothesis import given
from hypothesis import strategies as st

from mmpretrain_mobileone_ext.coreml.compress.apply import apply_plan
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.compress.scheme import KINDS, fixed_scheme
from mmpretrain_mobileone_ext.coreml.compress.storage import (
    DENSE,
    INT8,
    Int4,
    Joint,
    Palette,
    Sparse,
    Storage,
)
from mmpretrain_mobileone_ext.coreml.compress.weights import find_weights
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.errors import ExportError
from mmpretrain_mobileone_ext.utils.files import tree_bytes

NAMES = {
    'int8': INT8,
    'int4': Int4(),
    'palettize4': Palette(4),
    'prune50': Sparse(50),
    'prune5': Sparse(5),
    'prune25+int8': Joint(Sparse(25), INT8),
    'prune99+palettize3': Joint(Sparse(99), Palette(3)),
}
CODES = st.sampled_from((INT8, *map(Palette, Palette.POINTS)))
SPARSE = st.integers(1, 99).map(Sparse)


@pytest.mark.parametrize('name', NAMES)
def test_names(name):
    assert NAMES[name].name == name
    assert fixed_scheme(name) == NAMES[name]


@given(CODES | SPARSE | st.builds(Joint, SPARSE, CODES))
def test_every_name_is_read_back(storage):
    assert fixed_scheme(storage.name) == storage


def test_no_two_kinds_share_a_name_or_an_operation():
    found = [s for kind in KINDS if issubclass(kind, Storage) for s in kind.searched()]
    assert len({s.name for s in found}) == len(set(found)) == len(found)
    words = [op for kind in KINDS if issubclass(kind, Storage) for op in kind.words]
    assert len(set(words)) == len(words)


@pytest.mark.parametrize(
    'name',
    [
        '',
        'int3',
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
        'dense',
        'prune50int8',
        'prune50+dense',
        'int8 ',
    ],
)
def test_no_names(name):
    with pytest.raises(ExportError, match='allowed: none, int8'):
        fixed_scheme(name)


@pytest.mark.parametrize(
    ('name', 'meant'),
    [('palletize6', 'palettize6'), ('INT8', 'int8'), ('prun50', 'prune50'), ('Auto', 'auto')],
)
def test_a_misspelt_name_is_told_the_right_one(name, meant):
    with pytest.raises(ExportError, match=rf'{name}.; did you mean {meant}\?; allowed: none'):
        fixed_scheme(name)


def test_bits_that_no_table_has_are_told_which_ones_have():
    with pytest.raises(ExportError, match=r'palettize<bits> \(8, 6, 4, 3, 2, 1\)') as caught:
        fixed_scheme('palettize5')
    assert 'did you mean' not in str(caught.value)


def test_oldest():
    assert [fixed_scheme(n).oldest for n in ('int8', 'palettize4', 'palettize1', 'prune50')] == [
        'iOS16'
    ] * 4
    assert [
        fixed_scheme(n).oldest for n in ('palettize3', 'prune50+int8', 'prune9+palettize4')
    ] == ['iOS18'] * 3


@given(
    channels=st.integers(1, 300),
    inputs=st.integers(1, 300),
    bits=st.sampled_from(tuple(Palette.POINTS)),
)
def test_groups(channels, inputs, bits):
    shape = (channels, inputs, 1, 1)
    assert Palette(bits).group_size(shape, 'iOS16') == channels
    assert Palette(bits).group_size(shape, 'iOS17') == channels
    size = Palette(bits).group_size(shape, 'iOS18')
    assert channels % size == 0
    if size < channels:
        assert size >= 8
        tables = channels // size * 2**bits * 2
        assert tables <= np.prod(shape) * bits / 8 / 16


def test_groups_of_known_shapes():
    assert Palette(4).group_size((1024, 1024, 1, 1), 'iOS18') == 8
    assert Palette(4).group_size((128, 64, 1, 1), 'iOS18') == 16
    assert Palette(4).group_size((64, 1, 3, 3), 'iOS18') == 64
    assert Palette(4).group_size((10, 128), 'iOS18') == 10


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
                'int4',
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
        storage = fixed_scheme(name)
        out = apply_plan(
            source, {w.name: storage for w in weights}, tmp_path / f'{name}.mlpackage', Palettes()
        )
        expected = sum(
            storage.size(w.values, target) - DENSE.size(w.values, target) for w in weights
        )
        predicted.append(expected)
        found = tree_bytes(out) - dense
        assert abs(found - expected) < 250 * len(weights), name
    assert len(set(predicted)) == len(names)
    assert max(predicted) - min(predicted) > 4 * 250 * len(weights)


def test_small_weights_are_not_worth_integers():
    """Scale, zero point and records cost more than 288 weights save."""
    for channels, smaller in ((32, False), (256, True)):
        values = np.zeros((channels, 1, 3, 3), np.float16)
        assert (INT8.size(values, 'iOS16') < DENSE.size(values, 'iOS16')) == smaller
    wide, long = np.zeros((8, 8), np.float32), np.zeros((8, 16), np.float16)
    assert DENSE.size(wide, 'iOS16') == DENSE.size(long, 'iOS16')
