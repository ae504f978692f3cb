"""Memory: what is counted, on networks small enough to count by hand."""

import pytest
import torch
from benchmark_kit import toy_step
from torch import nn

from mmpretrain_mobileone_ext.commands.benchmark.training import step as memory
from mmpretrain_mobileone_ext.commands.benchmark.training.candidates import (
    build_candidate,
    reference_state,
)
from mmpretrain_mobileone_ext.commands.benchmark.training.step import TrainingStep, make_batch
from mmpretrain_mobileone_ext.utils import machine

MAP = 2 * 3 * 8 * 8 * 4  # bytes of the toy's feature maps


def test_parameters_images_and_loss_weights_do_not_count():
    assert memory.saved_bytes(toy_step([nn.Conv2d(3, 3, 1)])) == 0


def test_a_map_counts_once_however_often_it_is_kept():
    # The ReLU's output is kept by the ReLU and by the convolution.
    step = toy_step([nn.Conv2d(3, 3, 1), nn.ReLU(), nn.Conv2d(3, 3, 1)])
    assert memory.saved_bytes(step) == MAP


def test_what_a_norm_keeps_is_its_input_and_two_statistics():
    step = toy_step([nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3)])
    assert memory.saved_bytes(step) == MAP + 2 * 3 * 4


def test_a_custom_function_is_seen_and_a_view_counts_whole():

    class Keep(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward((2 * x)[:1])
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * ctx.saved_tensors[0]

    class Layer(nn.Module):
        def forward(self, x):
            return Keep.apply(x)

    step = toy_step([nn.Conv2d(3, 3, 1), Layer()])
    assert memory.saved_bytes(step) == MAP


def saved_of(form, state, batch):
    candidate = build_candidate(form, 's0', state)
    data = make_batch(candidate, batch, 64, 0, 'cpu')
    return memory.saved_bytes(TrainingStep(candidate, data))


def test_saved_bytes_grow_with_the_batch():
    state = reference_state('s0', seed=0)
    two, four = (saved_of('folded', state, n) for n in (2, 4))
    assert four == 2 * two
    one, two, three = (saved_of('mmpretrain', state, n) for n in (2, 4, 6))
    assert three - two == two - one  # the rest are statistics of norms
    assert two - one == pytest.approx(one, rel=0.05)


class Balloon(nn.Module):
    def forward(self, x):
        return x + torch.ones(2**24).sum()  # 64 MiB, touched and freed


def test_peak_sees_what_is_freed_within_the_step():
    small = memory.peak_growth(toy_step([nn.Conv2d(3, 3, 1)]))
    if small is None:
        pytest.skip('the system does not say')
    large = memory.peak_growth(toy_step([nn.Conv2d(3, 3, 1), Balloon()]))
    assert 0.95 * 2**26 < large < 2**27
    assert small < 2**25


def test_no_peak_where_the_system_does_not_say(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, '_PROC', tmp_path / 'absent')
    assert memory.peak_growth(toy_step([nn.Conv2d(3, 3, 1)])) is None


def test_free_memory_is_known_and_respects_a_group(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, '_GROUP', tmp_path)
    whole = machine.free_bytes('cpu')
    (tmp_path / 'memory.max').write_text('5000\n')
    (tmp_path / 'memory.current').write_text('2000\n')
    assert machine.free_bytes('cpu') == 3000
    (tmp_path / 'memory.max').write_text('max\n')
    assert whole is None or machine.free_bytes('cpu') > 3000
