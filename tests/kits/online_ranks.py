"""One rank of a synchronized online unit: run by torchrun."""

import copy
import itertools
import math

import torch
import torch.distributed as dist

from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online import batch_fold
from mmpretrain_mobileone_ext.models.spec import UnitSpec

_AS_IT_IS = batch_fold.least_share


def _all(*_):
    return math.inf


def main():
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    own = slice(0, 3) if dist.get_rank() == 0 else slice(3, 7)
    specs = [
        UnitSpec('dw', 8, 8, 3, groups=8, num_conv_branches=3),
        UnitSpec('pw', 8, 12, 1, num_conv_branches=2),
        UnitSpec('stem', 8, 8, 3, stride=2, num_conv_branches=2),
    ]
    for spec, offset in itertools.product(specs, (0, 100)):
        # With the large mean, the rows of kernels are taken one by one too.
        batch_fold.least_share = _all if offset else _AS_IT_IS
        torch.manual_seed(0)
        joined = MobileOneBlock(spec, online_reparam=False).double()
        block = MobileOneBlock(spec, norm_cfg=dict(type='CPUSyncBN'), online_reparam=True).double()
        block.load_state_dict(copy.deepcopy(joined.state_dict()))
        x = torch.randn(7, 8, 6, 5, dtype=torch.float64)
        if offset:
            x = x[:, :1] + 0.1 * x + offset
        whole, mine = x.clone().requires_grad_(), x[own].requires_grad_()
        wanted, found = joined(whole), block(mine)
        wanted.sin().sum().backward()
        found.sin().sum().backward()
        pairs = [(found, wanted[own]), (mine.grad, whole.grad[own])]
        for p, q in zip(block.parameters(), joined.parameters()):
            dist.all_reduce(p.grad)
            pairs.append((p.grad, q.grad))
        pairs += [(a.double(), b.double()) for a, b in zip(block.buffers(), joined.buffers())]
        for a, b in pairs:
            assert (a - b).abs().max() < 1e-9 * max(1, b.abs().max()), spec.name
    print('compared')
    # Left to the interpreter's exit, gloo's threads sometimes abort it.
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
