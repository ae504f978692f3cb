"""What an operation says about itself is true, on random parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import fuzz_elementwise  # noqa: F401
import fuzz_shape  # noqa: F401
import fuzz_windows  # noqa: F401
import numpy as np
import pytest
import torch
from crafted_kit import Crafted
from fuzz_kit import GENERATORS

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.runtime.ops import OPS
from mmpretrain_mobileone_ext.coreml.runtime.ops.registry import Op

TRIES = 10


def tensors(value):
    """Arrays of arguments as tensors, or of lists of arguments."""
    if isinstance(value, (list, tuple)):
        return [tensors(v) for v in value]
    return torch.as_tensor(np.asarray(value))


def arguments(name, rng):
    """Random arguments of an operation, in the form the executor gives them."""
    case = GENERATORS[name](rng)
    params = dict(case.params)
    given = {k: tensors(v) for k, v in case.inputs.items()}
    if OPS[name].lists:  # values0, values1, ...
        listed = {k: v for k, v in params.items() if k.startswith('values')}
        params = {k: v for k, v in params.items() if k not in listed}
        given = {'values': [*given.values(), *map(tensors, listed.values())]}
    for parameter, value in params.items():
        if value is not None:
            data = parameter in OPS[name].data
            plain = value if isinstance(value, str) else np.asarray(value).tolist()
            given[parameter] = tensors(value) if data else plain
    return given


def flat(values) -> Iterator[torch.Tensor]:
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from flat(value)


def numbers(values):
    # By their bits: NaN is none of its own values.
    return {n for v in flat(values) for n in v.double().reshape(-1).view(torch.int64).tolist()}


def broken_facts(name, kind, seed=0):
    """Facts that do not hold."""
    rng, found = np.random.default_rng([seed, *name.encode()]), set()
    for _ in range(TRIES):
        given = arguments(name, rng)
        known = numbers(given.values()) | numbers([torch.tensor([0.0, -0.0])])
        memory = {v.untyped_storage().data_ptr() for v in flat(given.values()) if v.numel()}
        results = list(flat([kind(**given)]))
        if kind.selects and not numbers(results) <= known:
            found.add('selects')
        made = {v.untyped_storage().data_ptr() for v in results if v.numel()}
        if kind.fresh and memory & made:
            found.add('fresh')
        if kind.in_place is not None:
            x = given['x'].clone()
            changed = kind.in_place(**{**given, 'x': x})
            if changed.data_ptr() != x.data_ptr() or not torch.equal(
                changed.nan_to_num(7), results[0].nan_to_num(7)
            ):
                found.add('in_place')
    return found


SAID = sorted(n for n, kind in OPS.items() if kind.selects or kind.fresh or kind.in_place)


@pytest.mark.parametrize('name', SAID)
def test_facts_hold(name):
    assert broken_facts(name, OPS[name]) == set()


@pytest.mark.parametrize(
    ('name', 'facts'),
    [
        ('mul', {'selects': True}),
        ('identity', {'fresh': True}),
        ('relu', {'in_place': lambda x: x.abs_()}),
        ('transpose', {'fresh': True}),
    ],
)
def test_wrong_facts_are_found(name, facts):
    assert broken_facts(name, dataclasses.replace(OPS[name], **facts)) == set(facts)


def test_an_operation_is_defined_in_one_place(tmp_path, monkeypatch):
    """Nothing but its entry tells the runtime that there is an operation."""

    def twice(values):
        return values[0] + values[0]

    twice.__annotations__['values'] = 'Sequence[Tensor]'
    monkeypatch.setitem(OPS, 'twice', Op(twice, fresh=True))
    crafted = Crafted()
    crafted.op('twice', 'y', (1, 4, 6, 5), values='x')
    x = np.ones((1, 4, 6, 5), np.float32)
    (got,) = load_program(crafted.save(tmp_path)).predict({'x': x}).values()
    assert np.array_equal(got, x + x)
