"""Zip checkpoints that two readers could read differently, or are damaged."""

import io
import zipfile
import zlib

import pytest
import torch
import zip_kit
from same_values import assert_same
from zip_kit import Record

from mmpretrain_mobileone_ext.checkpoints.safe_pickle import restricted_load
from mmpretrain_mobileone_ext.errors import CheckpointError

VALUE = {'w': torch.arange(6.0), 'b': torch.ones(2)}


def made():
    return zip_kit.archive(VALUE)


def load(data):
    return restricted_load(io.BytesIO(data))


def test_the_kit_makes_files_that_load():
    assert_same(load(made().bytes()), VALUE)
    torch.load(io.BytesIO(made().bytes()), weights_only=True)


def test_every_flipped_bit_in_a_weight_record_is_refused():
    data = io.BytesIO()
    torch.save(VALUE, data)
    data = data.getvalue()
    flips = 0
    for value in VALUE.values():
        start = data.index(value.numpy().tobytes())
        for bit in range(8 * value.nbytes):
            broken = bytearray(data)
            broken[start + bit // 8] ^= 1 << bit % 8
            with pytest.raises(CheckpointError, match='its CRC-32'):
                load(broken)
            flips += 1
    assert flips == 8 * 32


def second_directory(archive):
    """A directory of other records behind the one of the end record."""
    other = archive.change('archive/data/0', offset=0).bytes()
    return other[other.index(b'PK\1\2') : other.index(b'PK\5\6')]


PACKED = zlib.compress(bytes(24))[2:-4]
ATTACKS = [
    (
        'data beside DATA',
        'two records are named',
        lambda a: a.add(Record('archive/DATA/0', bytes(1 << 20))),
    ),
    ('same name', 'two records are named', lambda a: a.add(Record('archive/data/0', b'x' * 24))),
    (
        'ligature',
        'two records are named',
        lambda a: a.add(Record('archive/\ufb01', b'', flags=0x800), Record('archive/fi', b'')),
    ),
    ('other folder', 'does not lie in the folder', lambda a: a.add(Record('other/data/0', b''))),
    ('no folder', 'does not lie in the folder', lambda a: a.add(Record('data', b''))),
    ('name cut at NUL', 'does not lie in the folder', lambda a: a.add(Record('archive/x\0y', b''))),
    ('overlap', 'overlaps another', lambda a: a.add(Record('archive/x', b'', offset=0))),
    (
        'record in a record',
        'overlaps another',
        lambda a: a.change(
            'archive/data/0', data=zip_kit._local(Record('archive/x', b'')) + bytes(30)
        ).add(Record('archive/x', b'', offset=a.bytes().index(a.records[0].data))),
    ),
    (
        'first record hidden',
        'something lies before it',
        lambda a: zip_kit.Archive(a.records, prefix=a.bytes()[:200]),
    ),
    (
        'second directory',
        'is not where',
        lambda a: zip_kit.Archive(a.records, gap=second_directory(a), shift=-9),
    ),
    ('directory elsewhere', 'is not where', lambda a: zip_kit.Archive(a.records, shift=4)),
    ('count', 'is not where', lambda a: zip_kit.Archive(a.records, entries=3)),
    ('comment', 'no end of a zip file', lambda a: zip_kit.Archive(a.records, comment=b'PK\5\6')),
    ('text behind', 'no end of a zip file', lambda a: zip_kit.Archive(a.records, suffix=b'\n')),
    (
        'larger than the file',
        'larger than its place',
        lambda a: a.change('archive/data/0', size=1 << 30),
    ),
    ('into the next', 'overlaps another', lambda a: a.change('archive/data/0', size=60)),
    ('two sizes', 'larger than its place', lambda a: a.change('archive/data/0', packed=4)),
    (
        'shorter',
        'claims 24 bytes, the file holds 20',
        lambda a: a.change('archive/data/0', size=20),
    ),
    (
        'other local name',
        'is not where the zip directory says',
        lambda a: a.change('archive/data/0', local_name='archive/data/1'),
    ),
    (
        'packed',
        'is compressed',
        lambda a: a.change('archive/data/0', method=8, size=24, packed=len(PACKED), data=PACKED),
    ),
    ('encrypted', 'is compressed', lambda a: a.change('archive/data/0', flags=1)),
    ('wrong CRC', 'its CRC-32', lambda a: a.change('archive/data/0', crc=1)),
    ('pickle of a wrong CRC', 'its CRC-32', lambda a: a.change('archive/data.pkl', crc=1)),
    (
        'no pickle',
        "'data.pkl' is missing",
        lambda a: zip_kit.Archive([r for r in a.records if 'data.pkl' not in r.name]),
    ),
    (
        'no weights',
        'the file holds none',
        lambda a: zip_kit.Archive([r for r in a.records if '/data/' not in r.name]),
    ),
    (
        'byte order',
        "the byte order b'middle'",
        lambda a: a.change('archive/byteorder', data=b'middle'),
    ),
]


@pytest.mark.parametrize(('says', 'change'), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_what_torch_never_writes_is_refused(says, change):
    with pytest.raises(CheckpointError) as caught:
        load(change(made()).bytes())
    assert says in str(caught.value)


def test_ends_that_differ_are_refused():
    """torch's 64-bit end record names another directory than the other."""
    data = io.BytesIO()
    torch.save(VALUE, data)
    data = data.getvalue()
    end64, locator, end = len(data) - 98, len(data) - 42, len(data) - 22
    assert data[end64:][:4] == b'PK\6\6'
    for place in (
        end64 + 16,
        end64 + 24,
        end64 + 32,
        end64 + 40,
        end64 + 48,
        locator + 4,
        locator + 8,
        locator + 16,
        end + 4,
        end + 8,
        end + 12,
        end + 16,
        end + 20,
    ):
        broken = bytearray(data)
        broken[place] ^= 1
        with pytest.raises(CheckpointError, match='zip'):
            load(broken)


def test_big_endian_file():
    archive = made().change('archive/byteorder', data=b'big')
    for name, value in (('archive/data/0', 'w'), ('archive/data/1', 'b')):
        swapped = VALUE[value].numpy().astype('>f4').tobytes()
        archive = archive.change(name, data=swapped)
    assert_same(load(archive.bytes()), VALUE)


def test_file_of_another_zip_writer():
    """The folder's name is anyone's; records without use are not read."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, 'w') as written:
        for record in made().records:
            written.writestr(record.name.replace('archive', 'epoch_1'), record.data)
        written.writestr('epoch_1/notes', 'text')
    assert_same(load(data.getvalue()), VALUE)
