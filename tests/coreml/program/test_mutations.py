"""Damaged packages: refused in one line, or they predict within bounds."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
from crafted_kit import MODEL, WEIGHTS
from test_budget import SECONDS, on_linux, outcomes

from mmpretrain_mobileone_ext.coreml.program import quiet

pytestmark = [pytest.mark.slow, on_linux]
FLIPS, CUTS, EDITS = 240, 12, 120


def flipped(content, rng):
    found = bytearray(content)
    found[rng.integers(len(found))] ^= 1 << rng.integers(8)
    return bytes(found)


def messages(value, found):
    """Every message inside of one, itself included."""
    found.append(value)
    for field, inner in value.ListFields():
        if field.type != field.TYPE_MESSAGE:
            continue
        entry = field.message_type.GetOptions().map_entry
        if entry:
            inner = (
                [inner[k] for k in inner]
                if hasattr(next(iter(inner.values())), 'ListFields')
                else []
            )
        many = inner if entry or not hasattr(inner, 'ListFields') else [inner]
        for item in many:
            messages(item, found)
    return found


NUMBERS = [0, 1, -1, 2, 3, 7, 2**16, 2**31 - 1, -(2**31)]


def edited(content, rng):
    """One number, word or element of a valid specification is changed."""
    spec = quiet.coremltools().proto.Model_pb2.Model()
    spec.ParseFromString(content)
    while True:
        places = messages(spec, [])
        place = places[rng.integers(len(places))]
        fields = [
            (f, v)
            for f, v in place.ListFields()
            if not (f.type == f.TYPE_MESSAGE and f.message_type.GetOptions().map_entry)
        ]
        if fields and _change(place, *fields[rng.integers(len(fields))], rng):
            return spec.SerializeToString()


def _change(place, field, value, rng):
    try:
        if field.type == field.TYPE_MESSAGE and hasattr(value, 'ListFields'):
            place.ClearField(field.name)
        elif hasattr(value, 'append') or hasattr(value, 'add'):
            if len(value) and rng.integers(2):
                del value[rng.integers(len(value))]
            else:
                value.MergeFrom(list(value))
        elif isinstance(value, str):
            setattr(
                place,
                field.name,
                str(rng.choice(['', 'x', 'image', value + value, 'a\nb', 'y' * 5000])),
            )
        elif isinstance(value, (bool, int)):
            setattr(place, field.name, int(rng.choice(NUMBERS)))
        else:
            return False
    except (TypeError, ValueError):  # a number that the field cannot hold
        return False
    return True


def corpus(package, folder, seed):
    """Damaged copies of a package, the first one whole."""
    rng, count = np.random.default_rng(seed), 0

    def copy(name=None, content=b''):
        nonlocal count
        path = shutil.copytree(package, folder / f'{count}.mlpackage')
        count += 1
        if name is not None:
            (path / name).write_bytes(content)
        return path

    yield copy()
    for name in (MODEL, WEIGHTS, 'Manifest.json'):
        content = (package / name).read_bytes()
        for _ in range(FLIPS // 3):
            yield copy(name, flipped(content, rng))
        for length in np.linspace(0, len(content) - 1, CUTS).astype(int):
            yield copy(name, content[:length])
    content = (package / MODEL).read_bytes()
    for _ in range(EDITS):
        yield copy(MODEL, edited(content, rng))


@pytest.mark.parametrize('seed', [0, 1, 2])
def test_mutated_package(tiny_package, tmp_path, seed):
    paths = list(corpus(tiny_package, tmp_path, seed))
    found = outcomes(paths)
    whole = found[0][0]
    assert set(whole) == {'classLabel', 'classLabel_probs'}
    texts = [o for o, *_ in found if isinstance(o, str)]
    assert len(paths) > 350
    assert len(texts) > len(paths) // 4
    for text in texts:
        assert text.startswith('refused: '), text
        assert '\n' not in text
        assert len(text) < 10_000
    assert max(seconds for _, seconds, _ in found[1:]) < SECONDS
    assert max(grown for *_, grown in found[1:]) < 2**28


def test_mutated_neural_network(tiny_model, tmp_path):
    rng = np.random.default_rng(3)
    content, paths = tiny_model.read_bytes(), []
    for i in range(120):
        change = (flipped, edited)[i % 2]
        paths.append(tmp_path / f'{i}.mlmodel')
        paths[-1].write_bytes(change(content, rng))
    found = outcomes(paths)
    for text in (o for o, *_ in found if isinstance(o, str)):
        assert text.startswith('refused: '), text
        assert '\n' not in text
    assert max(seconds for _, seconds, _ in found[1:]) < SECONDS
