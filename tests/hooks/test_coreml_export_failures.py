"""The export hook never loses a training, and refuses mistakes before it."""

import errno
import os
import shlex

import pytest
from coreml_hook_kit import NOISE, hooks_of_checkpoint, logged, packages, trained
from mmengine.registry import HOOKS
from toy_runner import toy_runner

from mmpretrain_mobileone_ext import exporter as export
from mmpretrain_mobileone_ext.checkpoints.load import load_checkpoint_file
from mmpretrain_mobileone_ext.commands import export as export_cli
from mmpretrain_mobileone_ext.coreml.program import quiet
from mmpretrain_mobileone_ext.errors import (
    ExportError,
    MobileOneExtError,
    ParityError,
    ProgramError,
    SpecError,
)
from mmpretrain_mobileone_ext.hooks import coreml_export as coreml_export_hook
from mmpretrain_mobileone_ext.utils import files as atomic
from mmpretrain_mobileone_ext.utils.parity import TOLERANCES, Tolerance

DEPLOY = dict(type='DeploySwitchHook')


# --- after training ---------------------------------------------------------
def errors(folder):
    return [line for line in logged(folder) if ' - ERROR - ' in line]


def assert_lost_nothing(folder, reason):
    """Exit code, checkpoints and one line that says what to do."""
    (best,) = folder.glob('best_*[0-9].pth')
    for path in (best, folder / 'epoch_2.pth'):
        assert load_checkpoint_file(path)['state_dict']
    assert not packages(folder)
    assert not [p for p in folder.iterdir() if '.partial' in p.name]
    (line,) = errors(folder)
    assert reason in line
    assert f'the export of {best.name} failed' in line
    return line.partition('By hand: ')[2]


def fail_with(error):
    def run_export(*args):
        raise error

    return run_export


@pytest.mark.parametrize(
    'error',
    [
        ProgramError('no such op'),
        ImportError('no coremltools'),
        MemoryError('2 GiB'),
        ValueError('deep inside\ncoremltools'),
    ],
    ids=repr,
)
def test_a_failure_never_loses_the_training(error, tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'run_export', fail_with(error))
    runner = trained(tmp_path, NOISE)
    assert runner.epoch == 2
    assert_lost_nothing(tmp_path, ' '.join(str(error).split()))


def test_a_program_that_differs_is_not_left(tmp_path, monkeypatch):
    exact = Tolerance('export-fp16', 0.0, 1.0)
    monkeypatch.setitem(TOLERANCES, 'export-fp16', exact)
    trained(tmp_path, NOISE)
    assert_lost_nothing(tmp_path, 'relative error')


@pytest.mark.parametrize('code', [errno.EROFS, errno.ENOSPC])
def test_a_disk_that_refuses_loses_nothing(code, tmp_path, monkeypatch):
    mkdir = atomic.Path.mkdir

    def refuse(path, *args, **kwargs):
        if '.mlpackage.' in path.name:
            raise OSError(code, os.strerror(code))
        return mkdir(path, *args, **kwargs)

    monkeypatch.setattr(atomic.Path, 'mkdir', refuse)
    trained(tmp_path, NOISE)
    assert_lost_nothing(tmp_path, os.strerror(code))


def test_missing_coremltools_is_said_before_and_after(tmp_path, monkeypatch):
    def missing(name):
        raise ProgramError(f'cannot import {name!r}; pip install coremltools')

    monkeypatch.setattr(coreml_export_hook, 'find_spec', lambda name: None)
    monkeypatch.setattr(quiet, 'module', missing)
    trained(tmp_path, NOISE)
    assert_lost_nothing(tmp_path, 'pip install coremltools')
    warned = [
        i for i, line in enumerate(logged(tmp_path)) if 'coremltools is not installed' in line
    ]
    first = [i for i, line in enumerate(logged(tmp_path)) if 'Epoch(train) [1]' in line]
    assert len(warned) == 1
    assert warned < first


