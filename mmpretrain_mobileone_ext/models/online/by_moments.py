"""Train a unit as one convolution, by the moments of its input's patches.

Exact: outputs, running statistics and all gradients are those of the branches. Saved for backward
are the input and what is as small as weights.

:class:`~.batch_fold.Folding` has the formulas.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor

from .batch_fold import Folding, PatchSums, UnitGrads, work_dtype
from .convs import DepthwiseConv, OutputGrad, PatchConv, PointwiseConv, has_depthwise_kernels
from .kernels import has_kernels_for
from .native_fold import DepthwiseFolding, PointwiseFolding
from .unit import BranchParams, UnitConfig


class SumByMoments:
    """The method ``moments`` of one unit, on images like x.

    Args:
        config: of the unit.
        x: (N, C_in, H, W); its device and type decide who computes.
    """

    layout = torch.channels_last

    def __init__(self, config: UnitConfig, x: Tensor):
        self.config, spec = config, config.spec
        folding: type[Folding] = Folding
        if spec.is_pointwise:
            self.patches: PatchConv = PointwiseConv(spec)
            if has_kernels_for(x) and work_dtype(spec.in_channels, x.dtype) == x.dtype:
                folding = PointwiseFolding
        elif has_depthwise_kernels(spec, x):
            self.patches, folding = DepthwiseConv(spec), DepthwiseFolding
        else:
            self.patches = PatchConv(spec)
        self.folding = folding(spec, config.eps)

    def forward(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The sum of branches, statistics (2, J, C_out), and what backward takes.

        Statistics are means and unbiased variances of the branches, over all ranks.

        Raises:
            ValueError: there is one value a channel, of which no variance can be taken.
        """
        count = self.patches.count(x)
        sums = PatchSums(count, *self.patches.sums(x.to(_work(x)))).reduced(
            self.config.process_group()
        )
        if sums.count < 2:
            raise ValueError('Expected more than 1 value per channel when training')
        folded = self.folding.fold(params, sums, x.dtype)
        out = self.patches.conv(x, folded.weight.to(x.dtype), folded.bias, self.config.relu)
        unbiased = folded.var * (sums.count / (sums.count - 1))
        stats = torch.stack([folded.mean, unbiased]).double()
        total = torch.tensor(float(sums.count), dtype=torch.float64)
        return out, stats, [total, folded.weight, *folded.state]

    def backward(
        self,
        grad: OutputGrad,
        x: Tensor,
        params: BranchParams,
        saved: Sequence[Tensor],
        wants_dx: bool,
    ) -> tuple[Optional[Tensor], BranchParams]:
        """Gradients to x, where it is wanted, and to the parameters."""
        total, weight, *state = saved
        work, dtype, group = _work(x), x.dtype, self.config.process_group()
        x, grad = x.to(work), grad.to(work)
        by_fold = self.patches.weight_grad(x, grad, weight)
        grads = self.folding.backward(params, state, total.item(), *by_fold)
        dx = None
        if wants_dx:
            dx = self.patches.input_grad(x, grad, weight, *_over_ranks(grads, group)).to(dtype)
        return dx, grads.params

    def like(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Empty tensors like those of :meth:`forward`."""
        spec, branches = self.config.spec, len(params.kernels)
        return (
            _pixels_last(x.new_empty(self.patches.output_shape(x))),
            x.new_empty(2, branches, spec.out_channels, dtype=torch.float64),
            [
                torch.empty((), dtype=torch.float64),
                x.new_empty(
                    spec.out_channels,
                    spec.group_width,
                    spec.kernel_size,
                    spec.kernel_size,
                    dtype=_work(x),
                ),
                *self.folding.state_like(x, params),
            ],
        )


def _pixels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last)


def _work(x: Tensor) -> torch.dtype:
    """Type of moments and of gradients to them: half precision is too little.

    It stops at the convolution's output.
    """
    return torch.promote_types(x.dtype, torch.float32)


def _over_ranks(grads: UnitGrads, group: Any) -> tuple[Tensor, Tensor]:
    """Gradients to products and sums.

    Other ranks' losses depend on this rank's patches too.
    """
    products, sums = grads.products, grads.sums
    if group is None:
        return products, sums
    both = torch.cat([products.flatten(), sums.flatten()])
    dist.all_reduce(both, group=group)
    moved = both.split([products.numel(), sums.numel()])
    return moved[0].view_as(products), moved[1].view_as(sums)
