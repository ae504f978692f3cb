"""What to measure, as validated frozen data (no torch here)."""
from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, Optional

from ..errors import SpecError
from ..spec import PRESETS

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
        self._settle('arch', SWEEP_ARCH, ('s0', ))
        self._settle('batch', SWEEP_BATCH, (32, ))
        self._settle('size', SWEEP_SIZE, (224, ))
        self._settle('check', False, True)
        for name in ('arch', 'batch', 'size', 'forms'):
            if getattr(self, name) == ():
                raise SpecError(f'{name} is empty')
        _check_known('arch', self.arch, PRESETS)
        _check_known('form', self.forms or (), FORMS)
        _check_known('device', (self.device, ), DEVICES)
        _check_known('amp', (self.amp, ) if self.amp else (), AMP_DTYPES)
        _check_known('suffix of the plot',
                     (self.plot.suffix, ) if self.plot else (), PLOT_SUFFIXES)
        for name, least in (('threads', 1), ('steps', 1), ('seeds', 1),
                            ('warmup', 0)):
            _check_least(name, getattr(self, name), least)
        for _, batch, size in self.cases():
            _check_shape(batch, size)
        _check_shape(self.check_batch, self.check_size, 'check_')
        if self.sweep and len(set(self.forms or SWEEP_FORMS)) != 2:
            raise SpecError('a sweep compares two different forms, got '
                            f'{list(self.forms or ())}')

    def _settle(self, name: str, in_sweep: Any, otherwise: Any) -> None:
        """Replace None by the default of the kind of run."""
        if getattr(self, name) is None:
            object.__setattr__(self, name,
                               in_sweep if self.sweep else otherwise)

    def steps_for(self, batch: int, size: int) -> int:
        """Timed steps of every form for a batch of such images."""
        if not self.sweep:
            return self.steps
        rounds = -(-FEW_PIXELS // (batch * size**2))
        return self.steps * min(rounds, MOST_ROUNDS)

    def cases(self) -> Iterator[tuple[str, int, int]]:
        """(arch, batch, size), small shapes of an architecture first."""
        shapes = sorted(
            product(self.batch or (), self.size or ()),
            key=lambda s: s[0] * s[1]**2)
        for arch in self.arch or ():
            for batch, size in shapes:
                yield arch, batch, size


def _check_known(what: str, given: Optional[Iterable[str]],
                 allowed: Iterable[str]) -> None:
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
            'take the variance; give a larger batch or size')
