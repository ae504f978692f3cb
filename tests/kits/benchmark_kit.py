"""Costs and cases made by hand, and a network small enough to count."""

import torch
from torch import nn

from mmpretrain_mobileone_ext.commands.benchmark.training.candidates import Candidate
from mmpretrain_mobileone_ext.commands.benchmark.training.results import Case, Cost
from mmpretrain_mobileone_ext.commands.benchmark.training.step import Batch, TrainingStep


def made_cost(form, *steps, saved=1_000_000, failure=None):
    return Cost(
        form,
        100.0,
        tuple(0.25 * s for s in steps),
        tuple(0.75 * s for s in steps),
        saved,
        2_000_000,
        failure,
    )


def made_case(arch='s0', batch=8, size=64, branches=(10.0, 12.0), auto=(5.0, 6.0), **kwargs):
    return Case(
        arch,
        batch,
        size,
        (made_cost('branches', *branches, **kwargs), made_cost('auto', *auto, **kwargs)),
    )


def toy_step(layers, batch=2, size=8, form='branches'):
    """A step of layers that keep (N, 3, size, size)."""
    net = nn.Sequential(*layers)
    images = torch.rand(batch, 3, size, size)
    data = Batch(images, torch.ones_like(images))
    return TrainingStep(Candidate(form, net, net), data)
