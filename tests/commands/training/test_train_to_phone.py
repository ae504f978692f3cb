"""The steps from a config to a package: none is done twice."""

from pathlib import Path

import mmengine
import pytest
import torch
from rich.console import Console

from mmpretrain_mobileone_ext.commands.training import to_phone as train_to_phone
from mmpretrain_mobileone_ext.commands.training.to_phone import RunRecord, TrainToPhone
from mmpretrain_mobileone_ext.errors import MobileOneExtError
from mmpretrain_mobileone_ext.hooks.training.divergence import DIVERGED

STEPS = ['train', 'test branches', 'test folded', 'export', 'test coreml']


class KilledError(Exception):
    """In place of the end of the process."""


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs all steps; dies before one of them. Returns those that ran."""
    (tmp_path / 'c.py').write_text('asked = True')
    words = {}

    def go(dies_before=None, error=KilledError, forms=3, **options):
        seen = []

        def run_tool(tool, args, log, title, console, epochs=None):
            if title == dies_before:
                raise error
            seen.append((title, '--resume' in args))
            words[title] = list(map(str, args))
            config = args[args.index('--config') + 1] if '--config' in args else args[0]
            assert Path(config).read_text() == 'asked = True'
            _make(title, tmp_path, list(map(str, args)))
            return 1.0

        monkeypatch.setattr(train_to_phone, 'run_tool', run_tool)
        record = RunRecord.read(tmp_path) or RunRecord.begin(tmp_path, {})
        steps = TrainToPhone(tmp_path / 'c.py', tmp_path, record, Console(quiet=True), **options)
        if dies_before:
            with pytest.raises(type(error) if isinstance(error, Exception) else error):
                steps.run()
        else:
            assert len(steps.run()) == forms
        return seen

    go.words = words
    return go


def _make(title, folder, args):
    if title == 'train':
        for name in ('epoch_1.pth', 'epoch_1_deploy.pth'):
            torch.save(dict(state_dict=dict(w=torch.zeros(3))), folder / name)
        (folder / 'last_checkpoint').write_text(str(folder / 'epoch_1.pth'))
        (folder / 'c.py').write_text('resume = True')  # as the Runner does
    elif title == 'export':
        (folder / 'model.mlpackage').mkdir()
    elif title == 'report':
        (folder / 'report').mkdir()
        (folder / 'report/report.html').touch()
    else:
        mmengine.dump(
            [dict(gt_label=torch.tensor(1), pred_label=torch.tensor(1))],
            Path(args[args.index('--out') + 1]),
        )


@pytest.mark.parametrize('step', STEPS)
def test_it_goes_on_with_the_step_that_was_interrupted(run, step):
    before = run(dies_before=step)
    after = run()
    assert [title for title, _ in before + after] == STEPS
    assert not any(resumed for _, resumed in before + after)


def test_a_training_with_a_checkpoint_is_resumed(run, tmp_path):
    _make('train', tmp_path, [])
    (tmp_path / 'c.py').write_text('asked = True')
    note = (tmp_path / 'last_checkpoint').read_text()
    run(dies_before='train')  # a new run: it forgets what was there
    (tmp_path / 'last_checkpoint').write_text(note)
    assert run()[0] == ('train', True)


def test_what_was_removed_is_made_again(run, tmp_path):
    run(dies_before='export')
    (tmp_path / 'predictions-folded.pkl').unlink()
    assert [title for title, _ in run()] == STEPS[2:]


def test_the_record_ends_with_the_run(run, tmp_path):
    run()
    assert RunRecord.read(tmp_path).finished


def test_a_network_with_nothing_to_fold_has_no_folded_form(run):
    found = [title for title, _ in run(folds=False, forms=2)]
    assert found == ['train', 'test network', 'export', 'test coreml']


def test_export_and_report_are_asked_for(run):
    found = [title for title, _ in run(export=('--compress', 'int8'), report='7')]
    assert found == [*STEPS, 'report']
    assert run.words['export'][-2:] == ['--compress', 'int8']
    assert run.words['report'][-2:] == ['--images', '7']


def test_a_training_that_diverged_is_not_gone_on_with(run, tmp_path):
    for error, stays in (
        (MobileOneExtError('no disk'), True),
        (MobileOneExtError(DIVERGED), False),
    ):
        RunRecord.begin(tmp_path, {})
        (tmp_path / 'last_checkpoint').write_text('epoch_1.pth')
        run(dies_before='train', error=error)
        assert (tmp_path / 'last_checkpoint').exists() is stays
