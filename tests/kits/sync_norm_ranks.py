"""One rank of ``test_sync_norm``: run by torchrun, compares by itself."""

import torch
import torch.distributed as dist
from torch import nn

from mmpretrain_mobileone_ext.models import CPUSyncBatchNorm


def joined_batch():
    """Batch of 7; ranks get 3 and 4 of it."""
    rng = torch.Generator().manual_seed(0)
    x, weight = torch.randn(2, 7, 5, 4, 3, generator=rng, dtype=torch.float64)
    return x.requires_grad_(), weight


def outputs(norm, x, weight, steps=2):
    for _ in range(steps):
        out = norm(x)
    (out.sin() * weight).sum().backward()
    return out


def main():
    dist.init_process_group('gloo')
    own = slice(0, 3) if dist.get_rank() == 0 else slice(3, 7)
    for momentum in (0.1, None):
        x, weight = joined_batch()
        wanted = nn.BatchNorm2d(5, momentum=momentum).double()
        expected = outputs(wanted, x, weight)
        norm = CPUSyncBatchNorm(5, momentum=momentum).double()
        mine = x.detach()[own].requires_grad_()
        found = outputs(norm, mine, weight[own])
        pairs = {'output': (found, expected[own]), 'gradient': (mine.grad, x.grad[own])}
        pairs.update({k: (v, wanted.state_dict()[k]) for k, v in norm.state_dict().items()})
        for name, param in norm.named_parameters():
            dist.all_reduce(param.grad)
            pairs[f'{name}.grad'] = (param.grad, wanted.get_parameter(name).grad)
        for name, (a, b) in pairs.items():
            error = (a - b).abs().max().item()
            assert error < 1e-9, f'{name}: {error:.3g}'
    print(f'compared {len(pairs)}')
    # Left to the interpreter's exit, gloo's threads sometimes abort it.
    dist.destroy_process_group()


if __name__ == '__main__':
    main()
