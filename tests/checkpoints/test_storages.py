"""Storages are whole, shared as in the file, and where they are asked for."""

import io

import legacy_kit
import malicious_pickles as bad
import pytest
import torch
from helpers import id_of
from same_values import assert_same

from mmpretrain_mobileone_ext.checkpoints.safe_pickle import restricted_load
from mmpretrain_mobileone_ext.errors import CheckpointError

VALUE = {'w': torch.arange(6.0), 'b': torch.ones(2)}


def load(data, map_location='cpu'):
    return restricted_load(io.BytesIO(data), map_location)


def saved(value, is_zip=True):
    made = io.BytesIO()
    torch.save(value, made, _use_new_zipfile_serialization=is_zip)
    return made.getvalue()


def test_the_kit_makes_files_that_load():
    assert_same(load(legacy_kit.taken_apart(VALUE).bytes()), VALUE)


def first(file):
    return file.keys[0]


def counted(file, count, cut=None):
    """The first storage says ``count`` and has its first ``cut`` bytes."""
    _, data = file.storages[first(file)]
    return file.change(storages={**file.storages, first(file): (count, data[:cut])})


ATTACKS = [
    ('none listed', 'is only in one of them', lambda f: f.change(keys=())),
    ('last not listed', 'is only in one of them', lambda f: f.change(keys=f.keys[:-1])),
    ('unknown', 'is only in one of them', lambda f: f.change(keys=(*f.keys, '7'))),
    ('one for another', 'is only in one of them', lambda f: f.change(keys=(*f.keys[:-1], '7'))),
    ('listed twice', 'one is listed twice', lambda f: f.change(keys=(*f.keys, first(f)))),
    ('no text', 'a malformed list of storages', lambda f: f.change(keys=(*f.keys[:-1], 7))),
    ('fewer numbers', 'claims 24 bytes, the file holds 20', lambda f: counted(f, 5)),
    (
        'more numbers',
        'claims 24 bytes, the file holds 4611686018427387904',
        lambda f: counted(f, 1 << 60),
    ),
    ('negative', 'claims 24 bytes, the file holds -4', lambda f: counted(f, -1)),
    (
        'last is short',
        'the file ends within a record',
        lambda f: f.change(storages={**f.storages, f.keys[-1]: (2, bytes(7))}),
    ),
    ('left over', 'bytes are left over', lambda f: f.change(suffix=b'\0')),
    ('a second file', 'bytes are left over', lambda f: f.change(suffix=f.bytes())),
]


@pytest.mark.parametrize(('says', 'change'), [a[1:] for a in ATTACKS], ids=[a[0] for a in ATTACKS])
def test_legacy_file_that_does_not_fill_its_storages(says, change):
    file = legacy_kit.taken_apart(VALUE)
    # The order of the keys is that of addresses: the larger one comes first.
    large = max(file.keys, key=lambda key: file.storages[key][0])
    file = file.change(keys=(large, *(k for k in file.keys if k != large)))
    with pytest.raises(CheckpointError) as caught:
        load(change(file).bytes())
    assert says in str(caught.value)


def claimed(kind, key, numel, *view):
    return (
        bad.tup(
            bad.text('storage'),
            bad.name('torch', kind),
            bad.text(key),
            bad.text('cpu'),
            b'K' + bytes([numel]),
            *view,
        )
        + b'Q'
    )


def legacy(*claims, keys=('0',), data=b'\0\0\x80?\0\0\0@'):
    head = bad.legacy_file(b'')[: -len(b'\x80\x02].')]
    file = legacy_kit.Legacy(head, bad.lst(*claims) + bad.STOP, {'0': (2, data)}, keys)
    return file.bytes()


def test_legacy_view_of_a_storage():
    view = bad.tup(bad.text('v'), b'K\x01', b'K\x01')
    whole, part = load(
        legacy(claimed('FloatStorage', '0', 2, b'N'), claimed('FloatStorage', '0', 2, view))
    )
    whole, part = (torch.empty(0).set_(s) for s in (whole, part))
    assert whole.tolist() == [1.0, 2.0]
    assert part.tolist() == [2.0]
    whole[1] = 3.0
    assert part.tolist() == [3.0]


@pytest.mark.parametrize('view', [(1, 2), (3, 0), (0, 3)])
def test_legacy_view_beyond_its_storage_is_refused(view):
    offset, size = (b'K' + bytes([n]) for n in view)
    wrong = bad.tup(bad.text('v'), offset, size)
    with pytest.raises(CheckpointError, match='malformed storage view'):
        load(legacy(claimed('FloatStorage', '0', 2, wrong)))


