"""coremltools' passes on saved files: quiet, checked, one clear line."""

from __future__ import annotations

import warnings

import pytest
from compress_kit import images, save_small

from mmpretrain_mobileone_ext.coreml.compress import compress_file
from mmpretrain_mobileone_ext.coreml.program.quiet import graph_pass, run_passes
from mmpretrain_mobileone_ext.errors import ExportError


@pytest.fixture(scope='module')
def source(tmp_path_factory):
    return save_small(tmp_path_factory.mktemp('passes'), 'iOS18')


def test_a_refusal_is_one_line(source, tmp_path):
    class Refuses(type(graph_pass('common::dead_code_elimination'))):
        def apply(self, prog):
            raise ValueError('not\n   like this')

    with pytest.raises(ExportError, match=r'cannot compress: .*not like this'):
        run_passes(source, [Refuses()], tmp_path / 'out.mlpackage')
    assert not (tmp_path / 'out.mlpackage').exists()


@pytest.mark.parametrize(
    'scheme', ['int8', 'palettize4', 'prune50', 'joint', 'prune50+int8', 'w8a8']
)
def test_nothing_is_printed(source, scheme, tmp_path, capfd, caplog):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter('always')
        compress_file(source, scheme, tmp_path / 'out.mlpackage', [images(4)])
    assert [str(w.message) for w in seen] == []
    captured = capfd.readouterr()
    assert (captured.out, captured.err) == ('', '')
    assert caplog.messages == []
