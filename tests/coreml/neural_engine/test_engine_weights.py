"""How weights lie in a file: bits and bytes, against those that a way to store them counts."""

from __future__ import annotations

import pytest
from compress_kit import save_small

from mmpretrain_mobileone_ext.coreml.compress.apply import apply_plan
from mmpretrain_mobileone_ext.coreml.compress.kmeans import Palettes
from mmpretrain_mobileone_ext.coreml.compress.scheme import fixed_scheme
from mmpretrain_mobileone_ext.coreml.compress.weights import find_weights
from mmpretrain_mobileone_ext.coreml.neural_engine.weights import weights_of
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS

#: Of scalars and shapes in the specification, which the way to store does not count.
_FEW = 40


SCHEMES = [
    ('int8', 8, 'iOS16'),
    ('int8', 8, 'iOS18'),
    ('palettize4', 4, 'iOS16'),
    ('palettize4', 4, 'iOS18'),
    ('palettize6', 6, 'iOS16'),
    ('prune50', 16, 'iOS16'),
    ('prune50', 16, 'iOS18'),
    ('int4', 4, 'iOS18'),
    ('palettize3', 3, 'iOS18'),
    ('prune50+palettize4', 4, 'iOS18'),
    ('prune50+int8', 8, 'iOS18'),
]


@pytest.fixture(scope='module')
def files(tmp_path_factory):
    """A file for each target."""
    targets = ('iOS16', 'iOS18')
    return {target: save_small(tmp_path_factory.mktemp(target), target) for target in targets}


@pytest.mark.parametrize(('scheme', 'bits', 'target'), SCHEMES)
def test_bits_and_bytes_are_those_of_the_file(scheme, bits, target, files, tmp_path):
    path = files[target]
    dense = {w.name: w for w in find_weights(read_program(path))}
    name = max(dense, key=lambda n: dense[n].values.size)
    storage = fixed_scheme(scheme)
    out = apply_plan(path, {name: storage}, tmp_path / 'out.mlpackage', Palettes())
    (op,) = (op for op in read_program(out).operations if op.name == name)
    packed = op.attributes['packed']['weight']
    values = dense[name].values
    counted = sum(storage.arrays(values.size, values, target))
    assert 0 <= packed.bytes - counted <= _FEW
    assert packed.bits == bits
    assert len(set(packed.forms)) == len(packed.forms)
    assert op.attributes['compressed']['weight'] == packed.forms[-1]
    (weight,) = (w for w in weights_of(op, CHIPS['M5']) if w.parameter == 'weight')
    assert (weight.forms, weight.bits, weight.stored_bytes) == packed
    assert weight.size == values.size
