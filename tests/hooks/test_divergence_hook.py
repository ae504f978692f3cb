"""A training that comes to nothing ends with one line that says so."""

from types import SimpleNamespace

import pytest
import torch
from toy_runner import toy_runner

from mmpretrain_mobileone_ext.errors import DivergedError
from mmpretrain_mobileone_ext.hooks import DivergenceHook


def runner(step):
    return SimpleNamespace(iter=step, optim_wrapper=SimpleNamespace(get_lr=lambda: {'lr': [0.5]}))


def watched(losses, **options):
    """The iteration, from 1, in which a run with these losses ends; None for none."""
    hook = DivergenceHook(**options)
    hook.before_train(None)
    for step, loss in enumerate(losses):
        try:
            hook.after_train_iter(runner(step), step, outputs=dict(loss=torch.tensor(loss)))
        except DivergedError:
            return step + 1
    return None


@pytest.mark.parametrize('loss', [float('nan'), float('inf'), -float('inf')])
def test_no_number_ends_it_at_once(loss):
    assert watched([2.0, loss]) == 2
    assert watched([loss]) == 1


def test_far_above_for_long_ends_it_and_a_peak_does_not():
    above, below = [6.1] * 5, [5.9]
    assert watched([2.0, *above], patience=5) == 6
    assert watched([2.0, *above[:4], *below, *above[:4]], patience=5) is None


def test_a_network_that_begins_near_zero_may_have_a_bad_hour():
    assert watched([0.01, *[2.9] * 60]) is None
    assert watched([0.01, *[3.1] * 60]) == 51
    assert watched([0.01, *[3.1] * 60], floor=6.9) is None


def test_each_training_has_its_own_beginning():
    hook = DivergenceHook(patience=1)
    for first in (1.0, 100.0):
        hook.before_train(None)
        hook.after_train_iter(runner(0), 0, outputs=dict(loss=torch.tensor(first)))


def test_a_real_run_at_an_absurd_rate_says_what_to_do(tmp_path):
    absurd = dict(optimizer=dict(type='SGD', lr=1e30))
    run = toy_runner(tmp_path, dict(type='DivergenceHook'), optim_wrapper=absurd, epochs=3)
    with pytest.raises(DivergedError, match=r'loss is nan in iteration \d.*rate of 1e\+30.*--lr'):
        run.train()
    toy_runner(tmp_path / 'sane', dict(type='DivergenceHook')).train()
