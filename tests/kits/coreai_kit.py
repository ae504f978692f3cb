"""A tiny ``.aimodel`` for the tests of the second format, and damage done to it."""

import hashlib
import json
import random
import shutil
from importlib.util import find_spec

import pytest

from mmpretrain_mobileone_ext.coreai.interpreter import HASH, METADATA, PROGRAM

needs_core_ai = pytest.mark.skipif(
    find_spec('coreai') is None or find_spec('coreai_torch') is None,
    reason='the extra [coreai] is not installed',
)


def rehashed(folder, program):
    """Give a folder another program, and the hash that goes with it."""
    (folder / PROGRAM).write_bytes(program)
    (folder / HASH).write_bytes(hashlib.sha256(program).digest())


def damaged(program, seed):
    """A program with one kind of damage, by seed."""
    rng, found = random.Random(seed), bytearray(program)
    where = rng.randrange(len(found))
    kind = seed % 6
    if kind == 0:
        found[where] ^= 1 << rng.randrange(8)
    elif kind == 1:
        del found[where:]
    elif kind == 2:
        found[where : where + 64] = bytes(len(found[where : where + 64]))
    elif kind == 3:
        found[where:where] = rng.randbytes(16)
    elif kind == 4:
        found = found[where:] + found[:where]
    else:
        for _ in range(50):
            found[rng.randrange(min(3000, len(found)))] = rng.randrange(256)
    return bytes(found)


def _with_metadata(text):
    return lambda folder: (folder / METADATA).write_bytes(text)


def _linked(folder):
    (folder / PROGRAM).rename(folder / 'elsewhere')
    (folder / PROGRAM).symlink_to(folder / 'elsewhere')


def _as_a_file(folder):
    shutil.rmtree(folder)
    folder.write_bytes(b'no folder')


#: Name to what is done to a folder; each is refused before the interpreter sees it.
DAMAGES = {
    'no program': lambda folder: (folder / PROGRAM).unlink(),
    'no hash': lambda folder: (folder / HASH).unlink(),
    'no metadata': lambda folder: (folder / METADATA).unlink(),
    'another program': lambda folder: (folder / PROGRAM).write_bytes(b'x'),
    'another hash': lambda folder: (folder / HASH).write_bytes(bytes(32)),
    'an empty hash': lambda folder: (folder / HASH).write_bytes(b''),
    'a folder for a program': lambda folder: (
        (folder / PROGRAM).unlink(),
        (folder / PROGRAM).mkdir(),
    ),
    'a link for a program': _linked,
    'a file': _as_a_file,
    'nothing': shutil.rmtree,
    'no JSON': _with_metadata(b'{'),
    'a list': _with_metadata(b'[]'),
    'own entries that are none': _with_metadata(json.dumps({'creatorDefinedMetadata': 3}).encode()),
    'no text': _with_metadata(b'\xff\xfe'),
    'deep JSON': _with_metadata(b'[' * 100_000),
    'huge metadata': _with_metadata(b' ' * (2**24 + 1)),
}
