"""What is measured and compared, all with the same weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
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
#: What a sweep compares: a reference and a candidate.
SWEEP_FORMS = ('branches', 'auto')
SWEEP_ARCH = tuple(PRESETS)
SWEEP_BATCH = (1, 8, 32)
SWEEP_SIZE = (64, 128, 224)
DEVICES = ('cpu', 'cuda')
AMP_DTYPES = ('bfloat16', 'float16')
PLOT_SUFFIXES = ('.png', '.svg', '.pdf')
#: The network shrinks images by this.
STRIDE = 32
#: In a sweep an input of fewer pixels takes proportionally more steps, up to
#: so many times as many: short steps scatter more.
FEW_PIXELS = 2**20
MOST_ROUNDS = 40


@dataclass(frozen=True)
class BenchmarkOptions:
    """Options of a run; None takes the default of the kind of run.

    Attributes:
        arch: 's0' ... 's4'; default s0, in a sweep all.
        batch: images a step; default 32, in a sweep 1, 8 and 32.
        size: height and width in pixels; default 224, in a sweep 64, 128
            and 224.
        threads: torch's threads inside an operation.
        amp: dtype of ``torch.autocast``, or None.
        device: 'cpu' or 'cuda'.
        steps: timed steps of every form; in a sweep small inputs take more.
        warmup: steps before them, after the first.
        forms: keys of ``FORMS``; default all, in a sweep branches and auto,
            of which the first is what the second is compared with.
        check: whether exactness is measured; default yes, in a sweep no.
        seeds: weights and images that exactness is measured on.
        check_batch, check_size: of those images. Large enough that every
            batch norm sees 16 values, small enough for fp64.
        sweep: compare two forms over a grid of shapes.
        json, plot: files to write, or None.

    Raises:
        SpecError: a value that cannot be run, in one line.
    """

    arch: Optional[tuple[str, ...]] = None
    batch: Optional[tuple[int, ...]] = None
    size: Optional[tuple[int, ...]] = None
    threads: int = 2
    amp: Optional[str] = None
    device: str = 'cpu'
    steps: int = 5
    warmup: int = 2
    forms: Optional[tuple[str, ...]] = None
    check: Optional[bool] = None
    seeds: int = 3
    check_batch: int = 4
    check_size: int = 64
    sweep: bool = False
    json: Optional[Path] = None
    plot: Optional[Path] = None

    def __post_init__(self):
        self._settle('arch', SWEEP_ARCH, ('s0',))
        self._settle('batch', SWEEP_BATCH, (32,))
        self._settle('size', SWEEP_SIZE, (224,))
        self._settle('check', False, True)
        for name in ('arch', 'batch', 'size', 'forms'):
            if getattr(self, name) == ():
                raise SpecError(f'{name} is empty')
        _check_known('arch', self.arch, PRESETS)
        _check_known('form', self.forms or (), FORMS)
        _check_known('device', (self.device,), DEVICES)
        _check_known('amp', (self.amp,) if self.amp else (), AMP_DTYPES)
        _check_known('suffix of the plot', (self.plot.suffix,) if self.plot else (), PLOT_SUFFIXES)
        for name, least in (('threads', 1), ('steps', 1), ('seeds', 1), ('warmup', 0)):
            _check_least(name, getattr(self, name), least)
        for _, batch, size in self.cases():
            _check_shape(batch, size)
        _check_shape(self.check_batch, self.check_size, 'check_')
        if self.sweep and len(set(self.forms or SWEEP_FORMS)) != 2:
            raise SpecError(f'a sweep compares two different forms, got {list(self.forms or ())}')

    def _settle(self, name: str, in_sweep: Any, otherwise: Any) -> None:
        """Replace None by the default of the kind of run."""
        if getattr(self, name) is None:
            object.__setattr__(self, name, in_sweep if self.sweep else otherwise)

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


def _check_known(what: str, given: Optional[Iterable[str]], allowed: Iterable[str]) -> None:
    for value in given or ():
        if value not in allowed:
            raise SpecError(f'{what} {value!r} is not one of {list(allowed)}')


def _check_least(name: str, value: int, least: int) -> None:
    if value < least:
        raise SpecError(f'{name}={value}; at least {least} is needed')


def _check_shape(batch: int, size: int, prefix: str = '') -> None:
    _check_least(f'{prefix}batch', batch, 1)
    _check_least(f'{prefix}size', size, 1)
    last = -(-size // STRIDE)
    if batch * last**2 < 2:
        raise SpecError(
            f'{prefix}batch={batch} and {prefix}size={size} leave one value '
            f'a channel at stride {STRIDE}, of which a batch norm cannot '
            'take the variance; give a larger batch or size'
        )


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


def build_candidates(forms: Sequence[str], arch: str, device: str) -> list[Candidate]:
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
        for tensor, low, high in (
            (norm.weight, 0.5, 1.5),
            (norm.bias, -1, 1),
            (norm.running_mean, -1, 1),
            (norm.running_var, 0.3, 3),
        ):
            if tensor is not None:
                tensor.uniform_(low, high)
