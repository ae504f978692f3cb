"""Running statistics are kept as batch norms keep them."""

import copy

import torch
from helpers import generator
from torch import nn

from mmpretrain_mobileone_ext.models.norms import track


def norms():
    """Each with a way of its own to keep statistics, or not to."""
    found = [nn.BatchNorm2d(3, momentum=momentum) for momentum in (0.1, 0.1, 0.3, None, 0.0)]
    found.append(nn.BatchNorm2d(3, track_running_stats=False))
    found.append(nn.BatchNorm2d(3).eval())
    forgetful = nn.BatchNorm2d(3)
    forgetful.running_mean = forgetful.running_var = None
    return nn.ModuleList([forgetful, *found])


def test_statistics_move_as_the_norms_move_them():
    own = norms()
    wanted = copy.deepcopy(own)
    for step in range(3):
        x = torch.randn(4, 3, 5, 5, generator=generator(step)) * 2 + 1
        var, mean = torch.var_mean(x.double(), (0, 2, 3))
        track(list(own), torch.stack([mean, var]).unsqueeze(1).expand(2, len(own), 3))
        for norm in wanted:
            norm(x)
    assert own.state_dict().keys() == wanted.state_dict().keys()
    for name, value in wanted.state_dict().items():
        torch.testing.assert_close(own.state_dict()[name], value, msg=name)
    assert not torch.equal(own[1].running_mean, own[3].running_mean)
