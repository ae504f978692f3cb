"""The re-parameterizable unit of MobileOne, in branch or folded form."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from itertools import chain
from typing import Any, Optional

import torch
import torch.nn.functional as F
from mmcv.cnn import build_activation_layer, build_conv_layer, build_norm_layer
from mmengine.model import BaseModule, ModuleList, Sequential
from mmpretrain.models.utils import SELayer
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..errors import SpecError
from ..utils.checks import boolean, layer_cfg, refuse
from ..utils.machine import is_compiling, is_exporting
from .fold import PLAIN_CONVS, Branch, fold_branches, fold_incoming, round_once
from .norms import shielded_stats
from .online import (
    Preference,
    SmallInputRule,
    Unit,
    branch_layout,
    check_preference,
    has_hooks,
    online_sum,
    pixel_step,
    quantized_sum,
)
from .quantization import InputGrid, UnitQuantizer, rounded_by
from .spec import BRANCH_KINDS, BranchKind, UnitSpec


class MobileOneBlock(BaseModule):
    """Parallel conv-BN branches, SE and activation (paper section 3.2).

    ``y = act(se(sum_j branch_j(x)))`` with x (N, C, H, W). State-dict keys are those of
    mmpretrain's ``MobileOneBlock`` in both forms.

    Args:
        spec: shape and branches of the unit.
        conv_cfg, norm_cfg: as in ``mmcv.cnn.ConvModule``.
        deploy: build the folded form.
        with_cp: recompute the unit in backward instead of storing its activations; running
            statistics are still updated once.
        online_reparam: train the branches as one convolution where that is exact: 'auto' where it
            is faster, True wherever it is defined, 'memory' where it saves memory, False never.
        init_cfg: as in ``mmengine.model.BaseModule``.

    Raises:
        SpecError: for a conv, norm, SE or activation config that cannot be built.
    """

    branch_reparam: nn.Conv2d

    def __init__(
        self,
        spec: UnitSpec,
        conv_cfg: Optional[dict] = None,
        norm_cfg: Optional[dict] = None,
        deploy: bool = False,
        with_cp: bool = False,
        online_reparam: Preference = 'auto',
        init_cfg=None,
    ):
        super().__init__(init_cfg)
        boolean(f'{spec.name}: deploy', deploy)
        boolean(f'{spec.name}: with_cp', with_cp)
        layer_cfg(f'{spec.name}: conv_cfg', conv_cfg)
        layer_cfg(f'{spec.name}: norm_cfg', norm_cfg)
        self.spec = spec
        self.conv_cfg = conv_cfg
        self.norm_cfg = dict(type='BN') if norm_cfg is None else norm_cfg
        self.deploy = deploy
        self.with_cp = with_cp
        self.online_reparam = check_preference(online_reparam)
        self._small_inputs = SmallInputRule(spec)
        self.quantizer: Optional[UnitQuantizer] = None
        self.se = self._squeeze_excite()
        if deploy:
            self.branch_reparam = self._conv(spec.kernel_size, bias=True)
        else:
            self._build_branches()
        self.act = self._activation()
        self._register_load_state_dict_pre_hook(self._fold_on_load)

    @classmethod
    def from_arguments(
        cls,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        num_convs: int,
        stride: int = 1,
        padding: int = 1,
        dilation: int = 1,
        groups: int = 1,
        se_cfg: Optional[dict] = None,
        conv_cfg: Optional[dict] = None,
        norm_cfg: Optional[dict] = None,
        act_cfg: Optional[dict] = dict(type='ReLU'),  # noqa: B006
        deploy: bool = False,
        init_cfg: Any = None,
    ) -> MobileOneBlock:
        """Build a unit from the arguments of mmpretrain's ``MobileOneBlock``.

        Raises:
            SpecError: for what cannot be built, where mmpretrain raises AssertionError, TypeError
                or KeyError, and for a padding that does not keep the size at stride 1.
        """
        spec = UnitSpec(
            'MobileOneBlock',
            in_channels,
            out_channels,
            kernel_size,
            stride=stride,
            dilation=dilation,
            groups=groups,
            num_conv_branches=num_convs,
            se_cfg=se_cfg,
            act_cfg=act_cfg,
        )
        if padding != spec.padding:
            refuse('MobileOneBlock: padding', padding, f'{spec.padding}, which keeps the size')
        return cls(spec, conv_cfg, norm_cfg, deploy, init_cfg=init_cfg)

    def _build_branches(self) -> None:
        for kind in reversed(BRANCH_KINDS):
            made = [self._branch(kind) for _ in range(self.spec.count(kind))]
            whole = ModuleList(made) if kind.is_list else next(iter(made), None)
            # None stays a plain attribute: mmengine cannot print an empty module.
            setattr(self, kind.module, whole)

    def _branch(self, kind: BranchKind) -> nn.Module:
        if kind.kernel_size is None:
            return self._norm()
        branch = Sequential()
        branch.add_module('conv', self._conv(kind.kernel_size(self.spec), bias=False))
        branch.add_module('norm', self._norm())
        return branch

    def _conv(self, kernel_size: int, bias: bool) -> nn.Conv2d:
        """A convolution with its kernel at the centre of the unit's."""
        spec = self.spec
        return self._built(
            'conv_cfg',
            self.conv_cfg,
            lambda: build_conv_layer(
                self.conv_cfg,
                spec.in_channels,
                spec.out_channels,
                kernel_size=kernel_size,
                stride=spec.stride,
                padding=spec.dilation * (kernel_size // 2),
                dilation=spec.dilation if kernel_size > 1 else 1,
                groups=spec.groups,
                bias=bias,
            ),
        )

    def _norm(self) -> nn.Module:
        return self._built(
            'norm_cfg',
            self.norm_cfg,
            lambda: build_norm_layer(self.norm_cfg, self.spec.out_channels)[1],
        )

    def _squeeze_excite(self) -> nn.Module:
        cfg = self.spec.se_cfg
        if cfg is None:
            return nn.Identity()
        return self._built('se_cfg', cfg, lambda: SELayer(channels=self.spec.out_channels, **cfg))

    def _activation(self) -> nn.Module:
        cfg = self.spec.act_cfg
        if cfg is None:
            return nn.Identity()
        return self._built('act_cfg', cfg, lambda: build_activation_layer(dict(cfg)))

    def _built(self, argument: str, cfg: Any, build: Callable[[], Any]) -> Any:
        try:
            return build()
        except Exception as error:  # whatever another library's class raises
            reason = ' '.join(str(error).split())
            raise SpecError(
                f'{self.spec.name}: {argument}={cfg!r} cannot be built: {reason}'
            ) from error

    def branches(self) -> list[nn.Module]:
        """Branch modules in the order in which they are summed."""
        return [b for kind in reversed(BRANCH_KINDS) for b in self._of_kind(kind)]

    def _of_kind(self, kind: BranchKind) -> Any:
        found = getattr(self, kind.module)
        if kind.is_list:
            return found
        return () if found is None else (found,)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H / stride, W / stride)."""
        grid = None
        if self.quantizer is not None and self.quantizer.phase:
            # Once, where the unit is computed twice.
            if self.quantizer.follows:
                self.quantizer.observe(x)
            grid = self.quantizer.grid()
        if not (self.with_cp and torch.is_grad_enabled() and x.requires_grad):
            return self._forward(x, grid)
        if is_compiling():  # whose graph changes buffers at its end, once
            return checkpoint(self._forward, x, grid, use_reentrant=False)
        return checkpoint(
            self._forward,
            x,
            grid,
            use_reentrant=False,
            context_fn=lambda: (nullcontext(), shielded_stats(self)),
        )

    def _forward(self, x: Tensor, grid: Optional[InputGrid]) -> Tensor:
        if self.quantizer is not None and self.quantizer.phase:
            return self._quantized(x, self.quantizer, grid)
        if self._may_go_online(x):
            relu = self._is_plain_relu()
            out = online_sum(self.unit(relu), x, self.online_reparam)
            if out is not None:
                return out if relu else self.act(self.se(out))
        return self.act(self.se(self._linear(x)))

    def add_quantizer(self, **options: Any) -> bool:
        """Give the unit a quantizer, which is off.

        Args:
            options: as of :class:`~.quantization.Quantizer`.

        Returns:
            Whether it has one: a unit whose branches are more than convolutions and batch norms
            cannot.
        """
        if not self.deploy and not (self.unit().is_plain() and self._keeps_statistics()):
            return False
        like = next(self.parameters())
        made = UnitQuantizer(self.spec.groups, self.spec.taps, **options)
        self.quantizer = made.to(like.device).train(self.training)
        return True

    def _keeps_statistics(self) -> bool:
        return all(_parts(b).norm.running_mean is not None for b in self.branches())

    def _quantized(self, x: Tensor, quantizer: UnitQuantizer, grid: Optional[InputGrid]) -> Tensor:
        if self.deploy:
            # What was folded so is rounded already; a network that began folded trains so.
            weight = quantizer.weight_grid.round(self.branch_reparam.weight)
            bias = self.branch_reparam.bias
            out = self.branch_reparam._conv_forward(rounded_by(grid, x), weight, bias)
        elif self.training or torch.is_grad_enabled():
            relu = self._is_plain_relu()
            out = quantized_sum(self.unit(relu), x, quantizer, grid)
            if relu:
                return out
        else:
            out = self._as_it_ships(rounded_by(grid, x))
        return self.act(self.se(out))

    def _as_it_ships(self, x: Tensor) -> Tensor:
        """The fold of this very moment; where branches are asked for, they and the rounding."""
        kernel, bias = self.fold()
        by_branches = self.online_reparam is False
        if by_branches:
            plain = self._plain_fold()
            kernel, bias = kernel - plain[0], bias - plain[1]
        spec = self.spec
        out = F.conv2d(
            x,
            round_once(kernel, x.dtype).to(x.device),
            round_once(bias, x.dtype).to(x.device),
            spec.stride,
            spec.padding,
            spec.dilation,
            spec.groups,
        )
        return out + self._branch_sum(x) if by_branches else out

    def _may_go_online(self, x: Tensor) -> bool:
        if self.deploy or self.online_reparam is False:
            return False
        return not (self.training and self._small_inputs.applies_to(x, self.online_reparam))

    def _is_plain_relu(self) -> bool:
        """Whether a ReLU that nobody watches directly follows the sum."""
        return (
            type(self.act) is nn.ReLU
            and type(self.se) is nn.Identity
            and not has_hooks([self.act, self.se])
        )

    def _linear(self, x: Tensor) -> Tensor:
        return self.branch_reparam(x) if self.deploy else self._branch_sum(x)

    def unit(self, relu: bool = False) -> Unit:
        """The branches as the online methods see them."""
        return Unit(self.spec, tuple(map(_parts, self.branches())), relu)

    def _branch_sum(self, x: Tensor) -> Tensor:
        x = branch_layout(x)
        first, *rest = self.branches()
        out = self._branch_of(first, x)
        for branch in rest:
            out = out + self._branch_of(branch, x)
        return out

    def _branch_of(self, branch: Any, x: Tensor) -> Tensor:
        conv = _parts(branch).conv
        if conv is None or type(conv) not in PLAIN_CONVS:
            return branch(x)
        step = pixel_step(x, self.spec, conv.kernel_size[0])
        if step == 1 or not _may_be_sliced(branch):
            return branch(x)
        return branch.norm(F.conv2d(x[..., ::step, ::step], conv.weight, conv.bias))

    def fold(self) -> tuple[Tensor, Tensor]:
        """Kernel and bias of the equivalent convolution, in float64.

        Rounded where the unit trains so.

        Raises:
            FoldError: a conv or norm for which no exact fold exists.
        """
        kernel, bias = self._plain_fold()
        if self.quantizer is None or not self.quantizer.phase:
            return kernel, bias
        return self.quantizer.fold(kernel, bias)

    def _plain_fold(self) -> tuple[Tensor, Tensor]:
        branches = [_parts(b) for kind in BRANCH_KINDS for b in self._of_kind(kind)]
        return fold_branches(self.spec, branches)

    def switch_to_deploy(self) -> None:
        """Replace the branches by their fold, in place; idempotent."""
        if not self.deploy:
            self.install_fold(*self.fold())

    def install_fold(self, kernel: Tensor, bias: Tensor) -> None:
        """Replace the branches by a convolution with these weights.

        Args:
            kernel: (O, I / groups, k, k) float64, rounded here once.
            bias: (O,) float64.
        """
        conv = self._empty_fold()
        with torch.no_grad():
            conv.weight.copy_(round_once(kernel, conv.weight.dtype))
            conv.get_parameter('bias').copy_(round_once(bias, conv.weight.dtype))
        conv.train(self.training)
        for kind in BRANCH_KINDS:
            delattr(self, kind.module)
        self.branch_reparam = conv
        self.deploy = True

    def _empty_fold(self) -> nn.Conv2d:
        """The folded conv, built on 'meta' so that no RNG is drawn.

        It has the branches' device and dtype; frozen branches stay frozen.
        """
        with torch.device('meta'):
            conv = self._conv(self.spec.kernel_size, bias=True)
        weights = [p for b in self.branches() for p in b.parameters()]
        buffers = chain.from_iterable(b.buffers() for b in self.branches())
        # Without affine parameters a lone skip branch has buffers only.
        like = next(chain(weights, buffers))
        frozen = weights and not any(p.requires_grad for p in weights)
        conv.requires_grad_(not frozen)
        return conv.to_empty(device=like.device).to(like.dtype)

    def branch_twin(self) -> MobileOneBlock:
        """This unit in branch form without SE and activation, on 'meta'."""
        spec = replace(self.spec, se_cfg=None, act_cfg=None)
        with torch.device('meta'):
            return MobileOneBlock(spec, self.conv_cfg, self.norm_cfg)

    def _fold_on_load(self, state_dict, prefix, *_) -> None:
        fold_incoming(self, state_dict, prefix)


def _may_be_sliced(branch: Any) -> bool:
    """Whether a branch trains, by nothing but its convolution and norm."""
    modules = [branch, *branch]
    return (
        torch.is_grad_enabled()
        and not is_exporting()
        and len(modules) == 3
        and not has_hooks(modules)
        and not any('forward' in vars(m) for m in modules)
        and branch.conv.weight.requires_grad
    )


def _parts(branch: Any) -> Branch:
    if isinstance(branch, Sequential):
        return Branch(branch.conv, branch.norm)
    return Branch(None, branch)
