"""A tiny ``.aimodel`` for the tests of the second format, and damage done to it."""

import hashlib
import json
import random
import re
import shutil
from importlib.util import find_spec

import numpy as np
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


def stored_values(folder):
    """Weights (O, I, kH, kW) of the convolutions of a file, decoded in plain NumPy, in order.

    Codes are taken apart by integer division, and tables are looked up number by number.
    """
    from coreai.authoring import AIModelAsset

    program = AIModelAsset.load(folder).program
    todo, found = [program._module._mlir_module.operation], []
    while todo:
        op = todo.pop()
        inner = [o.operation for r in op.regions for b in r.blocks for o in b.operations]
        todo.extend(reversed(inner))
        if op.name == 'coreai.conv2d':
            found.append(_decoded(op.operands[1].owner))
    return found


def storage_types(folder):
    """Type to the count of numbers that a file stores so, as Apple's summary has it."""
    from coreai.authoring import AIModelAsset

    text = str(AIModelAsset.load(folder).summary())
    return {k: int(n) for k, n in re.findall(r'"\((\w+), (\d+)\)"', text)}


def _decoded(op):
    kind, given = op.name.removeprefix('coreai.'), [o.owner for o in op.operands]
    if kind == 'constant':
        return _constant(op)
    if kind == 'lut_to_dense':
        return _looked_up(_constant(given[0]), _constant(given[1]))
    if kind == 'blockwise_shift_scale':
        data, scale, first, second = map(_decoded, given)
        run = data.shape[1] // scale.shape[1]
        scale, first, second = (np.repeat(v, run, 1) for v in (scale, first, second))
        return (data - first) * scale + second
    assert kind == 'sparse_with_bitmask_to_dense'
    (sparse,) = given
    if sparse.name == 'coreai.lut_to_sparse_with_bitmask':
        inner, table, _ = (o.owner for o in sparse.operands)
        dense, mask = _spread(inner)
        return np.where(mask, _looked_up(dense, _constant(table)), 0)
    return _spread(sparse)[0]


def _spread(build):
    values, mask = (_decoded(o.owner) for o in build.operands)
    mask = mask.astype(bool)
    dense = np.zeros(mask.shape)
    dense[mask] = values
    return dense, mask


def _looked_up(indices, tables):
    channels = len(indices) // len(tables)
    found = np.zeros(indices.shape)
    for place in np.ndindex(*indices.shape):
        table = tables[place[0] // channels].reshape(-1)
        found[place] = table[int(indices[place])]
    return found


def _constant(op):
    from coreai._compiler._mlir_libs._coreaiIR import _bindings

    type_ = op.results[0].type
    shape, kind = list(type_.shape), str(type_.element_type)
    count, bits = int(np.prod(shape)), int(re.sub(r'\D', '', kind))
    raw = np.zeros(-(-count * bits // 8), np.uint8)
    _bindings.compiler.copy_constant_value_to_array(constant_op=op, destination=raw)
    if kind[0] == 'f':
        return raw.view(f'<f{bits // 8}').astype(float).reshape(shape)
    whole = int.from_bytes(raw.tobytes(), 'little')
    numbers = []
    for _ in range(count):
        whole, number = divmod(whole, 2**bits)
        numbers.append(number - 2**bits if kind[0] == 's' and number >= 2 ** (bits - 1) else number)
    return np.array(numbers, float).reshape(shape)
