"""What ``benchmark-training`` can be asked for (no torch here)."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Optional

from ....errors import SpecError
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
#: Forms that round what they train, which are measured when they are named.
QUANTIZED_FORMS: dict[str, str] = {
    'w8': 'auto, weights rounded to 8 bits as they train (QuantizationHook)',
    'w8a8': 'the same, and activations',
}
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
_NAMED = {**FORMS, **QUANTIZED_FORMS}
_FORMS_HELP = '; '.join(f'{name}: {what}' for name, what in _NAMED.items())


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
        f'which are compared (default: all but {" and ".join(QUANTIZED_FORMS)}). {_FORMS_HELP}',
        allowed=_NAMED,
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
