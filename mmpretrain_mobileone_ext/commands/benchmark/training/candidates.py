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
#: Forms of which every branch runs, whatever the shape.
_ALL_BRANCHES = ('mmpretrain', 'timm', 'branches')
#: What a sweep compares: a reference and a candidate.
SWEEP_FORMS = ('branches', 'auto')
#: Defaults of a sweep and of another run.
_DEFAULTS: dict[str, tuple[Any, Any]] = dict(
    arch=(tuple(PRESETS), ('s0',)),
    batch=((1, 8, 32), (32,)),
    size=((64, 128, 224), (224,)),
    check=(False, True),
)
#: Added to a form's name where it runs under ``torch.compile``.
COMPILED = ' compiled'
DEVICES = ('cpu', 'cuda')
_SHORT_DTYPES = {'bf16': 'bfloat16', 'fp16': 'float16'}
AMP_DTYPES = (*_SHORT_DTYPES.values(), *_SHORT_DTYPES)
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
    compile: bool = option(
        False,
        'run every form a second time under torch.compile (inductor, static shapes), in turns with '
        'the others; its first step, which compiles, has a column of its own',
        action='store_true',
    )
    channels_last: bool = option(False, 'images and weights in channels_last', action='store_true')
    tf32: Optional[bool] = option(
        None,
        'let CUDA round fp32 products and convolutions to TF32, or forbid it (default: as torch '
        'is set, which is stated)',
        action=argparse.BooleanOptionalAction,
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
        self._complete()
        for name in ('arch', 'batch', 'size', 'forms'):
            if getattr(self, name) == ():
                raise SpecError(f'{name} is empty')
        check_fields(self)
        if self.tf32 is not None and self.device != 'cuda':
            raise SpecError(f'tf32 is a setting of CUDA, and the device is {self.device!r}')
        if self.plot and self.plot.suffix not in PLOT_SUFFIXES:
            suffix = self.plot.suffix
            raise SpecError(f'suffix of the plot {suffix!r} is not one of {list(PLOT_SUFFIXES)}')
        for _, batch, size in self.cases():
            check_shape(batch, size)
        check_shape(self.check_batch, self.check_size, 'check_')
        if self.sweep:
            self._check_sweep()

    def _complete(self) -> None:
        """Defaults of the kind of run, and whole names."""
        for name, (in_sweep, otherwise) in _DEFAULTS.items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, in_sweep if self.sweep else otherwise)
        if self.amp in _SHORT_DTYPES:
            object.__setattr__(self, 'amp', _SHORT_DTYPES[self.amp])

    def _check_sweep(self) -> None:
        if len(set(self.forms or SWEEP_FORMS)) != 2:
            raise SpecError(f'a sweep compares two different forms, got {list(self.forms or ())}')
        if self.compile:
            raise SpecError('a sweep compares two forms as they are; leave out compile or sweep')

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


def check_shape(batch: int, size: int, prefix: str = '') -> None:
    """Refuse a batch of images with which the last norms cannot be trained.

    Raises:
        SpecError: it leaves one value a channel.
    """
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
    fatal = [form + COMPILED for form in _ALL_BRANCHES if options.device == 'cpu']
    left_out = [form for form in chosen if form in fatal]
    if left_out:
        notes.append(
            f'{", ".join(left_out)} left out: compiled for a CPU (torch 2.14.1), a stem that runs '
            "by branches, as MMPretrain's S0 has it, can end the process"
        )
    return tuple(f for f in chosen if f not in left_out), '; '.join(notes) or None


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
    run = net.forward_features if kind == 'timm' else net
    if form != kind:
        run = torch.compile(run, dynamic=False)

    def last_map(images: Tensor) -> Tensor:
        maps = run(images)
        return maps if isinstance(maps, Tensor) else maps[-1]

    return Candidate(form, net, last_map)


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
