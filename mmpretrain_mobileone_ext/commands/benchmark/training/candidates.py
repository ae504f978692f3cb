"""What is measured and compared, all with the same weights."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from pathlib import Path
from typing import Any, Optional

import torch
from mmpretrain.models.backbones.mobileone import MobileOne
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ....errors import SpecError
from ....models import ConfigurableMobileOne
from ....models.spec import PRESETS
from ...cli import check_fields, option

#: Forms of one network, in the order in which they are shown.
FORMS: dict[str, str] = {
    'mmpretrain': "MMPretrain's own MobileOne",
    'timm': "timm's MobileOne",
    'branches': 'every branch is run (online_reparam=False)',
    'auto': 'an exact form per block and shape (online_reparam="auto")',
    'moments': 'batch moments, then one conv (online_reparam=True)',
    'memory': 'the exact form that keeps least (online_reparam="memory")',
    'folded': 'one conv a block, no norms: the floor (deploy=True)',
}
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
#: What a sweep compares: a reference and a candidate.
SWEEP_FORMS = ('branches', 'auto')
#: Defaults of a sweep and of another run.
_DEFAULTS: dict[str, tuple[Any, Any]] = dict(
    arch=(tuple(PRESETS), ('s0',)),
    batch=((1, 8, 32), (32,)),
    size=((64, 128, 224), (224,)),
    check=(False, True),
)
DEVICES = ('cpu', 'cuda')
AMP_DTYPES = ('bfloat16', 'float16')
PLOT_SUFFIXES = ('.png', '.svg', '.pdf')
#: The network shrinks images by this.
STRIDE = 32
#: In a sweep an input of fewer pixels takes proportionally more steps, up to so many times as many:
#: short steps scatter more.
FEW_PIXELS = 2**20
MOST_ROUNDS = 40
_SEVERAL: dict[str, Any] = dict(nargs='+', metavar='X')
_FORMS_HELP = '; '.join(f'{name}: {what}' for name, what in FORMS.items())


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of a run; None takes the default of the kind of run.

    Raises:
        SpecError: a value that cannot be run, in one line.
    """

    arch: Optional[tuple[str, ...]] = option(
        None, 's0 ... s4 (default: s0; in a sweep all)', allowed=PRESETS, **_SEVERAL
    )
    batch: Optional[tuple[int, ...]] = option(
        None, 'images a step (default: 32; in a sweep 1 8 32)', least=1, type=int, **_SEVERAL
    )
    size: Optional[tuple[int, ...]] = option(
        None, 'pixels (default: 224; in a sweep 64 128 224)', least=1, type=int, **_SEVERAL
    )
    forms: Optional[tuple[str, ...]] = option(
        None,
        f'which are compared (default: all). {_FORMS_HELP}',
        allowed=FORMS,
        called='form',
        **_SEVERAL,
    )
    threads: int = option(2, "torch's threads", least=1)
    steps: int = option(5, 'timed steps of each form; in a sweep small inputs take more', least=1)
    warmup: int = option(2, 'steps before them', least=0)
    seeds: int = option(3, 'weights that are checked', least=1)
    # Every batch norm sees 16 values, and fp64 is still quick.
    check_batch: int = option(4, 'images of the check', least=1)
    check_size: int = option(64, 'their pixels', least=1)
    amp: Optional[str] = option(
        None, f'autocast to {" or ".join(AMP_DTYPES)}', allowed=AMP_DTYPES, metavar='DTYPE'
    )
    device: str = option(
        'cpu', f'{" or ".join(DEVICES)} (default: cpu)', allowed=DEVICES, metavar='X'
    )
    check: Optional[bool] = option(
        None,
        'measure exactness (default: yes; in a sweep no)',
        action=argparse.BooleanOptionalAction,
    )
    sweep: bool = option(
        False,
        'compare two forms (default: branches auto) over architectures, batches and sizes',
        action='store_true',
    )
    json: Optional[Path] = option(  # noqa: RUF009
        None, 'write everything that was measured', type=Path, metavar='FILE'
    )
    plot: Optional[Path] = option(  # noqa: RUF009
        None, 'draw times and memory; in a sweep the ratios', type=Path, metavar='FILE.png'
    )

    def __post_init__(self):
        for name, (in_sweep, otherwise) in _DEFAULTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, in_sweep if self.sweep else otherwise)
        for name in ('arch', 'batch', 'size', 'forms'):
            if getattr(self, name) == ():
                raise SpecError(f'{name} is empty')
        check_fields(self)
        if self.plot and self.plot.suffix not in PLOT_SUFFIXES:
            suffix = self.plot.suffix
            raise SpecError(f'suffix of the plot {suffix!r} is not one of {list(PLOT_SUFFIXES)}')
        for _, batch, size in self.cases():
            _check_shape(batch, size)
        _check_shape(self.check_batch, self.check_size, 'check_')
        if self.sweep and len(set(self.forms or SWEEP_FORMS)) != 2:
            raise SpecError(f'a sweep compares two different forms, got {list(self.forms or ())}')

    def steps_for(self, batch: int, size: int) -> int:
        """Timed steps of every form for a batch of such images."""
        if not self.sweep:
            return self.steps
        rounds = -(-FEW_PIXELS // (batch * size**2))
        return self.steps * min(rounds, MOST_ROUNDS)

    def cases(self) -> Iterator[tuple[str, int, int]]:
        """(arch, batch, size), small shapes of an architecture first."""
        shapes = sorted(product(self.batch or (), self.size or ()), key=lambda s: s[0] * s[1] ** 2)
        for arch in self.arch or ():
            for batch, size in shapes:
                yield arch, batch, size


def _check_shape(batch: int, size: int, prefix: str = '') -> None:
    last = -(-size // STRIDE)
    if batch * last**2 < 2:
        raise SpecError(
            f'{prefix}batch={batch} and {prefix}size={size} leave one value a channel at stride '
            f'{STRIDE}, of which a batch norm cannot take the variance; give a larger batch or size'
        )


@dataclass(frozen=True)
class Candidate:
    """One form of the network, in training mode.

    Attributes:
        form: a key of ``FORMS``.
        net: the module whose parameters are trained.
        last_map: maps images (N, 3, S, S) to the last feature map.
    """

    form: str
    net: nn.Module
    last_map: Callable[[Tensor], Tensor]


def choose_forms(options: BenchmarkOptions) -> tuple[tuple[str, ...], Optional[str]]:
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
    return (
        tuple(f for f in forms if f != 'timm'),
        'timm is not installed, so its MobileOne is not in the table',
    )


def reference_state(arch: str, seed: int) -> dict[str, Tensor]:
    """Weights of MMPretrain's network with randomized norms, float32."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        net = MobileOne(arch)
        _randomize_norms(net)
    return net.state_dict()


def build_candidate(
    form: str,
    arch: str,
    state: dict[str, Tensor],
    device: str = 'cpu',
    dtype: torch.dtype = torch.float32,
) -> Candidate:
    """Build a form with the given weights, in training mode.

    Args:
        form: a key of ``FORMS``; timm's network gets weights of its own, it has other names for
            them.
        arch: 's0' ... 's4'.
        state: as of :func:`reference_state`.
        device: where the weights are put.
        dtype: what they are cast to.
    """
    if form == 'timm':
        net: Any = _timm_net(arch)
        last_map = net.forward_features
    else:
        ours = form != 'mmpretrain'
        net = ConfigurableMobileOne(arch=arch, **_OURS[form]) if ours else MobileOne(arch)
        net.load_state_dict(state)

        def last_map(images: Tensor) -> Tensor:
            return net(images)[-1]

    net.to(device=device, dtype=dtype)
    net.train()  # MMPretrain's returns None
    return Candidate(form, net, last_map)


def build_candidates(forms: Sequence[str], arch: str, device: str) -> list[Candidate]:
    """All forms with the weights of seed 0, in float32."""
    state = reference_state(arch, seed=0)
    return [build_candidate(form, arch, state, device) for form in forms]


def _timm_net(arch: str) -> Any:
    create = import_module('timm').create_model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        net = create(f'mobileone_{arch}', num_classes=0)
        _randomize_norms(net)
    return net


@torch.no_grad()
def _randomize_norms(net: nn.Module) -> None:
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
