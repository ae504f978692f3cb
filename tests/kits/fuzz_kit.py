"""Random MIL operations, with values that other code computes for them.

A case is one operation with random parameters. What it should give is computed in NumPy, in fp64 or
exactly, from the operation's document: none of the code under test takes part in it. Many cases are
saved as one program, since a conversion takes longer than the operations do.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Callable, NamedTuple, Union

import numpy as np
from runtime_kit import save_mil

from mmpretrain_mobileone_ext.coreml import load_program
from mmpretrain_mobileone_ext.coreml.program import quiet

EPS = 2.0**-23
TINY = 2.0**-126  # below it, processors may flush to zero
LARGEST = float(np.finfo(np.float32).max)


class Wanted(NamedTuple):
    """A result, and by how much each of its numbers may differ."""

    value: np.ndarray
    bound: Union[float, np.ndarray] = 0.0


class Case(NamedTuple):
    """One operation.

    Attributes:
        op: as MIL spells it.
        inputs: parameters that the program is given when it runs.
        params: parameters that are constants in the file.
        wanted: a result each, in the order of the operation's results.
        folds: whether coremltools computes the same from constants; a reason where it does not, ''
            where it cannot.
    """

    op: str
    inputs: Mapping[str, Any]
    params: Mapping[str, Any]
    wanted: tuple[Wanted, ...]
    folds: Union[bool, str] = True


Generator = Callable[[np.random.Generator], Case]
GENERATORS: dict[str, Generator] = {}


def generator(*names):
    """Register what makes random cases of operations."""

    def register(function):
        for name in names:
            assert name not in GENERATORS, name
            GENERATORS[name] = lambda rng, n=name: function(n, rng)
        return function

    return register


def exact(*values):
    return tuple(Wanted(np.asarray(v)) for v in values)


def near(value, magnitude=None, roundings=4):
    """A value in fp64 that fp32 arithmetic reaches in so many roundings.

    ``magnitude`` is the sum of what is added up, without signs: every rounding is off by half of
    ``EPS`` times it at most, and a function of the processor's library by 4 units in the last
    place.
    """
    value = np.asarray(value, np.float64)
    size = np.abs(value) if magnitude is None else np.asarray(magnitude)
    with np.errstate(invalid='ignore', over='ignore'):
        return (Wanted(value, roundings * EPS * size + TINY),)


def shape_of(rng, low=1, high=4, largest=4):
    return tuple(int(n) for n in rng.integers(1, largest + 1, rng.integers(low, high + 1)))


SPECIAL = np.float32([np.nan, np.inf, -np.inf, 0, -0.0, 1, -1, 0.5, -2.5])


def floats(rng, shape, low=-4.0, high=4.0, special=False):
    """fp32; half of the time some are infinite, NaN, zero or ties."""
    x = rng.uniform(low, high, shape).astype(np.float32)
    if special and rng.random() < 0.5:
        chosen = rng.random(shape) < 0.3
        x = np.where(chosen, rng.choice(SPECIAL, shape), x)
    return np.asarray(x, np.float32)


def integers(rng, shape, low=-9, high=9, extreme=False):
    """int32; half of the time some are the least or the greatest."""
    x = rng.integers(low, high + 1, shape)
    if extreme and rng.random() < 0.5:
        limits = np.array([-(2**31), 2**31 - 1, -(2**31) + 1])
        x = np.where(rng.random(shape) < 0.2, rng.choice(limits, shape), x)
    return np.asarray(x, np.int32)


def axis_of(rng, rank):
    return int(rng.integers(-rank, rank))


def axes_of(rng, rank, least=1):
    """Some axes, from either end."""
    count = int(rng.integers(least, rank + 1))
    chosen = rng.permutation(rank)[:count]
    return [int(a) - rank * int(rng.integers(2)) for a in chosen]


def constant_or_not(rng, inputs, params, **values):
    """Half of the time parameters are given when the program runs."""
    target = inputs if rng.random() < 0.5 else params
    target.update({k: np.int32(v) for k, v in values.items()})


def run_cases(cases, folder, target='iOS18'):
    """Results of the runtime, a list for each case."""
    given = {
        f'c{i}_{name}': widened(value)
        for i, case in enumerate(cases)
        for name, value in case.inputs.items()
    }
    given['unused'] = np.zeros(1, np.float32)
    counts = []

    def build(mb, **variables):
        outputs = [mb.identity(x=variables['unused'], name='out_unused')]
        for i, case in enumerate(cases):
            made = built(
                mb,
                case,
                {
                    name: as_given(mb, variables[f'c{i}_{name}'], value)
                    for name, value in case.inputs.items()
                },
            )
            counts.append(len(made))
            outputs += [
                mb.identity(x=readable(mb, v), name=f'out_{i}_{k}') for k, v in enumerate(made)
            ]
        return outputs

    path = save_mil(build, given, folder, target)
    # The budgets are those of one network; here are hundreds.
    results = load_program(path, work_budget=1e15).predict(given)
    return [[results[f'out_{i}_{k}'] for k in range(count)] for i, count in enumerate(counts)]


def folded(cases, target='iOS18'):
    """Values that coremltools computes from constants; None where none."""
    with quiet.conversion() as ct:
        mil = ct.converters.mil.mil
        found = []
        dummy = {'x': mil.Builder.placeholder((1,))}
        with mil.Function(dummy, opset_version=ct.target[target]), np.errstate(all='ignore'):
            for case in cases:
                made = built(mil.Builder, case, {k: constant(v) for k, v in case.inputs.items()})
                found.append([v.val for v in made])
        return found


def constant(value):
    """A copy: some operations write into their constants."""
    if isinstance(value, tuple):
        return [np.array(v) for v in value]
    return np.array(value)


def built(mb, case, variables):
    params = {
        k: [np.array(v) for v in value] if isinstance(value, tuple) else value
        for k, value in case.params.items()
    }
    if 'values' in case.params or any(k[:6] == 'values' for k in variables):
        named = {**params, **variables}
        keys = sorted(k for k in named if k[:6] == 'values')
        rest = {k: v for k, v in named.items() if k not in keys}
        made = getattr(mb, case.op)(values=[named[k] for k in keys], **rest)
    else:
        made = getattr(mb, case.op)(**params, **variables)
    return list(made) if isinstance(made, (list, tuple)) else [made]


def widened(value):
    """What a model takes as input: no bool, no 8 bits, no rank 0."""
    array = np.asarray(value)
    array = array if array.dtype.kind == 'f' else array.astype(np.int32)
    return array.reshape(array.shape or (1,))


def as_given(mb, variable, value):
    """Undo :func:`widened` within the program."""
    array = np.asarray(value)
    names = {'bool': 'bool', 'int8': 'int8', 'uint8': 'uint8'}
    if array.dtype.name in names:
        variable = mb.cast(x=variable, dtype=names[array.dtype.name])
    return variable if array.shape else mb.squeeze(x=variable)


def readable(mb, variable):
    """What a model can return."""
    types = quiet.coremltools().converters.mil.mil.types
    name = types.builtin_to_string(variable.dtype)
    return variable if name in ('fp32', 'int32') else mb.cast(x=variable, dtype='int32')


def difference(got, wanted):
    """Why a result is not the one wanted, or None."""
    value = np.atleast_1d(np.asarray(wanted.value))
    if got.shape != value.shape:
        return f'shape {got.shape}, wanted {value.shape}'
    if value.dtype.kind in 'iub':
        if got.dtype.kind != 'i':
            return f'dtype {got.dtype}, wanted {value.dtype}'
        return None if np.array_equal(got, value.astype(np.int64)) else f'{got}, wanted {value}'
    if got.dtype.kind != 'f':
        return f'dtype {got.dtype}, wanted {value.dtype}'
    return (
        None
        if np.all(close(got, value, wanted.bound))
        else f'{got}, wanted {value}, by {wanted.bound} at most'
    )


def close(got, value, bound):
    with np.errstate(invalid='ignore', over='ignore'):
        found, wide = got.astype(np.float64), value.astype(np.float64)
        same = (found == wide) | (np.isnan(found) & np.isnan(wide))
        within = np.abs(found - wide) <= bound
        beyond = np.isinf(found) & (found * wide > 0) & (np.abs(wide) * (1 + EPS) >= LARGEST)
    return same | (within & np.isfinite(wide)) | beyond


def failures(cases, folder, target='iOS18'):
    """Lines that say which cases give other results than wanted."""
    found = []
    for case, results in zip(cases, run_cases(cases, folder, target)):
        assert len(results) == len(case.wanted), case.op
        found += [
            describe(case, reason)
            for got, w in zip(results, case.wanted)
            if (reason := difference(np.asarray(got), w))
        ]
    return found


def fold_failures(cases, target='iOS18'):
    """As :func:`failures`, for what coremltools folds."""
    asked = [case for case in cases if case.folds is True]
    found = []
    for case, values in zip(asked, folded(asked, target)):
        found += [
            describe(case, f'folded: {reason}')
            for value, w in zip(values, case.wanted)
            if value is not None and (reason := fold_difference(value, w))
        ]
    return found


def fold_difference(value, wanted):
    """coremltools folds in fp32, and without care for rounding: what it
    shows is which function an operation is."""
    value = np.asarray(value)
    if np.asarray(wanted.value).dtype.kind in 'iub':
        value = value.astype(np.int32)
    else:
        value = value.astype(np.float32)
    finite = np.nan_to_num(np.asarray(wanted.value, np.float64), posinf=0, neginf=0)
    loose = wanted._replace(bound=16 * np.asarray(wanted.bound) + 1e-5 * (1 + np.abs(finite)))
    return difference(np.atleast_1d(value), loose)


def describe(case, reason):
    given = {**case.inputs, **case.params}
    text = ', '.join(
        f'{k}={np.asarray(v).tolist()}' if not isinstance(v, (str, tuple)) else f'{k}={v}'
        for k, v in given.items()
    )
    return f'{case.op}({text}): {reason}'[:1500]
