"""Fold parallel conv-norm branches into one convolution.

Everything is computed in float64 on the CPU and rounded once, so the folded weights are the
correctly rounded ones whatever the dtype of the branches. No random number is drawn. Layout of a
kernel: (out, in / groups, k, k).
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
import torch.nn.functional as F
from mmcv.cnn import Conv2d
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import CheckpointError, FoldError
from .loading.state_dict import check_dtypes, check_finite
from .spec import BRANCH_KINDS, UnitSpec

#: mmcv's ``Conv2d`` ('Conv') computes the same; ConvWS, DCN, ... do not.
PLAIN_CONVS = (nn.Conv2d, Conv2d)


@dataclass(frozen=True)
class Branch:
    """A branch as modules: its convolution, if it has one, and its norm."""

    conv: Optional[nn.Conv2d]
    norm: Any

    @property
    def kernel(self) -> Optional[Tensor]:
        return None if self.conv is None else self.conv.weight


def fold_branches(spec: UnitSpec, branches: Sequence[Branch]) -> tuple[Tensor, Tensor]:
    """Fold all branches of one unit.

    Returns:
        Kernel (O, I / groups, k, k) and bias (O,) in float64; the caller rounds.

    Raises:
        FoldError: nothing to fold, or a branch that cannot be.
    """
    for branch in branches:
        _check_foldable(spec.name, branch)
    if not branches:
        raise FoldError('no branch to fold')
    folded = [
        fold_conv_norm(_full_kernel(spec, branch), branch.norm.state_dict(), branch.norm.eps)
        for branch in branches
    ]
    kernels, biases = zip(*folded)
    return torch.stack(kernels).sum(0), torch.stack(biases).sum(0)


def _check_foldable(name: str, branch: Branch) -> None:
    if not isinstance(branch.norm, _BatchNorm):
        raise FoldError(
            f'{name}: only batch norms can be folded '
            f'exactly, this is a {type(branch.norm).__name__}'
        )
    if branch.conv is not None and type(branch.conv) not in PLAIN_CONVS:
        raise FoldError(
            f'{name}: only nn.Conv2d can be folded exactly, this is a {type(branch.conv).__name__}'
        )


def _full_kernel(spec: UnitSpec, branch: Branch) -> Tensor:
    if branch.kernel is None:
        return identity_kernel(spec.out_channels, spec.groups, spec.kernel_size)
    return pad_kernel(branch.kernel, spec.kernel_size)


def identity_kernel(
    channels: int,
    groups: int,
    kernel_size: int,
    dtype: torch.dtype = torch.float64,
    device: Union[torch.device, str] = 'cpu',
) -> Tensor:
    """Kernel (C, C / groups, k, k) of the convolution that does nothing."""
    width = channels // groups
    kernel = torch.zeros(channels, width, kernel_size, kernel_size, dtype=dtype, device=device)
    index = torch.arange(channels, device=device)
    kernel[index, index % width, kernel_size // 2, kernel_size // 2] = 1
    return kernel


def pad_kernel(weight: Tensor, kernel_size: int) -> Tensor:
    """Zero-pad an odd kernel (O, I, j, j) to (O, I, k, k) around its centre.

    Raises:
        FoldError: if a kernel is even or larger than ``kernel_size``.
    """
    size = weight.shape[-1]
    margin = kernel_size - size
    if margin < 0 or margin % 2 or size % 2 == 0:
        raise FoldError(
            f'a {size}x{size} kernel has no place at the centre '
            f'of a {kernel_size}x{kernel_size} one'
        )
    return F.pad(weight, [margin // 2] * 4) if margin else weight


def fold_conv_norm(weight: Tensor, norm: Mapping[str, Tensor], eps: float) -> tuple[Tensor, Tensor]:
    """Fold a batch norm in eval mode into the bias-free conv before it.

    ``W = gamma / sqrt(var + eps) * w`` and ``b = beta - gamma / sqrt(var + eps) * mean``.

    Args:
        weight: (O, I / groups, k, k).
        norm: ``running_mean``, ``running_var`` and, if affine, ``weight`` and ``bias``, each (O,).
        eps: the norm's epsilon.

    Returns:
        Kernel (O, I / groups, k, k) and bias (O,), float64.

    Raises:
        FoldError: without running statistics there is nothing to fold.
    """
    if norm.get('running_mean') is None or norm.get('running_var') is None:
        raise FoldError(
            'a batch norm without running statistics (track_running_stats=False) cannot be folded'
        )
    scale = (_exact(norm['running_var']) + eps).rsqrt()
    if norm.get('weight') is not None:
        scale = scale * _exact(norm['weight'])
    bias = -_exact(norm['running_mean']) * scale
    if norm.get('bias') is not None:
        bias = bias + _exact(norm['bias'])
    return _exact(weight) * scale.reshape(-1, 1, 1, 1), bias


def _exact(tensor: Tensor) -> Tensor:
    """Detach and widen to float64 on the CPU (some devices lack float64)."""
    return tensor.detach().to('cpu', torch.float64)


def round_once(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Round float64 to the nearest ``dtype``, ties to even.

    PyTorch goes to 16 bits by way of float32, which rounds twice and misses the nearest value of
    about one weight in ten thousand. Rounding to odd on the way makes the second rounding the only
    one that counts.
    """
    if dtype not in (torch.float16, torch.bfloat16):
        return tensor.to(dtype)
    single = tensor.float()
    bits = single.view(torch.int32)
    # The bits of a float32, as an integer, grow with its magnitude.
    bits -= (single.double().abs() > tensor.abs()).int()
    bits |= (single.double() != tensor).int()
    return single.to(dtype)


