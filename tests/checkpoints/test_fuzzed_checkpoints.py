"""Mutated checkpoints: refused, or as good as the file they were made from."""

import io
import struct
from collections import Counter, OrderedDict
from random import Random

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from same_values import assert_same

from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.errors import CheckpointError

FILES = 500


def value():
    base = torch.arange(12.0)
    return {
        'state_dict': OrderedDict(
            a=base[:5],
            b=base[5:],
            c=torch.ones(3, 2).t(),
            d=torch.ones(3, dtype=torch.bfloat16),
            e=torch.zeros(0),
        ),
        'meta': {'epoch': 3, 'classes': ('x', 'y')},
        'message_hub': {
            'log_scalars': {'loss': HistoryBuffer([1.0, 2.0], [1, 1])},
            'n': np.float64(3),
        },
    }


def torch_file(is_zip):
    made = io.BytesIO()
    torch.save(value(), made, _use_new_zipfile_serialization=is_zip)
    return made.getvalue()


def safetensors_file():
    library = pytest.importorskip('safetensors.torch')
    return library.save(
        {'a': torch.arange(5.0), 'b': torch.ones(3, 2), 'c': torch.ones(2, dtype=torch.bfloat16)}
    )


# --- mutations: bytes and a source of randomness to bytes -------------------
def flip(data, random):
    for _ in range(random.choice((1, 1, 1, 4))):
        data[random.randrange(len(data))] ^= 1 << random.randrange(8)
    return data


def overwrite(data, random):
    start = random.randrange(len(data))
    data[start : start + 8] = random.randbytes(random.randint(1, 8))
    return data


def truncate(data, random):
    return data[: random.randrange(len(data))]


def splice(data, random):
    """A piece of the file once more, in place of another or between."""
    start, target = (random.randrange(len(data)) for _ in range(2))
    piece = data[start : start + random.randint(1, 200)]
    end = target + len(piece) * random.randrange(2)
    return data[:target] + piece + data[end:]


def cut(data, random):
    start = random.randrange(len(data))
    return data[:start] + data[start + random.randint(1, 100) :]


def edit_end(data, random):
    """A number near the end, where a zip file has its directory."""
    at = len(data) - random.randint(8, min(1500, len(data) - 8))
    form = random.choice(('<H', '<I', '<Q'))
    new = random.choice((0, 1, len(data), random.randrange(len(data)), -1))
    size = struct.calcsize(form)
    new &= (1 << 8 * size) - 1
    data[at : at + size] = struct.pack(form, new)
    return data


def edit_start(data, random):
    """A number near the start: of the header of a safetensors file."""
    at = random.randrange(min(len(data), 16))
    data[at] = random.randrange(256)
    return data


def double_record(data, random):
    """Each of a zip file's headers of one name, once more at its end."""
    starts = [i for i in range(len(data)) if data[i : i + 4] == b'PK\1\2']
    if not starts:
        return splice(data, random)
    ends = [*starts[1:], data.index(b'PK\6\6')]
    index = random.randrange(len(starts))
    entry = data[starts[index] : ends[index]]
    data = data[: ends[-1]] + entry + data[ends[-1] :]
    return grown(data, len(entry))


def grown(data, added):
    """The end records of a zip file as its longer directory needs them."""
    for form, entries, size in (('<Q', -98 + 24, -98 + 40), ('<H', -22 + 8, -22 + 12)):
        width = struct.calcsize(form)
        for place in (entries, entries + width):
            at = len(data) + place
            (count,) = struct.unpack_from(form, data, at)
            struct.pack_into(form, data, at, count + 1)
        at, wide = len(data) + size, '<Q' if form == '<Q' else '<I'
        (length,) = struct.unpack_from(wide, data, at)
        struct.pack_into(wide, data, at, length + added)
    at = len(data) - 42 + 8
    (offset,) = struct.unpack_from('<Q', data, at)
    struct.pack_into('<Q', data, at, offset + added)
    return data


MUTATIONS = (flip, overwrite, truncate, splice, cut, edit_end, edit_start, double_record)


def outcome(path, data):
    """The checkpoint or None; any other error leaves."""
    path.write_bytes(data)
    message = ''
    try:
        return load_checkpoint_file(path)
    except CheckpointError as error:
        message = str(error)
    assert message.startswith(f'{path}: ')
    assert len(message.splitlines()) == 1
    assert len(message) < 1000
    return None


def mutated(data, seed):
    random = Random(seed)
    change = MUTATIONS[seed % len(MUTATIONS)]
    return change.__name__, bytes(change(bytearray(data), random))


@pytest.mark.slow
def test_zip_file_is_refused_or_unchanged(tmp_path):
    data, path = torch_file(True), tmp_path / 'a.pth'
    want, seen = outcome(path, data), Counter()
    for seed in range(FILES):
        name, broken = mutated(data, seed)
        got = outcome(path, broken)
        seen[name, got is None] += 1
        if got is not None:
            assert_same(got, want)
    assert sum(seen.values()) == FILES
    assert all(seen[change.__name__, True] for change in MUTATIONS)
    # Doubled records above all: a second one of a name is never looked over.
    assert seen['double_record', False] == 0


@pytest.mark.slow
@pytest.mark.parametrize('kind', ['legacy', 'safetensors'])
def test_file_without_checksum_gives_what_it_holds(tmp_path, kind):
    """Bytes of the file and no others: none of memory that nothing filled."""
    is_torch = kind == 'legacy'
    data = torch_file(False) if is_torch else safetensors_file()
    path, seen = tmp_path / ('a.pth' if is_torch else 'a.safetensors'), 0
    for seed in range(FILES):
        _, broken = mutated(data, seed)
        got = outcome(path, broken)
        seen += got is None
        for tensor in () if got is None else weights(got):
            stored = tensor.untyped_storage()
            held = torch.empty(0, dtype=torch.uint8).set_(stored)
            assert held.numpy().tobytes() in broken
    assert FILES / 4 < seen < FILES


def weights(loaded):
    return loaded.get('state_dict', loaded).values()
