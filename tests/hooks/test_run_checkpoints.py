"""What a resumed run believes of the paths in its checkpoint."""

import shutil

import pytest
import torch
from toy_runner import toy_runner

from mmpretrain_mobileone_ext.hooks.run import best_checkpoints, kept_checkpoints

DEPLOY = dict(type='DeploySwitchHook')


def trained(folder, *hooks, **options):
    runner = toy_runner(folder, *hooks, **options)
    runner.train()
    return runner


def files(folder):
    return {p: p.read_bytes() for p in folder.rglob('*') if p.is_file()}


@pytest.fixture
def first(tmp_path):
    """A finished run of two epochs, whose best one is known."""
    runner = trained(tmp_path / 'first')
    (best,) = best_checkpoints(runner)
    return tmp_path / 'first', best.name


def claim(checkpoint, **info):
    """Write something else into the message hub of a checkpoint."""
    state = torch.load(checkpoint, weights_only=False)
    state['message_hub']['runtime_info'].update(info)
    torch.save(state, checkpoint)


def test_a_checkpoint_that_names_another_folder_writes_nothing_there(first, tmp_path):
    folder, best = first
    victim = tmp_path / 'victim'
    victim.mkdir()
    shutil.copy(folder / 'epoch_2.pth', victim / 'x.pth')
    shutil.copy(folder / best, victim / best)
    for name in ('x_deploy.pth', f'{best[:-4]}_deploy.pth'):
        (victim / name).write_bytes(b'precious')
    before = files(victim)
    claim(folder / 'epoch_2.pth', last_ckpt=str(victim / 'x.pth'), best_ckpt=str(victim / best))
    trained(folder, DEPLOY, resume=True)
    assert files(victim) == before
    assert (folder / f'{best[:-4]}_deploy.pth').is_file()


def test_a_run_in_a_new_folder_leaves_the_old_one_alone(first, tmp_path):
    folder, _ = first
    # Whatever comes next is better than this one.
    claim(folder / 'epoch_2.pth', best_score=-1.0)
    before = files(folder)
    runner = trained(
        tmp_path / 'second', DEPLOY, epochs=3, resume=True, load_from=str(folder / 'epoch_2.pth')
    )
    assert files(folder) == before
    assert {p.parent.name for p in kept_checkpoints(runner)} == {'second'}
    assert best_checkpoints(runner)


def test_a_finished_run_in_a_new_folder_is_folded_there(first, tmp_path):
    folder, best = first
    before = files(folder)
    trained(tmp_path / 'second', DEPLOY, resume=True, load_from=str(folder / 'epoch_2.pth'))
    assert files(folder) == before
    names = {p.name for p in (tmp_path / 'second').glob('*.pth')}
    assert names == {'epoch_2_deploy.pth', f'{best[:-4]}_deploy.pth'}


def test_checkpoints_in_a_folder_of_their_own_are_folded_beside(tmp_path):
    runner = toy_runner(tmp_path / 'run', DEPLOY)
    saver = next(h for h in runner.hooks if hasattr(h, 'save_best'))
    saver.out_dir = str(tmp_path / 'big-disk')
    runner.train()
    kept = kept_checkpoints(runner)
    assert {p.parent for p in kept} == {tmp_path / 'big-disk' / 'run'}
    for path in kept:
        assert path.with_name(f'{path.stem}_deploy.pth').is_file()


def test_the_best_checkpoint_of_a_run_that_was_moved_is_still_known(first, tmp_path):
    folder, best = first
    moved = tmp_path / 'moved'
    folder.rename(moved)
    (moved / 'last_checkpoint').write_text(str(moved / 'epoch_2.pth'))
    runner = trained(moved, DEPLOY, resume=True)
    assert best_checkpoints(runner) == [moved / best]
    assert (moved / f'{best[:-4]}_deploy.pth').is_file()
