"""coremltools' passes on saved files: quiet, checked, one clear line."""
from __future__ import annotations

import dataclasses
import warnings

import pytest
from compress_kit import images, save_small

from mmpretrain_mobileone_ext.coreml.compress import compress_file
from mmpretrain_mobileone_ext.coreml.graph_passes import (
    SYSTEMS,
    graph_pass,
    run_passes,
    system_of,
)
from mmpretrain_mobileone_ext.coreml.program import read_program
from mmpretrain_mobileone_ext.errors import ExportError


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp('passes'), 'iOS18')


def test_systems(source, tiny_model):
    program = read_program(source)
    assert system_of(program) == 'iOS18'
    for version, name in SYSTEMS.items():
        assert system_of(dataclasses.replace(
            program, spec_version=version)) == name
    with pytest.raises(ExportError, match='version 12; known: 6'):
        system_of(dataclasses.replace(program, spec_version=12))
    with pytest.raises(ExportError, match='is a neuralnetwork'):
        system_of(read_program(tiny_model))


def test_a_refusal_is_one_line(source, tmp_path):
    class Refuses(type(graph_pass('common::dead_code_elimination'))):
        def apply(self, prog):
            raise ValueError('not\n   like this')

    with pytest.raises(ExportError, match=r'cannot compress: .*not like this'):
        run_passes(source, [Refuses()], tmp_path / 'out.mlpackage')
    assert not (tmp_path / 'out.mlpackage').exists()


@pytest.mark.parametrize('scheme', [
    'int8', 'palettize4', 'prune50', 'joint', 'prune50+int8', 'w8a8'])
def test_nothing_is_printed(source, scheme, tmp_path, capfd, caplog):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        compress_file(source, scheme, tmp_path / 'out.mlpackage',
                      [images(4)])
    assert [str(w.message) for w in seen] == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ('', '')
    assert caplog.messages == []