def test_the_command_exports_by_hand(tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(export, 'run_export', fail_with(ParityError('x')))
        trained(tmp_path / 'my run', dict(NOISE, precision='fp32'))
    words = shlex.split(assert_lost_nothing(tmp_path / 'my run', 'x'))
    assert words[:2] == ['mobileone-ext', 'export']
    result = export_cli.run(words[2:])
    assert result.options.precision == 'fp32'
    assert packages(tmp_path / 'my run') == [result.path]


def test_strict_raises_after_everything_is_saved(tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'run_export', fail_with(ParityError('worse')))
    with pytest.raises(ExportError, match='worse') as error:
        trained(tmp_path, dict(NOISE, strict=True))
    assert '\n' not in str(error.value)
    assert_lost_nothing(tmp_path, 'worse')


def test_an_interruption_is_not_held_back(tmp_path, monkeypatch):
    monkeypatch.setattr(export, 'run_export', fail_with(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, NOISE)


@pytest.mark.parametrize('strict', [False, True])
def test_a_run_without_checkpoints_says_so(strict, tmp_path):
    hooks = hooks_of_checkpoint(tmp_path, interval=-1, save_last=False, save_best=None, rule=None)
    if strict:
        with pytest.raises(ExportError, match='saved no checkpoint'):
            trained(tmp_path, dict(NOISE, strict=True), default_hooks=hooks)
    else:
        trained(tmp_path, NOISE, default_hooks=hooks)
    assert 'saved no checkpoint' in errors(tmp_path)[0]


def test_an_old_file_stays_after_a_failure(tmp_path, monkeypatch):
    (tmp_path / 'm.mlmodel').write_bytes(b'old')
    monkeypatch.setattr(quiet, 'coremltools', fail_with(ProgramError('none')))
    trained(tmp_path, dict(NOISE, out='m.mlmodel'))
    assert (tmp_path / 'm.mlmodel').read_bytes() == b'old'
    assert 'none' in errors(tmp_path)[0]


# --- before training --------------------------------------------------------
@pytest.mark.parametrize(
    ('options', 'says'),
    [
        (dict(which='worst'), "which is 'worst'; allowed: best, last, both"),
        (dict(precison='fp32'), r'unknown options precison; allowed .*precision'),
        (dict(out='exports/a.mlpackage'), 'allowed: a file name'),
        (dict(out=None), 'allowed: a file name'),
        (dict(out='a.onnx'), r"unknown suffix '\.onnx'"),
        (dict(precision='bf16'), "precision is 'bf16'; allowed: fp16"),
        (dict(deployment_target='iOS9'), "'iOS9'; allowed: iOS15"),
        (dict(image_size=0), "image_size is '0'"),
        (dict(verify_data='train'), "verify_data is 'train'"),
        (dict(max_drop=0.5), 'without compression'),
    ],
)
def test_a_bad_option_is_refused_when_the_hook_is_built(options, says):
    with pytest.raises(MobileOneExtError, match=says) as error:
        HOOKS.build(dict(options, type='CoreMLExportHook'))
    assert 'CoreMLExportHook: ' in str(error.value)
    assert '\n' not in str(error.value)


def refused(folder, says, *hooks, kind=MobileOneExtError, **options):
    """The run stops with one line before its first iteration."""
    runner = toy_runner(folder, *hooks, **options)
    with pytest.raises(kind, match=says) as error:
        runner.train()
    assert '\n' not in str(error.value)
    assert runner.iter == 0
    assert not list(folder.glob('*.pth'))


@pytest.mark.parametrize(
    ('hook', 'says'),
    [
        (
            dict(NOISE, which='both', out='a.mlpackage'),
            r"out='a\.mlpackage' is one name.*put \{checkpoint\}",
        ),
        (dict(NOISE, which='both', swift='Model'), "swift='Model' is one name"),
        (dict(NOISE, classes='no.txt'), 'no.txt: no such file'),
        (
            dict(NOISE, cfg_options={'model.backbone.arch.num_blocks.x': 1}),
            'cfg_options do not fit',
        ),
        (dict(NOISE, cfg_options=dict(test_dataloader=None), verify_data=5), 'no test_dataloader'),
        (dict(NOISE, priority='NORMAL'), 'CheckpointHook after it'),
        (dict(NOISE, out='taken.mlpackage'), 'is no .mlpackage'),
    ],
    ids=str,
)
def test_what_cannot_work_stops_the_run_at_once(hook, says, tmp_path):
    (tmp_path / 'taken.mlpackage').mkdir()
    refused(tmp_path, says, hook)


def test_the_deploy_hook_has_to_come_first(tmp_path):
    refused(
        tmp_path,
        'DeploySwitchHook after it',
        dict(NOISE, priority='NORMAL'),
        DEPLOY,
        kind=SpecError,
    )


def test_several_bests_need_several_names(tmp_path):
    hooks = hooks_of_checkpoint(tmp_path, save_best=['score', 'other'])
    refused(tmp_path, 'is one name', dict(NOISE, out='a.mlpackage'), default_hooks=hooks)


def test_a_run_that_saves_nothing_is_refused(tmp_path):
    refused(tmp_path, 'no CheckpointHook', NOISE, default_hooks=dict(checkpoint=None))


def test_strict_needs_coremltools_from_the_start(tmp_path, monkeypatch):
    monkeypatch.setattr(coreml_export_hook, 'find_spec', lambda name: None)
    refused(tmp_path, 'coremltools is not installed', dict(NOISE, strict=True), kind=ExportError)


def test_testing_needs_none_of_it(tmp_path, monkeypatch):
    """``tools/test.py`` builds the hook too, on any machine."""
    monkeypatch.setattr(coreml_export_hook, 'find_spec', lambda name: None)
    runner = toy_runner(tmp_path, dict(NOISE, strict=True, classes='no.txt'))
    assert 'score' in runner.test()
    assert not packages(tmp_path)
