"""Statistics of single rows of kernels, where moments of the patches have lost the digits.

A variance ``w S w^T`` is lost where it is small beside the terms that it is made of: channels that
nearly cancel in ``w``. Such a row is convolved alone, and its output summed in float64, as its
branch would do it; most often no row, or a few of thousands.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Optional

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from ..fold import identity_kernel, pad_kernel
from ..spec import UnitSpec
from .batch_fold import DirectStats, Folded, Folding, PatchSums, group_of, pivot_of_taps
from .convs import OutputGrad, PatchConv, image_chunks, padded_around
from .unit import BranchParams


def fold_batch(
    patches: PatchConv,
    folding: Folding,
    params: BranchParams,
    x: Tensor,
    dtype: torch.dtype,
    group: Any,
) -> tuple[Folded, PatchSums]:
    """Fold branches by the images x (N, C_in, H, W), of all ranks of ``group``.

    Args:
        x: in the type of moments.
        dtype: in which the unit convolves them.
    """
    sums = patches.sums(x, patches.pivot(x)).reduced(group)
    folded = folding.fold(params, sums, dtype)
    if folded.direct.any():
        rows = DirectRows(patches.spec, params, folded.direct, sums.pivot)
        folded = folding.fold(params, sums, dtype, rows.stats(x, sums, group))
    return folded, sums


def direct_scale_grads(
    patches: PatchConv,
    params: BranchParams,
    folded_mean: Tensor,
    direct: Tensor,
    pivot: Tensor,
    x: Tensor,
    grad: OutputGrad,
) -> Optional[Tensor]:
    """Of marked rows, sums (J, out) of gradient times output minus mean; None: no row is marked."""
    if not direct.any():
        return None
    return DirectRows(patches.spec, params, direct, pivot).scale_grads(x, grad, folded_mean)


class DirectRows:
    """Rows of branches' kernels that are convolved one by one.

    They are cut out by groups of channels that have any, each with as many slots as the group with
    most rows needs; slots that are not needed are 0.

    Args:
        spec: of the unit.
        params: of all branches.
        direct: (J, out) bool, at least one of them.
        pivot: (C_in,), around which images are convolved.
    """

    def __init__(self, spec: UnitSpec, params: BranchParams, direct: Tensor, pivot: Tensor):
        self.spec, self._pivot = spec, pivot
        self.branch, self.channel = direct.nonzero(as_tuple=True)
        self._group = group_of(spec, self.channel)
        self._groups, place = self._group.unique(return_inverse=True)
        self._slots, self._slot = _slots(place, len(self._groups))
        self._rows = _rows(spec, params, direct).to(pivot.dtype)
        size = spec.kernel_size
        weight = self._rows.new_zeros(len(self._groups) * self._slots, spec.group_width, size, size)
        weight[self._slot] = self._rows
        self._weight = weight
        width = torch.arange(spec.group_width, device=direct.device)
        self._channels = (self._groups.unsqueeze(1) * spec.group_width + width).flatten()
        self._whole = len(self._groups) == spec.groups

    def stats(self, x: Tensor, sums: PatchSums, group: Any) -> DirectStats:
        """Statistics of each row's output, over all ranks.

        Args:
            x: (N, C_in, H, W), of this rank.
            sums: of the patches of all ranks, by which outputs are centred before they are summed.
        """
        mean = (sums.sums / sums.count)[self._group]
        flat = self._rows.flatten(1).double()
        centre = (flat * mean).sum(1)
        total = flat.new_zeros(len(flat), 2 + flat.shape[1])
        for _, around, z in self._convolved(x):
            z = z.double() - centre[:, None]
            total[:, 0] += z.sum((0, 2))
            total[:, 1] += z.square().sum((0, 2))
            total[:, 2:] += self._by_patches(around, z.to(x.dtype))
        if group is not None:
            dist.all_reduce(total, group=group)
        off, square, crossed = (total / sums.count).split([1, 1, flat.shape[1]], 1)
        return DirectStats(
            self.branch,
            self.channel,
            centre + off[:, 0],
            (square - off.square())[:, 0],
            crossed - off * mean,
        )

    def scale_grads(self, x: Tensor, grad: OutputGrad, mean: Tensor) -> Tensor:
        """Sums (J, out) float64 of gradient times output minus ``mean`` (J, out)."""
        flat = self._rows.flatten(1).double()
        of_taps = pivot_of_taps(self._pivot, flat.new_empty(self.spec.groups, self.spec.taps))
        centre = mean[self.branch, self.channel].double() - (flat * of_taps[self._group]).sum(1)
        found = flat.new_zeros(len(flat))
        for images, _, z in self._convolved(x):
            own = grad.of(images)
            active = None if own.active is None else own.active[:, self.channel]
            dy = OutputGrad(own.dy[:, self.channel], active).masked().flatten(2)
            found += ((z.double() - centre[:, None]) * dy).sum((0, 2))
        out = found.new_zeros(mean.shape)
        out[self.branch, self.channel] = found
        return out

    def _convolved(self, x: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
        """Chunks of images around the pivot, and of the rows' outputs (n, r, H_out * W_out)."""
        spec = self.spec
        pivot = self._pivot if self._whole else self._pivot[self._channels]
        for images in image_chunks(x):
            own = x[images] if self._whole else x[images][:, self._channels]
            around = padded_around(own.contiguous(), pivot, spec.padding)
            z = F.conv2d(
                around, self._weight, None, spec.stride, 0, spec.dilation, len(self._groups)
            )
            yield images, around, z.flatten(2)[:, self._slot]

    def _by_patches(self, around: Tensor, z: Tensor) -> Tensor:
        """Sums (r, P) of z times the patches that it comes of."""
        spec = self.spec
        size = [
            (s - spec.dilation * (spec.kernel_size - 1) - 1) // spec.stride + 1
            for s in around.shape[2:]
        ]
        spread = z.new_zeros(len(z), len(self._weight), z.shape[2])
        spread[:, self._slot] = z
        _, grad, _ = torch.ops.aten.convolution_backward(
            spread.unflatten(2, size),
            around,
            self._weight,
            None,
            [spec.stride] * 2,
            [0, 0],
            [spec.dilation] * 2,
            False,
            [0, 0],
            len(self._groups),
            [False, True, False],
        )
        return grad[self._slot].flatten(1).double()


def _slots(place: Tensor, groups: int) -> tuple[int, Tensor]:
    """Slots a group, and the slot of each row, whose group is ``place`` (r,)."""
    counts = place.bincount(minlength=groups)
    order = place.argsort(stable=True)
    rank = torch.empty_like(place)
    rank[order] = (
        torch.arange(len(place), device=place.device) - (counts.cumsum(0) - counts)[place[order]]
    )
    most = int(counts.max())
    return most, place * most + rank


def _rows(spec: UnitSpec, params: BranchParams, direct: Tensor) -> Tensor:
    """The marked rows (r, I, k, k), in the order of branches."""
    rows = []
    for kernel, marked in zip(params.kernels, direct):
        own = kernel
        if own is None:
            own = identity_kernel(
                spec.out_channels, spec.groups, spec.kernel_size, torch.float32, direct.device
            )
        rows.append(pad_kernel(own.detach()[marked], spec.kernel_size).double())
    return torch.cat(rows)
