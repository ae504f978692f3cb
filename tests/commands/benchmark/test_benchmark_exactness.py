"""Exactness: forms that agree, and every way of not agreeing."""

import copy

import pytest
import torch
from benchmark_kit import toy_step

from mmpretrain_mobileone_ext.commands.benchmark.training import case as exactness
from mmpretrain_mobileone_ext.commands.benchmark.training.candidates import (
    BenchmarkOptions,
    build_candidate,
    reference_state,
)
from mmpretrain_mobileone_ext.commands.benchmark.training.case import (
    agreement,
    check_arch,
    checked_forms,
    gradient_error,
    training_outcome,
)
from mmpretrain_mobileone_ext.commands.benchmark.training.step import make_batch

pytestmark = pytest.mark.usefixtures('tiny_s0')
FIELDS = ['output', 'input_gradient', 'gradients', 'statistics']


def outcome(form, changed=None):
    """Of 2 images of 32x32, in float64; ``changed`` edits the weights."""
    state = reference_state('s0', seed=0)
    if changed:
        changed(state)
    candidate = build_candidate(form, 's0', state, dtype=torch.float64)
    data = make_batch(candidate, 2, 32, 0, 'cpu').to(torch.float64)
    return training_outcome(candidate, data)


@pytest.fixture(scope='module')
def reference(tiny_s0):
    return outcome('mmpretrain')


def test_our_branches_agree(reference):
    found = agreement(outcome('branches'), reference)
    assert list(found) == FIELDS
    assert max(found.values()) < 1e-9


def test_one_perturbed_weight_is_noticed(reference):

    def change(state):
        state['stage2.3.branch_conv_list.1.conv.weight'][0, 0] += 1e-3

    found = agreement(outcome('branches', change), reference)
    assert min(found.values()) > 1e-6


def test_a_perturbed_statistic_is_noticed(reference):

    def change(state):
        state['stage1.0.branch_scale.norm.running_mean'][0] += 1e-3

    found = agreement(outcome('branches', change), reference)
    assert found['statistics'] > 1e-6
    assert found['gradients'] < 1e-9


def test_a_nan_is_not_hidden(reference):
    other = copy.deepcopy(reference)
    statistics = next(iter(other.statistics.values()))
    statistics[0] = float('nan')
    found = agreement(other, reference)
    assert found['statistics'] != found['statistics']


def test_a_step_leaves_no_gradients():
    step = toy_step([torch.nn.Conv2d(3, 3, 1)])
    found = training_outcome(step.candidate, step.data)
    assert found.input_gradient.shape == step.data.images.shape
    assert step.data.images.grad is None
    assert all(p.grad is None for p in step.candidate.net.parameters())


def test_gradient_error_is_over_all_tensors():
    exact = dict(a=torch.tensor([3.0]), b=torch.tensor([4.0]))
    off = dict(a=torch.tensor([3.0]), b=torch.tensor([4.5]))
    assert gradient_error(off, exact) == pytest.approx(0.1)
    assert gradient_error(exact, exact) == 0


def test_lost_parameters_are_an_error():
    with pytest.raises(AssertionError, match='different parameters'):
        gradient_error({}, dict(a=torch.ones(1)))


def test_folded_and_timm_are_not_compared():
    assert checked_forms(['timm', 'branches', 'folded']) == ('branches',)


def test_every_seed_is_measured():
    advanced = []
    options = BenchmarkOptions(seeds=2, check_size=32, amp='bfloat16')
    found = check_arch(options, ('branches', 'folded'), 's0', advanced.append)
    (row,) = found.forms
    assert row.form == 'branches'
    assert (found.batch, found.size) == (4, 32)
    assert sum(advanced) == 2
    assert max(row.output + row.gradients + row.statistics) < 1e-9
    assert len(row.fp32_error) == len(row.amp_error) == 2
    assert all(0 < s < a for s, a in zip(row.fp32_error, row.amp_error))


def test_out_of_memory_stays_in_its_row(monkeypatch):
    def refuse(self, form):
        raise MemoryError

    monkeypatch.setattr(exactness._Trial, 'sample', refuse)
    options = BenchmarkOptions(seeds=1, check_size=32)
    (row,) = check_arch(options, ('branches',), 's0').forms
    assert row.failure == 'out of memory'
    assert row.output == ()
