"""Shapes that a ``neuralnetwork`` does not state, against those that torch computes."""

from __future__ import annotations

from dataclasses import replace

import pytest
from engine_kit import Made

from mmpretrain_mobileone_ext.commands.preflight import run
from mmpretrain_mobileone_ext.coreml.neural_engine import shapes
from mmpretrain_mobileone_ext.coreml.neural_engine.placement import place
from mmpretrain_mobileone_ext.coreml.neural_engine.shapes import with_shapes
from mmpretrain_mobileone_ext.coreml.program.read import read_program
from mmpretrain_mobileone_ext.coreml.runtime.engine.chips import CHIPS, DEFAULT_CHIPS
from mmpretrain_mobileone_ext.coreml.runtime.load import ReferenceProgram


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


@pytest.mark.parametrize('shape', [(1, 4), (1, 1, 24_000, 24_000)])
def test_what_cannot_run_stays_unknown(shape, tmp_path):
    made = Made(shape, format='neuralnetwork')
    made.op('newest' if len(shape) == 2 else 'relu', shape)
    made.operations = [replace(op, shapes=()) for op in made.operations]
    path = tmp_path / 'made.mlmodel'
    path.touch()
    shaped = with_shapes(replace(made.program, path=path))
    assert [op.shapes for op in shaped.operations] == [(None,)]
    assert with_shapes(shaped) is shaped


def test_a_file_is_run_once_for_all_chips(tiny_model, monkeypatch, capsys):
    ran = []

    def counted(*given):
        ran.append(given)
        return ReferenceProgram(*given)

    monkeypatch.setattr(shapes, 'ReferenceProgram', counted)
    run([str(tiny_model)])
    text = capsys.readouterr().out
    assert all(f'{name}: all' in text for name in DEFAULT_CHIPS)
    assert len(ran) == 1
