"""The configurable MobileOne backbone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Optional, Union

import torch
from mmengine.model import Sequential
from mmpretrain.models.backbones.base_backbone import BaseBackbone
from mmpretrain.registry import MODELS
from rich.table import Table
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import SpecError
from ..utils.checks import boolean
from ..utils.text import PlainConsole
from .block import MobileOneBlock
from .deploy import branches_only, switch_to_deploy
from .loading.weights import check_incoming
from .norms import shielded_stats
from .online import DEVICE_RULES, device_class, planned_method
from .quantization import quantizers
from .spec import build_network_spec, resolve_out_indices

_INIT_CFG = [
    dict(type='Kaiming', layer=['Conv2d']),
    dict(type='Constant', val=1, layer=['_BatchNorm']),
]


@MODELS.register_module()
class ConfigurableMobileOne(BaseBackbone):
    """MobileOne (arXiv 2206.04040) whose every choice is an argument.

    With defaults, state-dict keys and outputs are those of mmpretrain's ``MobileOne``, so
    OpenMMLab's checkpoints load as they are. "Per stage" means a list or tuple with one value a
    stage; a scalar serves all stages.

    Args:
        arch: ``'s0'`` ... ``'s4'`` or a dict with ``num_blocks`` and ``width_factor`` and,
            optionally, ``num_conv_branches``, ``num_se_blocks``, ``base_channels``,
            ``stem_channels``, ``stem_stride``, ``strides``. The arguments below win over it.
        num_conv_branches: k, conv-BN branches of each unit; scalar or per stage. 0 is allowed where
            a scale or skip branch remains.
        width_factor: channel multiplier alpha; scalar or per stage.
        num_blocks: depthwise + pointwise blocks; scalar or per stage. A sequence here or in
            ``width_factor`` sets the number of stages; it is 4 where all are scalars.
        base_channels: channels before ``width_factor``; scalar or per stage. Defaults to 64, 128,
            256, ...
        stem_channels: defaults to ``min(base, stage-1 channels)``.
        stem_stride: defaults to 2; 1 suits images of 28 to 64 px.
        stem_num_conv_branches: conv branches of the stem; 1 in the paper.
        strides: stride of each stage's first block; scalar or per stage. Defaults to 2.
        act_cfg: activation config; None is the identity; per stage allowed (the stem uses stage
            1's).
        se_cfg: None: no SE at all. ``'arch'``: where the architecture has it (S4), ratio 16. A
            dict: ``SELayer`` arguments (``ratio``, ...) and ``placement`` ('none', 'all' or n for a
            stage's last n blocks; per stage) and ``units`` ('both', 'depthwise', 'pointwise').
            Without ``placement`` SE goes where the architecture has it, or everywhere if it has
            none.
        branches: which of 'conv', 'scale' (1x1) and 'skip' (BN) exist.
        in_channels: channels of the input image.
        out_indices: stages whose output is returned, in stage order.
        frozen_stages: -1 none, 0 the stem, n the stem and n stages: no gradient, norms in eval
            mode.
        output_stride: keep the resolution from this stride on by dilating (a trous), as
            segmentation heads want; weights of the strided network load. Or give ``dilations``.
        dilations: dilation of the depthwise units; scalar or per stage.
        conv_cfg, norm_cfg: as in ``mmcv.cnn.ConvModule``. SyncBN folds too.
        norm_eval: keep all batch norms in eval mode while training.
        deploy: build the folded form. A branch checkpoint loaded into it is folded on the way in.
        with_cp: recompute units in backward to save memory.
        online_reparam: train each unit's branches as one convolution, which is exact. 'auto': where
            that is faster, by unit and input shape; 'memory': where it saves memory; True: wherever
            it is defined; False: run all branches.
        init_cfg: as in ``mmengine.model.BaseModule``.

    Raises:
        SpecError: naming the value, what is allowed and where it came from; mmpretrain's
            ``MobileOne`` raises AssertionError, TypeError, KeyError or ValueError.

    Example:
        >>> import torch
        >>> from mmpretrain_mobileone_ext import ConfigurableMobileOne
        >>> net = ConfigurableMobileOne(
        ...     arch='s1', num_conv_branches=2, se_cfg=None,
        ...     act_cfg=dict(type='ReLU6')).eval()
        >>> [tuple(out.shape) for out in net(torch.rand(1, 3, 224, 224))]
        [(1, 1280, 7, 7)]
    """

    def __init__(
        self,
        arch: Union[str, dict] = 's0',
        num_conv_branches: Union[int, Sequence[int], None] = None,
        width_factor: Union[float, Sequence[float], None] = None,
        num_blocks: Union[int, Sequence[int], None] = None,
        base_channels: Union[int, Sequence[int], None] = None,
        stem_channels: Optional[int] = None,
        stem_stride: Optional[int] = None,
        stem_num_conv_branches: int = 1,
        strides: Union[int, Sequence[int], None] = None,
        act_cfg: Any = dict(type='ReLU'),  # noqa: B006
        se_cfg: Union[str, dict, None] = 'arch',
        branches: Sequence[str] = ('conv', 'scale', 'skip'),
        in_channels: int = 3,
        out_indices: Union[int, Sequence[int]] = (-1,),
        frozen_stages: int = -1,
        output_stride: Optional[int] = None,
        dilations: Union[int, Sequence[int], None] = None,
        conv_cfg: Optional[dict] = None,
        norm_cfg: Optional[dict] = None,
        norm_eval: bool = False,
        deploy: bool = False,
        with_cp: bool = False,
        online_reparam: Union[str, bool] = 'auto',
        init_cfg: Any = _INIT_CFG,
    ):
        # Long by its signature alone: every choice, its default in sight.
        super().__init__(init_cfg)
        for name, value in (('norm_eval', norm_eval), ('deploy', deploy), ('with_cp', with_cp)):
            boolean(f'ConfigurableMobileOne: {name}', value)
        self.arch = arch
        self.spec = build_network_spec(
            arch,
            num_conv_branches=num_conv_branches,
            width_factor=width_factor,
            num_blocks=num_blocks,
            base_channels=base_channels,
            stem_channels=stem_channels,
            stem_stride=stem_stride,
            strides=strides,
            stem_num_conv_branches=stem_num_conv_branches,
            act_cfg=act_cfg,
            se_cfg=se_cfg,
            branches=branches,
            in_channels=in_channels,
            output_stride=output_stride,
            dilations=dilations,
        )
        self._add_units(
            conv_cfg=conv_cfg,
            norm_cfg=norm_cfg,
            deploy=deploy,
            with_cp=with_cp,
            online_reparam=online_reparam,
        )
        self.out_indices = resolve_out_indices(out_indices, len(self.stages))
        self.norm_eval = norm_eval
        self.frozen_stages = _check_frozen(frozen_stages, len(self.stages))
        self._freeze_stages()
        self._register_load_state_dict_pre_hook(self._check_on_load)

    def _add_units(self, **common: Any) -> None:
        """Build ``stage0`` (the stem), ``stage1``, ... as ``spec`` says."""
        self.stage0 = MobileOneBlock(self.spec.stem, **common)
        self.stages = []
        for index, units in enumerate(self.spec.stages, start=1):
            stage = Sequential(*(MobileOneBlock(u, **common) for u in units))
            self.add_module(f'stage{index}', stage)
            self.stages.append(f'stage{index}')

    @property
    def deploy(self) -> bool:
        """Whether every unit is in folded form."""
        return all(m.deploy for m in self.modules() if isinstance(m, MobileOneBlock))

    @property
    def out_channels(self) -> tuple[int, ...]:
        """Channels of each returned feature map."""
        return tuple(self.spec.stages[i][-1].out_channels for i in sorted(self.out_indices))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Map images (N, C, H, W) to one feature map per ``out_indices``."""
        x = self.stage0(x)
        outs = []
        for index, name in enumerate(self.stages):
            x = getattr(self, name)(x)
            if index in self.out_indices:
                outs.append(x)
        return tuple(outs)

    def train(self, mode: bool = True) -> ConfigurableMobileOne:
        """Set the mode; frozen stages and ``norm_eval`` norms stay in eval."""
        super().train(mode)
        self._freeze_stages()
        if mode and self.norm_eval:
            for module in self.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def switch_to_deploy(self) -> ConfigurableMobileOne:
        """Fold all units in place; returns self; idempotent."""
        return switch_to_deploy(self)

    def _freeze_stages(self) -> None:
        if self.frozen_stages < 0:
            return
        for name in ('stage0', *self.stages[: self.frozen_stages]):
            stage = getattr(self, name)
            stage.eval()
            stage.requires_grad_(False)
            for own in quantizers(stage):  # which know no more than what they see meanwhile
                own.train(self.training)

    def _check_on_load(self, state_dict, prefix, *_) -> None:
        check_incoming(self, state_dict, prefix)


def _check_frozen(frozen_stages: int, num_stages: int) -> int:
    if type(frozen_stages) is not int or not -1 <= frozen_stages <= num_stages:
        raise SpecError(
            f'frozen_stages={frozen_stages!r}; allowed are -1 '
            f'(none), 0 (the stem) to {num_stages} (all stages)'
        )
    return frozen_stages


def online_forms(model: nn.Module, x: Tensor, on: Optional[str] = None) -> list[dict[str, Any]]:
    """How every unit in branch form computes a batch like ``x``, and why.

    Modes of the modules count: call it on a model in training mode. Running statistics and
    gradients are left alone.

    Args:
        model: any module with units in it.
        x: images (N, C, H, W).
        on: a class of devices (``'cuda'``, ``'cpu'``, ...): what the rule would be there.

    Returns:
        One dict a unit: ``unit``, ``input`` (shape), ``form`` (the method,
        see ``models.online``), ``why``.

    Raises:
        SpecError: there is no rule for such devices.
    """
    if on is not None and on not in DEVICE_RULES:
        raise SpecError(f'on={on!r}; there are rules for {", ".join(map(repr, DEVICE_RULES))}')
    rows: list[dict[str, Any]] = []
    preferences = {
        b: b.online_reparam
        for b in model.modules()
        if isinstance(b, MobileOneBlock) and not b.deploy
    }

    def record(block: Any, inputs: tuple) -> None:
        (x,) = inputs
        choice = planned_method(block.unit(), x, preferences[block], block.training, on)
        rows.append(
            dict(unit=block.spec.name, input=tuple(x.shape), form=choice.method, why=choice.why)
        )

    handles = [block.register_forward_pre_hook(record) for block in preferences]
    try:
        with branches_only(model), shielded_stats(model), torch.no_grad():
            model(x)
    finally:
        for handle in handles:
            handle.remove()
    return rows


def print_online_forms(model: nn.Module, x: Tensor, on: Optional[str] = None) -> None:
    """Print :func:`online_forms` as a table, and where the rule behind ``'auto'`` is from."""
    rows, rule = online_forms(model, x, on), on or device_class(x)
    table = Table('unit', 'input', 'form', 'why')
    table.caption = f"'auto' on {rule}: {DEVICE_RULES[rule].source}"
    for row in rows:
        table.add_row(row['unit'], 'x'.join(map(str, row['input'])), row['form'], row['why'])
    PlainConsole().print(table)
