"""Shapes that a ``neuralnetwork`` does not state, against those that torch computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_kit import Made

from mmpretrain_mobileone_ext.commands.preflight import run
from mmpretrain_mobileone_ext.coreml.neural_engine import shapes
from mmpretrain_mobileone_ext.coreml.neural_engine.placement import place
from mmpretrain_mobileone_ext.coreml.neural_engine.shapes import with_shapes
from mmpretrain_mobileone_ext.coreml.program.graph import Value
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, DEFAULT_CHIPS
from mmpretrain_mobileone_ext.coreml.runtime.executor import Executor


def test_shapes_are_those_of_the_network(tiny_model):
    program = read_program(tiny_model)
    assert not any(op.shapes for op in program.operations)
    shaped = with_shapes(program)
    found = [(op.type, op.shapes[0]) for op in shaped.operations if op.type != 'classify']
    assert found[2:8] == [
        ('conv', (1, 8, 12, 8)),
        ('reduce_mean', (1, 8, 1, 1)),
        ('conv', (1, 8, 1, 1)),
        ('sigmoid', (1, 8, 1, 1)),
        ('mul', (1, 8, 12, 8)),
        ('prelu', (1, 8, 12, 8)),
    ]
    assert all(p.on_engine for p in place(shaped, CHIPS['M1']) if not p.is_border)


def test_an_mlprogram_states_them():
    made = Made()
    made.op('relu')
    program = made.program
    assert with_shapes(program) is program


def unstated(folder, shape, kind):
    """A layer of which the file states no shape."""
    made = Made(shape, format='neuralnetwork')
    made.op(kind, shape)
    made.operations = [replace(op, shapes=()) for op in made.operations]
    path = folder / 'made.mlmodel'
    path.touch()
    return replace(made.program, path=path)


def test_maps_beyond_the_memory_budget_have_shapes(tmp_path):
    shape = (1, 1, 24_000, 24_000)
    shaped = with_shapes(unstated(tmp_path, shape, 'relu'))
    assert [op.shapes for op in shaped.operations] == [(shape,)]
    (placement,) = place(shaped, CHIPS['M1'])
    assert placement.reason == 'height 24000; the most is 16384'


@pytest.mark.parametrize(
    ('shape', 'kind'),
    [((1, 4), 'newest'), ((2**31, 2**31), 'relu'), ((2**70,), 'relu'), ((4, -1), 'relu')],
)
def test_what_cannot_run_stays_unknown(shape, kind, tmp_path):
    shaped = with_shapes(unstated(tmp_path, shape, kind))
    assert [op.shapes for op in shaped.operations] == [(None,)]
    assert with_shapes(shaped) is shaped


def test_a_file_is_run_once_for_all_chips(tiny_model, monkeypatch, capsys):
    ran = []

    def counted(*given):
        ran.append(given)
        return Executor(*given)

    monkeypatch.setattr(shapes, 'Executor', counted)
    run([str(tiny_model)])
    text = capsys.readouterr().out
    assert all(f'{name}: all' in text for name in DEFAULT_CHIPS)
    assert len(ran) == 1


def test_sizes_that_depend_on_numbers_are_unknown(tmp_path):
    program = unstated(tmp_path, (2,), 'reshape')
    (op,) = program.operations
    program = replace(program, operations=(replace(op, inputs={**op.inputs, 'shape': Value('x')}),))
    assert [op.shapes for op in with_shapes(program).operations] == [(None,)]
