"""No convolution of ours meets a fault of oneDNN.

Its weight gradient of a strided 1x1 convolution with few input channels, in channels_last, writes
past its workspace (https://github.com/uxlfoundation/oneDNN/issues/6035).
"""

import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from helpers import assert_close, generator, randomize_norms
from torch.utils._python_dispatch import TorchDispatchMode

from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online.by_moments import OutputGrad
from mmpretrain_mobileone_ext.models.online.by_recompute import SumByRecomputing
from mmpretrain_mobileone_ext.models.online.operators import HAS_SHAPES
from mmpretrain_mobileone_ext.models.spec import UnitSpec

STEM = UnitSpec('stem', 3, 8, 3, stride=2, num_conv_branches=2)

TRAIN = """
import torch
from mmpretrain_mobileone_ext.models import MobileOneBlock
from mmpretrain_mobileone_ext.models.online.dispatch import sum_by
from mmpretrain_mobileone_ext.models.spec import UnitSpec

x = torch.rand(8, 3, 224, 224)
for size, run in (
    (3, lambda unit, x: unit._linear(x)),
    (3, lambda unit, x: sum_by('recompute', unit.unit(), x)),
    (1, lambda unit, x: unit(x)),
):
    unit = MobileOneBlock(UnitSpec('stem', 3, 48, size, stride=2))
    unit.to(memory_format=torch.channels_last)
    for layout in (torch.contiguous_format, torch.channels_last):
        for _ in range(3):
            run(unit, x.to(memory_format=layout)).square().mean().backward()
"""


class Convolutions(TorchDispatchMode):
    """Weights and strides of the convolutions whose weight gradient is taken."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func is torch.ops.aten.convolution_backward.default and args[-1][1]:
            self.seen.append((tuple(args[2].shape), tuple(args[4])))
        return func(*args, **(kwargs or {}))


def stem(spec=STEM, **options):
    block = MobileOneBlock(spec, **options).double().train()
    return randomize_norms(block).to(memory_format=torch.channels_last)


def images():
    return torch.rand(2, 3, 12, 12, generator=generator(), dtype=torch.float64)


def test_branches_read_every_second_pixel_without_a_stride():
    with Convolutions() as convolutions:
        stem(online_reparam=False)(images()).sum().backward()
    assert sorted(convolutions.seen) == [
        ((8, 3, 1, 1), (1, 1)),
        ((8, 3, 3, 3), (2, 2)),
        ((8, 3, 3, 3), (2, 2)),
    ]


@pytest.mark.parametrize('wants_dx', [True, False])
def test_branches_that_are_computed_again_do_too(wants_dx):
    block, x = stem(online_reparam=False), images()
    unit = block.unit()
    method = SumByRecomputing(unit.config())
    with torch.no_grad():
        out, _, kept = method.forward(x, unit.parameters)
    with Convolutions() as convolutions:
        dx, found = method.backward(OutputGrad(out.cos()), x, unit.parameters, kept, wants_dx)
    assert ((8, 3, 1, 1), (1, 1)) in convolutions.seen
    assert ((8, 3, 1, 1), (2, 2)) not in convolutions.seen
    own = x.requires_grad_(wants_dx)
    block(own).sin().sum().backward()
    assert_close([p.grad for p in unit.parameters.kernels], list(found.kernels), 1e-10)
    if wants_dx:
        assert_close(own.grad, dx, 1e-10)
    else:
        assert dx is None


@pytest.mark.parametrize(
    'change',
    [dict(in_channels=16), dict(in_channels=8, groups=8)],
    ids=['a whole vector', 'grouped'],
)
def test_others_keep_their_stride(change):
    spec = replace(STEM, **change)
    x = torch.rand(2, spec.in_channels, 12, 12, dtype=torch.float64)
    with Convolutions() as convolutions:
        stem(spec, online_reparam=False)(x).sum().backward()
    strides = {stride for _, stride in convolutions.seen}
    assert strides == {(spec.stride, spec.stride)}


def test_all_of_a_branch_runs():
    block, x = stem(online_reparam=False), images()
    plain = block(x)
    block.branch_scale.add_module('more', torch.nn.Threshold(1e9, 0))  # of which nothing is left
    wanted = sum(branch(x) for branch in block.branch_conv_list)
    assert_close(wanted, block(x), 1e-12)
    assert not torch.allclose(plain, wanted)


def test_a_frozen_branch_and_an_exported_one_keep_their_stride():
    block, x = stem(online_reparam=False).eval(), images()
    exported = torch.export.export(block, (x,))
    assert 'slice' not in str(exported.graph)
    block.branch_scale.requires_grad_(False)
    with Convolutions() as convolutions:
        block(x).sum().backward()
    assert [weight for weight, _ in convolutions.seen] == [(8, 3, 3, 3)] * 2


@pytest.mark.parametrize('preference', ['auto', True, 'memory'])
def test_a_unit_that_is_such_a_convolution_runs_by_branches(preference):
    spec = replace(STEM, kernel_size=1)
    block, wanted = (stem(spec, online_reparam=p) for p in (preference, False))
    wanted.load_state_dict(block.state_dict())
    with Convolutions() as convolutions:
        block(images()).sin().sum().backward()
    assert {stride for _, stride in convolutions.seen} == {(1, 1)}
    wanted(images()).sin().sum().backward()
    grads = [[p.grad for p in b.parameters()] for b in (wanted, block)]
    assert_close(*grads, 1e-10)


@pytest.mark.parametrize('part', ['', '.conv', '.norm'])
def test_hooks_are_called(part):
    block, seen = stem(online_reparam=False), []
    block.get_submodule(f'branch_scale{part}').register_forward_hook(lambda *given: seen.append(1))
    block(images())
    assert seen == [1]


@pytest.mark.skipif(not HAS_SHAPES, reason='torch < 2.4 breaks the graph at each unit')
def test_a_compiler_is_given_no_such_convolution():
    block, found = stem(online_reparam=False), []

    def record(graph, _):
        found.extend(
            node.args[3] if len(node.args) > 3 else node.kwargs.get('stride', (1, 1))
            for node in graph.graph.nodes
            if node.target is torch.conv2d or 'conv2d' in str(node.target)
            if node.args[1].meta['example_value'].shape[-1] == 1
        )
        return graph

    torch._dynamo.reset()
    torch.compile(block, backend=record, fullgraph=True)(images())
    torch._dynamo.reset()
    assert [tuple(stride) for stride in found] == [(1, 1)]


@pytest.mark.slow
def test_a_stem_in_channels_last_trains():
    # glibc's allocator then notices what is written past a block; others just run.
    checks = dict(LD_PRELOAD='libc_malloc_debug.so.0', GLIBC_TUNABLES='glibc.malloc.check=3')
    done = subprocess.run(
        [sys.executable, '-c', TRAIN], capture_output=True, text=True, env={**os.environ, **checks}
    )
    assert done.returncode == 0, done.stderr
