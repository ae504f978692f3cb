"""Outputs that would overwrite each other, or what is read."""

from __future__ import annotations

import pytest

from mmpretrain_mobileone_ext.commands.benchmark.training.run import run as benchmark
from mmpretrain_mobileone_ext.commands.report import run as report
from mmpretrain_mobileone_ext.coreml.swift import write_swift_package
from mmpretrain_mobileone_ext.errors import ExportError, MobileOneExtError
from mmpretrain_mobileone_ext.export.options import ExportOptions
from mmpretrain_mobileone_ext.utils.files import check_apart


def refused(outputs, inputs=(), **options):
    with pytest.raises(ExportError) as caught:
        check_apart(outputs, dict(inputs), ExportError, **options)
    assert '\n' not in str(caught.value)
    return str(caught.value)


PAIRS = [
    ('m', 'm'),
    ('m', './m'),
    ('m', 'm/in/it'),
    ('m/in', 'm'),
    ('m', 'other/../m'),
    ('link/x', 'm/x'),
    ('link', 'm/x'),
]


@pytest.mark.parametrize(('one', 'other'), PAIRS)
def test_pairs(tmp_path, one, other):
    (tmp_path / 'm').mkdir()
    (tmp_path / 'other').mkdir()
    (tmp_path / 'link').symlink_to('m')
    given = {'out': tmp_path / one, 'swift': tmp_path / other}
    assert 'out is ' in refused(given)
    assert 'swift' in refused(given)
    check_apart({'out': tmp_path / one, 'swift': None}, {})
    check_apart({'out': tmp_path / 'a', 'swift': tmp_path / 'ab'}, {})


def test_inputs(tmp_path):
    file = tmp_path / 'run' / 'weights.pth'
    file.parent.mkdir()
    file.touch()
    inputs = {'checkpoint': str(file), 'config': object()}
    assert 'checkpoint' in refused({'out': file}, inputs)
    assert 'hold' in refused({'swift': file.parent}, inputs)
    check_apart({'report': file.parent}, inputs, shared=('report',))
    check_apart({'out': file.parent / 'new.pth'}, inputs)
    check_apart({'out': 'not-there.py'}, {'config': 'not-there.py'})


@pytest.mark.parametrize('suffix', ['.mlpackage', '.aimodel'])
def test_nothing_is_written_into_a_package(suffix, tmp_path):
    package = tmp_path / f'm{suffix}'
    check_apart({'out': package}, {}, package='out')
    for inner in (package, package / 'Data'):
        assert 'is a model package' in refused({'report': inner})
    assert 'is a model package' in refused({'out': package / 'n.mlpackage'}, package='out')


@pytest.mark.parametrize('option', ['swift', 'report'])
@pytest.mark.parametrize('name', ['m.mlpackage', 'm.mlpackage/x'])
def test_export(tmp_path, option, name):
    """Also where the package is there already and --force is given."""
    (tmp_path / 'm.mlpackage').mkdir()
    (tmp_path / 'm.mlpackage' / 'Manifest.json').touch()
    with pytest.raises(ExportError, match=f'out is .* {option} is'):
        ExportOptions(out=tmp_path / 'm.mlpackage', force=True, **{option: tmp_path / name})


def test_export_beside(tmp_path):
    asked = ExportOptions(out=tmp_path / 'm.mlpackage', report=tmp_path, force=True)
    assert asked.report == tmp_path


def test_tools(tmp_path):
    package = tmp_path / 'm.mlpackage'
    package.mkdir()
    with pytest.raises(MobileOneExtError, match='model package'):
        report([str(tmp_path), '--out', str(package)])
    with pytest.raises(ExportError, match='model package'):
        write_swift_package(package, package / 'Swift')
    same = str(tmp_path / 'x.png')
    with pytest.raises(MobileOneExtError, match=r'--json is .* --plot is'):
        benchmark(['--json', same, '--plot', same])
    assert not list(package.iterdir())
