"""A step: the loss and gradients it says, and nothing left behind."""

import torch
from benchmark_kit import toy_step
from helpers import assert_close, assert_same_state
from torch import nn

from mmpretrain_mobileone_ext.commands.benchmark.training.candidates import Candidate
from mmpretrain_mobileone_ext.commands.benchmark.training.step import TrainingStep, make_batch


def norm_net():
    return nn.Sequential(nn.Conv2d(3, 5, 1, stride=4), nn.BatchNorm2d(5))


def made(net, seed=0):
    return make_batch(Candidate('branches', net, net), 4, 8, seed, 'cpu')


def test_a_batch_comes_from_its_seed():
    net = norm_net()
    first, same, other = made(net), made(net), made(net, seed=1)
    assert first.images.shape == (4, 3, 8, 8)
    assert first.probe.shape == (4, 5, 2, 2)
    assert torch.equal(first.images, same.images)
    assert torch.equal(first.probe, same.probe)
    assert not torch.equal(first.images, other.images)


def test_making_a_batch_leaves_the_network_alone():
    net = norm_net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    made(net)
    assert_same_state(before, net.state_dict())
    assert net.training


def test_gradients_are_those_of_the_weighted_sum():
    net = norm_net()
    data = made(net)
    step = TrainingStep(Candidate('branches', net, net), data)
    step.forward().backward()
    (expected,) = torch.autograd.grad((net(data.images) * data.probe).sum(), net[0].weight)
    assert_close(expected, net[0].weight.grad, 1e-6)


def test_a_step_does_all_and_clears_gradients():
    step = toy_step([nn.Conv2d(3, 3, 1)])
    seen = []
    step.candidate.net[0].weight.register_hook(seen.append)
    lap = step.run()
    assert len(seen) == 1
    assert lap.forward_ms > 0
    assert lap.backward_ms > 0
    assert all(p.grad is None for p in step.candidate.net.parameters())


def test_autocast_covers_the_network_not_the_loss():
    plain = toy_step([nn.Conv2d(3, 3, 1)])
    step = TrainingStep(plain.candidate, plain.data, amp='bfloat16')
    assert plain.last_map().dtype == torch.float32
    assert step.last_map().dtype == torch.bfloat16
    assert step.forward().dtype == torch.float32
