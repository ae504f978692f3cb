"""Constants are read as coremltools writes and reads them."""

from __future__ import annotations

import numpy as np
import pytest
from crafted_kit import WEIGHTS, Crafted, blob, set_blob, set_value

from mmpretrain_mobileone_ext.coreml import read_program
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.coreml.program.budget import Ledger
from mmpretrain_mobileone_ext.coreml.program.constants import Constants
from mmpretrain_mobileone_ext.errors import ProgramError

RNG = np.random.default_rng(0)
# MIL's type: bits, signed, and what coremltools' writer calls it.
TYPES = {
    'FLOAT32': (np.float32, 'float'),
    'INT8': (np.int8, 'int8'),
    'UINT8': (np.uint8, 'uint8'),
    'INT16': (np.int16, 'int16'),
    'UINT16': (np.uint16, 'uint16'),
    'INT32': (np.int32, 'int32'),
    'UINT32': (np.uint32, 'uint32'),
    'UINT1': (1, 'uint1'),
    'UINT2': (2, 'uint2'),
    'UINT3': (3, 'uint3'),
    'UINT4': (4, 'uint4'),
    'UINT6': (6, 'uint6'),
    'INT4': (-4, 'int4'),
}


def numbers(kind):
    if not isinstance(kind, int):
        return RNG.integers(0, 100, 35).astype(kind)
    low = -(1 << (-kind - 1)) if kind < 0 else 0
    high = -low if kind < 0 else 1 << kind
    return RNG.integers(low, high, 35).astype(np.int8 if kind < 0 else np.uint8)


def reader(folder):
    (folder / 'weights').mkdir(exist_ok=True)
    return Constants(folder / 'weights', Ledger())


def reference(offset, shape, dtype):
    value = quiet.coremltools().proto.MIL_pb2.Value()
    set_blob(value, offset, shape, dtype)
    return value


@pytest.mark.parametrize('dtype', TYPES)
def test_weights_files_as_coremltools_writes_them(tmp_path, dtype):
    kind, name = TYPES[dtype]
    library = quiet.module('coremltools.libmilstoragepython')
    constants, wanted = reader(tmp_path), numbers(kind)
    writer = library._BlobStorageWriter(str(tmp_path / 'weights' / 'weight.bin'))
    offset = getattr(writer, f'write_{name}_data')(wanted)
    del writer  # writes
    found = constants.read(reference(offset, (5, 7), dtype))
    np.testing.assert_array_equal(found, wanted.reshape(5, 7))


def test_half(tmp_path):
    constants, wanted = reader(tmp_path), RNG.normal(size=6)
    wanted = wanted.astype(np.float16)
    (tmp_path / 'weights' / 'weight.bin').write_bytes(blob(wanted, 1))
    found = constants.read(reference(64, (2, 3), 'FLOAT16'))
    np.testing.assert_array_equal(found, wanted.reshape(2, 3))


@pytest.mark.parametrize(
    ('dtype', 'shape', 'message'),
    [
        ('FLOAT32', (6,), 'has data type 1, the program says fp32'),
        ('FLOAT16', (7,), '7 values of type fp16 are stored in 12 bytes'),
        ('FLOAT16', (2**40, 2**40), 'GiB of memory|are stored in'),
        ('FLOAT16', (2, None), r'has the shape \(2, None\)'),
        ('STRING', (6,), 'holds no string'),
    ],
)
def test_blob_of_another_kind(tmp_path, dtype, shape, message):
    constants = reader(tmp_path)
    content = blob(np.ones(6, np.float16), 1)
    (tmp_path / 'weights' / 'weight.bin').write_bytes(content)
    with pytest.raises(ProgramError, match=message):
        constants.read(reference(64, shape, dtype))


@pytest.mark.parametrize('name', ['../weight.bin', '..', '', 'a\0b', 'x' * 5000, '/etc/passwd'])
def test_weights_are_in_their_folder(tmp_path, name):
    crafted = Crafted()
    op = crafted.block.operations.add()
    op.type = 'const'
    set_value(op.attributes['name'], 'w')
    set_blob(op.attributes['val'], 64, (1,))
    op.attributes['val'].blobFileValue.fileName = name
    op.outputs.add().name = 'w'
    op.outputs[0].type.CopyFrom(op.attributes['val'].type)
    crafted.op('add', 'y', (1, 4, 6, 5), x='x', y='w')
    path = crafted.save(tmp_path, weights=b'x')
    (path / WEIGHTS).with_name('other.bin').touch()
    with pytest.raises(ProgramError, match=r'is missing|truncated') as caught:
        read_program(path)
    assert len(str(caught.value)) < 1000


def coremltools_operations(path):
    """The same program, read by coremltools."""
    ct = quiet.coremltools()
    load = quiet.module('coremltools.converters.mil.frontend.milproto.load')
    spec = ct.models.utils.load_spec(str(path))
    program = load.load(spec, spec.specificationVersion, str((path / WEIGHTS).parent))
    (function,) = program.functions.values()
    return [op for op in function.operations if op.op_type != 'const']


def test_program_as_coremltools_reads_it(tiny_package):
    ours = read_program(tiny_package).operations
    theirs = coremltools_operations(tiny_package)
    assert [(o.name, o.type) for o in ours] == [(o.name, o.op_type) for o in theirs]
    for mine, op in zip(ours, theirs):
        assert mine.outputs == tuple(v.name for v in op.outputs)
        assert set(mine.inputs) <= set(op.inputs)
        for name, value in mine.inputs.items():
            source = op.inputs[name]
            if source.op is None or source.op.op_type != 'const':
                assert value.name == source.name
            elif name != 'classes':
                np.testing.assert_array_equal(value, source.val)
                assert np.asarray(value).dtype == np.asarray(source.val).dtype
        for shape, var in zip(mine.shapes, op.outputs):
            assert shape is None or shape == tuple(var.shape)
