"""Metadata on disk becomes facts; nothing is imported."""

import sys

import pytest
from doctor_kit import install

from mmpretrain_mobileone_ext.utils.doctor.facts import MATRIX, gather
from mmpretrain_mobileone_ext.utils.doctor.traps import find_traps


@pytest.fixture
def site(tmp_path):
    folder = tmp_path / 'site'
    folder.mkdir()
    return folder


def look(site, tmp_path):
    return gather([str(site)], tmp_path / 'none.txt')


def test_names_versions_and_needs_are_read(site, tmp_path):
    install(site, 'torchvision', '0.29.1', ['numpy', 'torch (>=2.14.0)', 'scipy; extra == "x"'])
    facts = look(site, tmp_path)
    assert facts.installed == {'torchvision': '0.29.1'}
    assert facts.requires['torchvision'] == {'numpy': '', 'torch': '>=2.14.0'}
    assert facts.tested == {}


def test_two_mmcv_in_one_folder_are_found(site, tmp_path):
    for name in ('mmcv', 'mmcv-lite'):
        install(site, name, '2.2.0', files=['mmcv/__init__.py'])
    texts = [f.what for f in find_traps(look(site, tmp_path))]
    assert 'mmcv and mmcv-lite are both installed' in texts


def test_mmcv_after_mmcv_lite_was_uninstalled_over_it(site, tmp_path):
    install(site, 'mmcv', '2.2.0', files=['mmcv/__init__.py', 'mmcv/_ext.cpython-311.so'])
    facts = look(site, tmp_path)
    assert facts.compiled_ops
    assert facts.damaged == {}
    (site / 'mmcv/__init__.py').unlink()
    facts = look(site, tmp_path)
    assert facts.damaged == {'mmcv': 'mmcv/__init__.py'}
    assert any('lacks mmcv/__init__.py' in f.what for f in find_traps(facts))


def test_mmcv_built_without_operators(site, tmp_path):
    install(site, 'mmcv', '2.2.0', files=['mmcv/__init__.py'])
    assert not look(site, tmp_path).compiled_ops


def test_the_first_on_the_path_is_the_one_in_use(site, tmp_path):
    other = tmp_path / 'other'
    other.mkdir()
    install(site, 'torch', '2.14.1')
    install(other, 'torch', '1.0')
    facts = gather([str(site), str(other)], tmp_path / 'none.txt')
    assert facts.installed['torch'] == '2.14.1'


def test_half_removed_metadata_is_passed_over(site, tmp_path):
    (site / 'torch-2.1.dist-info').mkdir()
    (site / 'broken-1.dist-info').mkdir()
    (site / 'broken-1.dist-info/METADATA').write_text('nonsense')
    assert look(site, tmp_path).installed == {}


def test_the_compiler_is_the_one_that_is_used(site, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', 'no-such-compiler')
    assert look(site, tmp_path).compiler is None
    monkeypatch.setenv('CXX', sys.executable)
    assert look(site, tmp_path).compiler == sys.executable
    monkeypatch.setenv('CXX', f'{sys.executable} g++ -m64')
    assert look(site, tmp_path).compiler == sys.executable
    monkeypatch.setenv('CXX', '"g++')
    assert look(site, tmp_path).compiler is None


def test_the_matrix_of_this_package_is_found():
    facts = gather()
    assert MATRIX.is_file()
    assert {'torch', 'torchvision', 'mmpretrain', 'coremltools', 'numpy'} <= set(facts.tested)
    assert facts.installed['torch']