def fold_incoming(block: Any, state_dict: dict, prefix: str) -> None:
    """Fold branch weights on their way into a folded block, in place.

    Does nothing for a block in branch form or a state dict without branch weights. The branches
    must be those of the block's spec: a lost one would fold into wrong weights of the right shape.

    Raises:
        CheckpointError: missing, unexpected or wrongly shaped branch keys, another kind of number,
            or weights or a fold that are not finite.
        FoldError: a conv or norm for which no exact fold exists.
    """
    marks = tuple(f'{prefix}{kind.module}.' for kind in BRANCH_KINDS)
    found = [k for k in state_dict if k.startswith(marks)]
    folded = f'{prefix}branch_reparam.'
    # With both forms in it the branch keys stay, as unexpected ones.
    if not block.deploy or not found or f'{folded}weight' in state_dict:
        return
    twin = block.branch_twin()
    given = {k[len(prefix) :]: state_dict.pop(k) for k in found}
    check_dtypes(given, twin.state_dict(), prefix)
    try:
        twin.load_state_dict(given, assign=True)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(
            f'{block.spec.name}: the branches in the checkpoint do not fit: {reason}'
        ) from error
    check_finite(twin, given, prefix)
    twin.quantizer = _incoming_quantizer(block, state_dict, f'{prefix}quantizer.')
    dtype = block.branch_reparam.weight.dtype
    for name, value in zip(('weight', 'bias'), twin.fold()):
        state_dict[folded + name] = round_once(value, dtype)


def _incoming_quantizer(block: Any, state_dict: Mapping[str, Tensor], prefix: str) -> Any:
    """The block's, as the state dict is about to make it."""
    given = {k[len(prefix) :]: v for k, v in state_dict.items() if k.startswith(prefix)}
    if block.quantizer is None or not given:
        return block.quantizer
    own = copy.deepcopy(block.quantizer)
    try:
        own.load_state_dict(given)
    except RuntimeError as error:
        reason = ' '.join(str(error).split())
        raise CheckpointError(f'{block.spec.name}: the quantizer does not fit: {reason}') from error
    return own
