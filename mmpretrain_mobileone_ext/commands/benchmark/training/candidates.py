"""What is measured and compared, all with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any, Optional

import torch
from mmpretrain.models.backbones.mobileone import MobileOne
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ....errors import SpecError
from ....models import ConfigurableMobileOne
from ....models.online import may_overrun
from ....models.quantization import add_quantizers, quantizers
from .options import FORMS, SWEEP_FORMS, BenchmarkOptions

#: Arguments of our backbone that make a form.
_OURS: dict[str, dict[str, Any]] = {
    'branches': dict(online_reparam=False),
    'auto': dict(online_reparam='auto'),
    'moments': dict(online_reparam=True),
    'memory': dict(online_reparam='memory'),
    'folded': dict(deploy=True),
    'w8': dict(online_reparam='auto'),
    'w8a8': dict(online_reparam='auto'),
}
#: Of the forms that round.
_ROUNDING: dict[str, dict[str, Any]] = {'w8': dict(), 'w8a8': dict(activations=8)}
#: Forms that compute what MMPretrain's branches compute while training.
MULTI_BRANCH = ('mmpretrain', 'branches', 'auto', 'moments', 'memory')
#: Networks of others.
_FOREIGN = ('mmpretrain', 'timm')
#: Added to a form's name where it runs under ``torch.compile``.
COMPILED = ' compiled'


@dataclass(frozen=True)
class Candidate:
    """One form of the network, in training mode.

    Attributes:
        form: a key of ``FORMS``, and ``COMPILED`` where torch.compile made it.
        net: the module whose parameters are trained.
        last_map: maps images (N, 3, S, S) to the last feature map.
    """

    form: str
    net: nn.Module
    last_map: Callable[[Tensor], Tensor]


def choose_forms(options: BenchmarkOptions) -> tuple[tuple[str, ...], Optional[str]]:
    """The forms to run, each before its compiled one, and a note on what is missing.

    Raises:
        SpecError: a form was named whose package is not installed.
    """
    default = SWEEP_FORMS if options.sweep else tuple(FORMS)
    forms, notes = tuple(dict.fromkeys(options.forms or default)), []
    if 'timm' in forms and not find_spec('timm'):
        if options.forms:
            raise SpecError("form 'timm' needs timm, which is not installed")
        forms = tuple(f for f in forms if f != 'timm')
        notes.append('timm is not installed, so its MobileOne is not in the table')
    ways = ('', COMPILED) if options.compile else ('',)
    chosen = [f'{form}{way}' for form in forms for way in ways]
    careful = [f for f in chosen if _needs_care(f, options.device, options.channels_last)]
    if careful:
        notes.append(
            f"{', '.join(careful)}: the stem's strided 1x1 convolution reads every second pixel "
            'without a stride, since with one it can end the process (oneDNN issue 6035)'
        )
    return tuple(chosen), '; '.join(notes) or None


def _needs_care(form: str, device: str, channels_last: bool) -> bool:
    """Whether some convolution may end the process, of a network that does not see to it."""
    kind = plain_form(form)
    return kind in _FOREIGN and device == 'cpu' and (channels_last or form != kind)


def _without_overruns(net: nn.Module) -> None:
    """Let convolutions that may write beyond their memory read every n-th pixel instead."""
    for conv in net.modules():
        if isinstance(conv, nn.Conv2d) and may_overrun(
            conv.kernel_size[0], conv.stride[0], conv.in_channels, conv.groups
        ):
            conv.register_forward_pre_hook(_Every(*conv.stride))
            conv.stride = (1, 1)


class _Every:
    """Of images (N, C, H, W), every ``rows``-th row and ``columns``-th column."""

    def __init__(self, rows: int, columns: int):
        self.rows, self.columns = rows, columns

    def __call__(self, conv: nn.Module, given: tuple[Tensor]) -> Tensor:
        return given[0][..., :: self.rows, :: self.columns]


def reference_state(arch: str, seed: int) -> dict[str, Tensor]:
    """Weights of MMPretrain's network with randomized norms, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MobileOne(arch)
        randomize_norms(net)
    return net.state_dict()


def build_candidate(
    form: str,
    arch: str,
    state: dict[str, Tensor],
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
    channels_last: bool = False,
) -> Candidate:
    """Build a form with the given weights, in training mode.

    Args:
        form: a key of ``FORMS``, and ``COMPILED`` for it under torch.compile; timm's network gets
            weights of its own, it has other names for them.
        arch: 's0' ... 's4'.
        state: as of :func:`reference_state`.
        device: where the weights are put.
        dtype: what they are cast to.
        channels_last: the layout of the weights.
    """
    kind = plain_form(form)
    if kind == 'timm':
        net: Any = _timm_net(arch)
    else:
        ours = kind != 'mmpretrain'
        net = ConfigurableMobileOne(arch=arch, **_OURS[kind]) if ours else MobileOne(arch)
        net.load_state_dict(state)
    net.to(device=device, dtype=dtype, memory_format=_layout(channels_last))
    net.train()  # MMPretrain's returns None
    if _needs_care(form, device, channels_last):
        _without_overruns(net)
    if kind in _ROUNDING:
        _round(net, **_ROUNDING[kind])
    run = net.forward_features if kind == 'timm' else net
    if form != kind:
        run = torch.compile(run, dynamic=False)

    def last_map(images: Tensor) -> Tensor:
        maps = run(images)
        return maps if isinstance(maps, Tensor) else maps[-1]

    return Candidate(form, net, last_map)


def _round(net: nn.Module, **options: Any) -> None:
    add_quantizers(net, **options)
    for quantizer in quantizers(net):
        quantizer.phase = quantizer.ON


def plain_form(form: str) -> str:
    """The key of ``FORMS`` in a form's name."""
    return form[: -len(COMPILED)] if form.endswith(COMPILED) else form


def _layout(channels_last: bool) -> torch.memory_format:
    return torch.channels_last if channels_last else torch.contiguous_format


def build_candidates(
    forms: Sequence[str], arch: str, device: str, channels_last: bool = False
) -> list[Candidate]:
    """All forms with the weights of seed 0, in float32."""
    state = reference_state(arch, seed=0)
    return [
        build_candidate(form, arch, state, device, channels_last=channels_last) for form in forms
    ]


def _timm_net(arch: str) -> Any:
    create = import_module('timm').create_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = create(f'mobileone_{arch}', num_classes=0)
        randomize_norms(net)
    return net


@torch.no_grad()
def randomize_norms(net: nn.Module) -> None:
    """Fresh norms would hide errors in their gradients and statistics."""
    norms = (m for m in net.modules() if isinstance(m, _BatchNorm))
    for norm in norms:
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -1, 1),
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.3, 3),
        ):
            if tensor is not None:
                tensor.uniform_(low, high)
