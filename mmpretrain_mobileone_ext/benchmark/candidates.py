"""The forms that are compared, all with the same weights."""
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

from ..errors import SpecError
from ..models import ConfigurableMobileOne
from .options import FORMS, SWEEP_FORMS, BenchmarkOptions

#: Arguments of our backbone that make a form.
_OURS: dict[str, dict[str, Any]] = {
    'branches': dict(online_reparam=False),
    'auto': dict(online_reparam='auto'),
    'moments': dict(online_reparam=True),
    'memory': dict(online_reparam='memory'),
    'folded': dict(deploy=True),
}
#: Forms that compute what MMPretrain's branches compute while training.
MULTI_BRANCH = ('mmpretrain', 'branches', 'auto', 'moments', 'memory')


@dataclass(frozen=True)
class Candidate:
    """One form of the network, in training mode.

    Attributes:
        form: a key of ``options.FORMS``.
        net: the module whose parameters are trained.
        last_map: maps images (N, 3, S, S) to the last feature map.
    """
    form: str
    net: nn.Module
    last_map: Callable[[Tensor], Tensor]


def choose_forms(
        options: BenchmarkOptions) -> tuple[tuple[str, ...], Optional[str]]:
    """The forms to run, and a note on what is missing.

    Raises:
        SpecError: a form was named whose package is not installed.
    """
    default = SWEEP_FORMS if options.sweep else tuple(FORMS)
    forms = tuple(dict.fromkeys(options.forms or default))
    if 'timm' not in forms or find_spec('timm'):
        return forms, None
    if options.forms:
        raise SpecError("form 'timm' needs timm, which is not installed")
    return (tuple(f for f in forms if f != 'timm'),
            'timm is not installed, so its MobileOne is not in the table')


def reference_state(arch: str, seed: int) -> dict[str, Tensor]:
    """Weights of MMPretrain's network with randomized norms, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MobileOne(arch)
        _randomize_norms(net)
    return net.state_dict()


def build_candidate(form: str,
                    arch: str,
                    state: dict[str, Tensor],
                    device: str = 'cpu',
                    dtype: torch.dtype = torch.float32) -> Candidate:
    """Build a form with the given weights, in training mode.

    Args:
        form: a key of ``options.FORMS``; timm's network gets weights of
            its own, it has other names for them.
        arch: 's0' ... 's4'.
        state: as of :func:`reference_state`.
        device: where the weights are put.
        dtype: what they are cast to.
    """
    if form == 'timm':
        net = _timm_net(arch)
        last_map: Callable[[Tensor], Tensor] = net.forward_features
    else:
        net = _open_net(form, arch)
        net.load_state_dict(state)
        last_map = _last_of(net)
    net.to(device=device, dtype=dtype)
    net.train()  # MMPretrain's returns None
    return Candidate(form, net, last_map)


def build_candidates(forms: Sequence[str], arch: str,
                     device: str) -> list[Candidate]:
    """All forms with the weights of seed 0, in float32."""
    state = reference_state(arch, seed=0)
    return [build_candidate(form, arch, state, device) for form in forms]


def _open_net(form: str, arch: str) -> nn.Module:
    if form == 'mmpretrain':
        return MobileOne(arch)
    return ConfigurableMobileOne(arch=arch, **_OURS[form])


def _timm_net(arch: str) -> Any:
    create = import_module('timm').create_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = create(f'mobileone_{arch}', num_classes=0)
        _randomize_norms(net)
    return net


def _last_of(net: nn.Module) -> Callable[[Tensor], Tensor]:

    def last_map(images: Tensor) -> Tensor:
        return net(images)[-1]

    return last_map


@torch.no_grad()
def _randomize_norms(net: nn.Module) -> None:
    """Fresh norms would hide errors in their gradients and statistics."""
    norms = (m for m in net.modules() if isinstance(m, _BatchNorm))
    for norm in norms:
        for tensor, low, high in ((norm.weight, 0.5, 1.5), (norm.bias, -1, 1),
                                  (norm.running_mean, -1, 1),
                                  (norm.running_var, 0.3, 3)):
            if tensor is not None:
                tensor.uniform_(low, high)