@pytest.mark.parametrize('again', [('IntStorage', 2), ('FloatStorage', 1)])
def test_one_storage_as_two_is_refused(again):
    pickled = bad.lst(claimed('FloatStorage', '0', 2), claimed(again[0], '0', again[1])) + bad.STOP
    with pytest.raises(CheckpointError, match='two kinds or sizes'):
        load(bad.zip_file(pickled))
    data = legacy(claimed('FloatStorage', '0', 2, b'N'), claimed(again[0], '0', again[1], b'N'))
    with pytest.raises(CheckpointError, match='two kinds or sizes'):
        load(data)


@pytest.mark.parametrize('kind', ['QUInt8Storage', 'NoStorage'])
def test_storage_of_unknown_kind_is_refused(kind):
    with pytest.raises(CheckpointError, match=f'torch.{kind}'):
        load(bad.zip_file(claimed(kind, '0', 2) + bad.STOP))


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize(
    'place',
    [
        'cpu',
        b'cpu',
        None,
        torch.device('cpu'),
        {'cpu': 'cpu'},
        {},
        lambda storage, location: storage,
        lambda storage, location: None,
        lambda storage, location: storage.clone(),
    ],
    ids=id_of,
)
def test_places_that_are_the_processor(is_zip, place):
    base = torch.arange(5.0)
    value = {'a': base, 'b': base[2:], 'none': torch.zeros(0)}
    got = load(saved(value, is_zip), place)
    assert_same(got, value)
    got['a'][3] = 99.0
    assert got['b'][1] == 99.0


@pytest.mark.parametrize('is_zip', [True, False])
@pytest.mark.parametrize(
    'place',
    [
        'meta',
        torch.device('meta'),
        {'cpu': 'meta'},
        lambda storage, location: torch.UntypedStorage(storage.nbytes(), device='meta'),
    ],
    ids=id_of,
)
def test_places_without_memory(is_zip, place):
    got = load(saved(VALUE, is_zip), place)
    assert {k: (v.is_meta, v.shape) for k, v in got.items()} == {
        'w': (True, (6,)),
        'b': (True, (2,)),
    }


def test_the_file_decides_where_a_map_says_nothing():
    pickled = claimed('FloatStorage', '0', 2).replace(bad.text('cpu'), bad.text('nowhere:0'))
    data = bad.zip_file(pickled + bad.STOP)
    for place in ('cpu', {'nowhere:0': 'cpu'}):
        assert torch.empty(0).set_(load(data, place)).tolist() == [0.0, 0.0]
    for place in (None, {'cpu': 'cpu'}):
        with pytest.raises(CheckpointError, match='not a readable'):
            load(data, place)


def test_dtype_given_apart():
    """Needs no torch that can write it."""
    pickled = bad.call(
        bad.name('torch._utils', '_rebuild_tensor_v3'),
        claimed('FloatStorage', '0', 2),
        b'K\x02',
        bad.tup(b'K\x03'),
        bad.tup(b'K\x01'),
        b'\x89',
        b'N',
        bad.name('torch', 'float8_e5m2'),
    )
    got = load(bad.zip_file(pickled + bad.STOP))
    assert (got.dtype, got.shape) == (torch.float8_e5m2, (3,))


def test_every_dtype():
    kinds = [torch.bfloat16, torch.bool, torch.complex64, torch.half]
    # Before 2.2, torch has float8 but does not save it.
    if hasattr(torch._utils, '_rebuild_tensor_v3'):
        kinds += [torch.float8_e4m3fn, torch.float8_e5m2]
    if hasattr(torch, 'uint16'):
        kinds += [torch.uint16]
    for dtype in kinds:
        value = torch.tensor([0.0, 1.0, 1.0, 0.0]).to(dtype)
        for is_zip in (True, False):
            got = load(saved(value, is_zip))
            assert got.dtype == dtype
            assert got.view(torch.uint8).equal(value.view(torch.uint8))


def test_weights_can_be_resized_and_shared():
    """The memory is torch's own, not a buffer lent to it."""
    for is_zip in (True, False):
        got = load(saved(VALUE, is_zip))['w']
        assert got.data_ptr() % 64 == 0
        assert got.resize_(100).share_memory_()[:6].equal(VALUE['w'])


def test_an_allocator_that_gives_up_is_no_damage(monkeypatch):
    file = io.BytesIO()
    torch.save({'a': torch.zeros(3)}, file)

    def refuse(*_, **__):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr(torch, 'UntypedStorage', refuse)
    with pytest.raises(CheckpointError, match='not enough memory'):
        restricted_load(file)
