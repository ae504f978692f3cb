"""One rank of a network under DDP or FSDP2, compiled or not: run by torchrun.

``wrapped_ranks.py {ddp,fsdp} {eager,compiled}``; the oracle is the same network in one process, its
branches run, on the batch of each rank, gradients averaged.
"""

import copy
import os
import sys

import torch
import torch.distributed as dist
from helpers import TINY_BACKBONE, randomize_norms
from torch.nn.parallel import DistributedDataParallel

from mmpretrain_mobileone_ext import ConfigurableMobileOne

SMALL = {k: v for k, v in TINY_BACKBONE.items() if k != 'type'}


def wrap(net, kind):
    if kind == 'ddp':
        return DistributedDataParallel(net, broadcast_buffers=False)
    from torch.distributed.fsdp import fully_shard

    for stage in net.children():
        fully_shard(stage)
    return fully_shard(net)


def whole(tensor):
    return tensor.full_tensor() if hasattr(tensor, 'full_tensor') else tensor


def main():
    kind, mode = sys.argv[1:]
    dist.init_process_group('gloo')
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = randomize_norms(ConfigurableMobileOne(**SMALL, online_reparam=True)).double().train()
    wanted = ConfigurableMobileOne(**SMALL, online_reparam=False).double().train()
    wanted.load_state_dict(copy.deepcopy(net.state_dict()))
    torch.manual_seed(dist.get_rank() + 1)
    x = torch.randn(4, 3, 32, 32, dtype=torch.float64)
    model = wrap(net, kind)
    run = torch.compile(model, backend='aot_eager') if mode == 'compiled' else model
    run(x)[-1].sin().sum().backward()
    wanted(x)[-1].sin().sum().backward()
    for (name, p), q in zip(net.named_parameters(), wanted.parameters()):
        dist.all_reduce(q.grad)
        error = (whole(p.grad) - q.grad / dist.get_world_size()).abs().max()
        assert error < 1e-9 * max(1, q.grad.abs().max()), (name, error)
    for a, b in zip(net.buffers(), wanted.buffers()):
        assert (a.double() - b.double()).abs().max() < 1e-9
    print('compared', flush=True)
    dist.barrier()
    # Left to the interpreter's exit, gloo's threads sometimes abort it.
    os._exit(0)


if __name__ == '__main__':
    main()
