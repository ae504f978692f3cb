"""Train a unit as one convolution, by the moments of its input's patches.

Exact: outputs, running statistics and all gradients are those of the branches. Saved for backward
are the input and what is as small as weights.

:class:`~.batch_fold.Folding` has the formulas; who computes them depends on device and unit:
compiled kernels on a CPU, Triton's on a GPU, torch's operators elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Optional

import torch
import torch.distributed as dist
from torch import Tensor

from ..quantization import WeightGrid, patch_response
from . import gpu
from .batch_fold import Folded, Folding, PatchSums, UnitGrads, is_half, work_dtype
from .convs import DepthwiseConv, OutputGrad, PatchConv, PointwiseConv, has_depthwise_kernels
from .direct import direct_scale_grads, fold_batch
from .kernels import has_kernels_for
from .native_fold import DepthwiseFolding, PointwiseFolding
from .unit import BranchParams, UnitConfig

#: Of what :meth:`SumByMoments.forward` saves.
PATCH_MEAN = 5
_ALWAYS, _ROUNDED = 5, 2


class SumByMoments:
    """The method ``moments`` of one unit, on images like x.

    Args:
        config: of the unit.
        x: (N, C_in, H, W), or another tensor of its device and type, which decide who computes.
    """

    def __init__(self, config: UnitConfig, x: Tensor):
        self.config, spec = config, config.spec
        self.patches, self.folding = _native(config, x)
        kernels = gpu.patch_conv(spec) if gpu.available(x) else None
        self._on_gpu = kernels is not None
        if kernels is not None:
            self.patches, self.folding = kernels, gpu.folding(spec, config.eps)

    @staticmethod
    def layout(x: Tensor) -> torch.memory_format:
        """In which x is wanted, and the output comes."""
        return torch.channels_last

    def forward(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The sum of branches, statistics (2, J, C_out), and what backward takes.

        Statistics are means and unbiased variances of the branches, over all ranks.

        Raises:
            ValueError: there is one value a channel, of which no variance can be taken.
        """
        folded, sums = self._fold(x, params)
        if sums.count < 2:
            raise ValueError('Expected more than 1 value per channel when training')
        weight, bias = folded.weight, folded.bias
        own: list[Tensor] = []
        grid = self.config.weight_grid
        if grid is not None:
            weight, bias, own = self._rounded(x, params, folded, sums, grid)
        out = self.patches.conv(x, weight.to(x.dtype), bias, self.config.relu, sums.pivot)
        unbiased = folded.var * (sums.count / (sums.count - 1))
        stats = torch.stack([folded.mean, unbiased]).double()
        total = torch.tensor(float(sums.count), dtype=torch.float64)
        of_rows = (folded.mean.double().contiguous(), folded.direct.contiguous())
        numbers = [weight, sums.pivot, *of_rows, *own, *folded.state]
        return out, stats, [total, *numbers]

    def _rounded(
        self, x: Tensor, params: BranchParams, folded: Folded, sums: PatchSums, grid: WeightGrid
    ) -> tuple[Tensor, Tensor, list[Tensor]]:
        """The rounded kernel and its bias, and what is kept: the patches' mean and the rounding."""
        weight = grid.round(folded.weight)
        around = sums.sums / sums.count
        mean = around + sums.pivot_of_taps
        # As in a fold: the type of images rounds once more, around the pivot in half precision.
        taken = patch_response(weight.to(x.dtype).double(), around if is_half(x.dtype) else mean)
        betas = [beta.double() for beta in params.betas if beta is not None]
        bias = torch.stack(betas).sum(0) - taken if betas else -taken
        return weight, bias.to(x.dtype), [mean, weight - folded.weight]

    def _fold(self, x: Tensor, params: BranchParams) -> tuple[Folded, PatchSums]:
        group = self.config.process_group()
        if not self._on_gpu:
            return fold_batch(self.patches, self.folding, params, x.to(_work(x)), x.dtype, group)
        kernels: Any = self.patches
        sums = kernels.sums(x, kernels.pivot(x)).reduced(group)

        def look(rows: Any, marks: Tensor) -> Tensor:
            return _summed(kernels.direct_moments(x, sums.pivot, rows, marks), group)

        return self.folding.fold(params, sums, x.dtype, look), sums

    def backward(
        self,
        grad: OutputGrad,
        x: Tensor,
        params: BranchParams,
        saved: Sequence[Tensor],
        wants_dx: bool,
    ) -> tuple[Optional[Tensor], BranchParams]:
        """Gradients to x, where it is wanted, and to the parameters."""
        (total, weight, pivot, mean, direct), rest = saved[:_ALWAYS], saved[_ALWAYS:]
        own = rest[: _ROUNDED if self.config.weight_grid else 0]
        state = rest[len(own) :]
        dtype = x.dtype
        if self._on_gpu:  # kernels decide there which rows want a look
            by_scale = self._direct_grads(x, grad, pivot)
        else:
            x, grad = x.to(_work(x)), grad.to(_work(x))
            by_scale = direct_scale_grads(self.patches, params, mean, direct, pivot, x, grad)
        by_folded = self.patches.weight_grad(x, grad, weight, pivot)
        grads = self.folding.backward(params, state, total.item(), *by_folded, direct, by_scale)
        dx = None
        if wants_dx:
            if own:
                # The bias takes off what the rounded kernel makes of the patches' mean.
                _, rounding = own
                by_bias = by_folded[1].to(rounding)
                grads = replace(
                    grads, sums=grads.sums - _by_mean(rounding, by_bias, grads.sums) / total.item()
                )
            moves = _over_ranks(grads, self.config.process_group())
            dx = self.patches.input_grad(x, grad, weight, *moves, pivot).to(dtype)
        return dx, grads.params

    def _direct_grads(self, x: Tensor, grad: OutputGrad, pivot: Tensor) -> Any:
        kernels: Any = self.patches
        return lambda rows, marks, mean: kernels.direct_grads(x, grad, pivot, rows, marks, mean)

    def like(self, x: Tensor, params: BranchParams) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Empty tensors like those of :meth:`forward`."""
        spec, branches = self.config.spec, len(params.kernels)
        kernel = (spec.out_channels, spec.group_width, spec.kernel_size, spec.kernel_size)
        of_rows = (branches, spec.out_channels)
        return (
            x.new_empty(self.patches.output_shape(x)).contiguous(memory_format=self.layout(x)),
            x.new_empty(2, *of_rows, dtype=torch.float64),
            [
                torch.empty((), dtype=torch.float64),
                x.new_empty(kernel, dtype=_work(x)),
                x.new_empty(spec.in_channels, dtype=_work(x)),
                x.new_empty(of_rows, dtype=torch.float64),
                x.new_empty(of_rows, dtype=torch.bool),
                *self._rounded_like(x, kernel),
                *self.folding.state_like(x, params),
            ],
        )

    def _rounded_like(self, x: Tensor, kernel: tuple[int, ...]) -> list[Tensor]:
        if self.config.weight_grid is None:
            return []
        spec = self.config.spec
        mean = x.new_empty(spec.groups, spec.taps, dtype=torch.float64)
        return [mean, x.new_empty(kernel, dtype=_work(x))]


def _by_mean(kernel: Tensor, by_bias: Tensor, like: Tensor) -> Tensor:
    """What a gradient to the bias (O,) is to the patches' mean (G, P), by way of a kernel."""
    groups, taps = like.shape
    rows = kernel.reshape(groups, -1, taps)
    return torch.bmm(by_bias.view(groups, 1, -1), rows).view_as(like).to(like)


def _native(config: UnitConfig, x: Tensor) -> tuple[PatchConv, Any]:
    """Convolution and folding by compiled kernels, or torch's operators."""
    spec = config.spec
    folding: type[Folding] = Folding
    patches = PatchConv(spec)
    if spec.is_pointwise:
        patches = PointwiseConv(spec)
        if has_kernels_for(x) and work_dtype(spec.in_channels, x.dtype) == x.dtype:
            folding = PointwiseFolding
    elif has_depthwise_kernels(spec, x):
        patches, folding = DepthwiseConv(spec), DepthwiseFolding
    return patches, folding(spec, config.eps)


def _work(x: Tensor) -> torch.dtype:
    """Type of moments and of gradients to them: half precision is too little.

    It stops at the convolution's output.
    """
    return torch.promote_types(x.dtype, torch.float32)


def _summed(values: Tensor, group: Any) -> Tensor:
    """Over all ranks."""
    if group is not None:
        dist.all_reduce(values, group=group)
    return values


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
