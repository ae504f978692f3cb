"""Each known trap, and an installation that holds none."""

from dataclasses import replace

import pytest
from doctor_kit import GOOD, ONEDL, TESTED, with_installed

from mmpretrain_mobileone_ext.utils.doctor.traps import find_traps


def traps(facts):
    """Level and text of everything found but the note that is always there."""
    return [(f.level, f'{f.what}: {f.why}', f.fix) for f in find_traps(facts) if f.level != 'note']


def test_the_tested_installation_holds_none():
    assert traps(GOOD) == []
    (note,) = find_traps(GOOD)
    assert 'loads weights only' in note.what


def test_the_maintained_fork_holds_none():
    assert traps(ONEDL) == []
    (note,) = find_traps(ONEDL)
    assert 'may run a checkpoint' in note.what


@pytest.mark.parametrize(
    ('facts', 'level', 'words', 'fix'),
    [
        (
            with_installed(ONEDL, onedl_mmcv=None),
            'error',
            'nor onedl-mmcv',
            "pip install 'onedl-mmcv==2.3.6'; all that goes with it: pip install "
            "'mmpretrain-mobileone-ext[onedl]'",
        ),
        (
            with_installed(ONEDL, onedl_mmpretrain=None),
            'error',
            'mmpretrain is not installed',
            "pip install 'onedl-mmpretrain==1.3.6'",
        ),
        (
            with_installed(ONEDL, mmengine='0.10.7', setuptools='80.9.0'),
            'warning',
            'both own the module mmengine',
            "pip uninstall -y mmengine onedl-mmengine && pip install 'mmengine==0.10.7'",
        ),
        (
            with_installed(coremltools=None),
            'error',
            'coremltools is not installed',
            'mmpretrain-mobileone-ext[coreml]',
        ),
        (
            with_installed(mmcv='2.2.0'),
            'warning',
            'both installed',
            "pip uninstall -y mmcv mmcv-lite && pip install 'mmcv-lite==2.2.0'",
        ),
        (
            with_installed(mmcv_lite=None),
            'error',
            'neither mmcv nor',
            "pip install 'mmcv-lite==2.2.0'",
        ),
        (
            with_installed(mmcv_lite=None, mmcv='2.2.0'),
            'warning',
            'without compiled operators',
            'mmcv-lite',
        ),
        (with_installed(mmcv_lite='1.7.2'), 'error', 'stops at import', 'mmcv'),
        (with_installed(mmcv_lite='2.4.0'), 'error', '>=2.0.0,<2.4.0', 'mmcv'),
        (
            replace(GOOD, damaged={'mmcv-lite': 'mmcv/__init__.py'}),
            'error',
            'lacks mmcv/__init__.py',
            '--force-reinstall --no-deps mmcv-lite==2.2',
        ),
        (
            with_installed(torchvision='0.28.0'),
            'error',
            'released in pairs',
            "'torch==2.14.1' 'torchvision==0.29.*'",
        ),
        (
            with_installed(torch='2.1.2+cpu', torchvision='0.17.0'),
            'error',
            'released in pairs',
            "'torch==2.1.2' 'torchvision==0.16.*'",
        ),
        (with_installed(numpy='2.4.0'), 'warning', 'coremltools#2633', "'numpy<2.4'"),
        (with_installed(coremltools='8.3'), 'warning', 'written for 9.x', 'coremltools==9.0'),
        (with_installed(setuptools='81.0'), 'error', 'pkg_resources', "'setuptools<81'"),
        (with_installed(setuptools=None), 'error', 'not installed', "'setuptools<81'"),
        (
            replace(
                with_installed(mmdeploy='1.3.1', protobuf='7.36.2'),
                requires={'mmdeploy': {'protobuf': '<=3.20.2'}},
            ),
            'warning',
            'mmdeploy asks for protobuf<=3.20.2',
            "'protobuf<=3.20.2'",
        ),
        (
            with_installed(opencv_python='4', opencv_python_headless='4'),
            'warning',
            'overwrite each other',
            'pip uninstall -y opencv-python',
        ),
        (replace(GOOD, compiler=None), 'warning', 'no C++ compiler', 'install'),
        (replace(GOOD, python='3.8.18'), 'error', '3.9 or newer', '3.11'),
        (replace(GOOD, python='3.14.0'), 'warning', 'newer than', '3.11'),
        (replace(GOOD, system='Windows'), 'warning', 'not tested', ''),
        (replace(GOOD, tested={}), 'warning', 'requirements-tested.txt', ''),
    ],
)
def test_a_trap_is_found_and_no_other(facts, level, words, fix):
    ((found_level, text, found_fix),) = traps(facts)
    assert found_level == level
    assert words in text
    assert fix in found_fix


@pytest.mark.parametrize(
    'name',
    ['torch', 'torchvision', 'mmengine', 'mmpretrain', 'coremltools', 'mmpretrain_mobileone_ext'],
)
def test_a_missing_package_is_an_error_with_its_tested_version(name):
    ((level, text, fix),) = traps(with_installed(**{name: None}))
    assert level == 'error'
    assert 'is not installed' in text
    assert TESTED.get(name, '') in fix


@pytest.mark.parametrize(
    'facts',
    [
        with_installed(torch='2.14.0', torchvision='0.29.0'),
        with_installed(torch='2.1.2+cu118', torchvision='0.16.2+cu118'),
        with_installed(numpy='2.4.0', coremltools=None),
        with_installed(mmcv_lite='2.3.9'),
        replace(with_installed(mmcv_lite=None, mmcv='2.2.0'), compiled_ops=True),
        with_installed(mmdeploy='1.3.1', protobuf='3.20.2'),
        replace(GOOD, system='Darwin'),
    ],
)
def test_what_works_is_no_trap(facts):
    assert [t for t in traps(facts) if 'not installed' not in t[1]] == []


def test_torch_that_the_torchvision_metadata_refuses_is_found():
    facts = replace(GOOD, requires={'torchvision': {'torch': '>=2.15'}})
    assert traps(facts)[0][0] == 'error'


def test_errors_come_first():
    facts = replace(with_installed(numpy='2.4', setuptools='90'), compiler=None)
    levels = [f.level for f in find_traps(facts)]
    assert levels == sorted(levels, key=['error', 'warning', 'note'].index)
    assert levels[0] == 'error'


def test_old_torch_needs_no_note():
    assert list(find_traps(with_installed(torch='2.5.1', torchvision='0.20.1'))) == []
