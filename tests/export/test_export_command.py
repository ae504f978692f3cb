"""The command for an export by hand: the tool's own parser is the oracle."""

import inspect
import shlex
from pathlib import Path

import pytest

from mmpretrain_mobileone_ext.commands import export as export_cli
from mmpretrain_mobileone_ext.coreml import export_coreml
from mmpretrain_mobileone_ext.export.options import (
    LABELS_FILE,
    OPTIONS,
    ExportOptions,
    explained,
    flag,
)
from mmpretrain_mobileone_ext.hooks.coreml_export import CoreMLExportHook, export_command

GIVEN = [
    {},
    dict(force=True),
    dict(force=False, precision='fp32', classes=None),
    dict(deployment_target='iOS17', compute_units='CPU_AND_NE'),
    dict(input='tensor', outputs='features', batch_sizes=[4, 1]),
    dict(image_size=32),
    dict(image_size=(32, 48)),
    dict(image_size='32'),
    dict(extra_sizes=[(64, 48), 96, '128x96']),
    dict(verify_data='test'),
    dict(verify_data=7),
    dict(verify_data='none'),
    dict(compress='auto', max_drop=0.25),
    dict(author="A. O'Neill & daughter", license='CC BY 4.0', force=True),
    dict(model_version='2.1 beta', description="Aprons, 'Schürzen'"),
    dict(classes='my labels.txt'),
]


def parsed(command):
    """What the tool makes of a command line of a POSIX shell."""
    program, tool, *words = shlex.split(command)
    assert (program, tool) == ('mobileone-ext', 'export')
    return vars(export_cli.export_parser().parse_args(words))


@pytest.mark.parametrize('given', GIVEN, ids=str)
def test_the_tool_reads_the_same_options(given, tmp_path):
    out = tmp_path / 'my model.mlpackage'
    found = parsed(export_command(Path('c.py'), Path('e 1.pth'), out, given))
    assert (found.pop('config'), found.pop('checkpoint')) == ('c.py', 'e 1.pth')
    assert found.pop('cfg_options') is None
    assert ExportOptions(**found) == ExportOptions(out, **given)


def test_another_value_is_another_command(tmp_path):
    """Otherwise the comparison above could not fail."""
    out = tmp_path / 'm.mlpackage'
    found = parsed(export_command(Path('c.py'), Path('c.pth'), out, dict(image_size=(32, 48))))
    for name in ('config', 'checkpoint', 'cfg_options'):
        found.pop(name)
    assert ExportOptions(**found) != ExportOptions(out, image_size=(48, 32))


@pytest.mark.parametrize(
    'value', [0.5, 3, True, 'text', [1, 2], (1, 2), [['a', 'b'], (1, 2)], 'a/b c.d']
)
def test_config_options_arrive(value):
    command = export_command(
        Path('c.py'), Path('c.pth'), Path('m.mlpackage'), {}, {'model.head.topk': value, 'x': 1}
    )
    found = parsed(command)['cfg_options']
    if isinstance(value, str):  # mmengine takes blanks out of values
        value = value.replace(' ', '')
    assert found == {'model.head.topk': value, 'x': 1}


def test_labels_in_a_list_become_a_file_to_make():
    command = export_command(
        Path('c.py'), Path('c.pth'), Path('m.mlmodel'), dict(classes=['a b', 'c'])
    )
    assert parsed(command)['classes'] == LABELS_FILE


def test_every_option_is_in_every_place():
    """The tool, Python's help and the hook are made from one list."""
    signature = inspect.signature(export_coreml).parameters
    helped = ' '.join(export_cli.export_parser().format_help().split())
    explained_in_python = ' '.join(export_coreml.__doc__.split())
    hook = CoreMLExportHook()
    for name, option in OPTIONS.items():
        assert flag(name) in helped
        if name == 'out':
            continue
        assert signature[name].default == option.default
        assert f'{name}: {explained(name)}.' in explained_in_python
        assert ' '.join(explained(name).split()[:3]) in helped
        CoreMLExportHook(**{name: hook.options.get(name, option.default)})
    assert [p for p in signature if p not in OPTIONS] == [
        'config',
        'checkpoint',
        'cfg_options',
        'progress',
    ]


def test_a_default_is_told_where_there_is_one():
    assert explained('precision').endswith('(default: fp16)')
    assert explained('batch_sizes').endswith('(default: 1)')
    assert explained('force') == 'replace an existing file'
