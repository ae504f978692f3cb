"""Every kind of unit, by every online method, against its branches in float64.

The oracle is the unit's own branches in float64 on the same device; what a method may lose is what
the branches lose in the same arithmetic. So no bound depends on a processor or a library.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import Any, NamedTuple, Optional

import torch
import torch.nn.functional as F
from rich.table import Table
from torch import Tensor

from ....models import MobileOneBlock
from ....models.spec import UnitSpec
from ....utils.machine import tf32
from ....utils.text import figures_table, one_line
from ..training.candidates import randomize_norms

_RELU = dict(type='ReLU')


def _depthwise(channels: int, **given: Any) -> UnitSpec:
    return UnitSpec('unit', channels, channels, 3, groups=channels, act_cfg=_RELU, **given)


#: Numbers of channels are no multiples of what a kernel takes at a time.
UNITS: dict[str, UnitSpec] = {
    'depthwise, 4 convs': _depthwise(40, num_conv_branches=4),
    'depthwise, 1 conv': _depthwise(37, num_conv_branches=1),
    'depthwise, stride 2, 4 convs': _depthwise(40, stride=2, num_conv_branches=4),
    'depthwise, stride 2, 1 conv': _depthwise(37, stride=2, num_conv_branches=1),
    'pointwise, 4 convs, skip': UnitSpec('unit', 40, 40, 1, num_conv_branches=4, act_cfg=_RELU),
    'pointwise, 4 convs': UnitSpec('unit', 40, 56, 1, num_conv_branches=4, act_cfg=_RELU),
    'pointwise, 1 conv, skip': UnitSpec('unit', 40, 40, 1, num_conv_branches=1, act_cfg=_RELU),
    'pointwise, 1 conv, no ReLU': UnitSpec('unit', 40, 56, 1, num_conv_branches=1),
    'stem': UnitSpec('unit', 3, 48, 3, stride=2, num_conv_branches=1, act_cfg=_RELU),
}
METHODS: dict[str, Any] = {'moments': True, 'auto': 'auto', 'memory': 'memory'}
QUANTITIES = ('output', 'input gradient', 'parameter gradients', 'statistics')
#: (N, H, W): odd ones, and on a GPU those of a small training.
ODD, REAL = (3, 13, 11), (32, 28, 28)


class Precision(NamedTuple):
    """Arithmetic: autocast's type or None, and whether CUDA may round to TF32."""

    autocast: Optional[torch.dtype] = None
    tf32: bool = False


PRECISIONS: dict[str, Precision] = {
    'fp32': Precision(),
    'TF32': Precision(tf32=True),
    'bf16': Precision(torch.bfloat16),
    'fp16': Precision(torch.float16),
}
#: In float32, against branches in float32.
_TIMES = 3
#: Errors are compared as long as they scatter by so many standard deviations.
_DEVIATIONS = 3
#: Of the output, where it is too near to zero for its sign to be certain.
_UNCERTAIN = 0.05


def _normal(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=rng)


def _rectified(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """What a ReLU hands on; every eighth channel is active in one pixel of 1000."""
    x = _normal(shape, rng)
    rare = torch.rand(x[:, ::8].shape, generator=rng) < 1e-3
    x[:, ::8] = (x[:, ::8].abs() + 3) * rare
    x[0, :, 0, 0] = 4
    return x.relu_()


def _channels(shape: tuple[int, ...], low: float, high: float, rng: torch.Generator) -> Tensor:
    """A factor a channel, their logarithms uniform."""
    return low * (high / low) ** torch.rand((1, shape[1], 1, 1), generator=rng)


def _far(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Means of 1 to 1000 standard deviations, of both signs."""
    means = _channels(shape, 1, 1e3, rng)
    return _normal(shape, rng) + means * _normal(means.shape, rng).sign()


def _quiet(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Variances from 1 down to 1e-6."""
    return _normal(shape, rng) * _channels(shape, 1e-3, 1, rng) + 1


def _alike(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Channels that differ by a twentieth of what they share."""
    shared = _normal((shape[0], 1, *shape[2:]), rng)
    return shared + 0.05 * _normal(shape, rng)


def _smooth(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Neighbours are nearly the same, so taps of a kernel are."""
    coarse = _normal((*shape[:2], 3, 3), rng)
    return F.interpolate(coarse, shape[2:], mode='bicubic', align_corners=False) + 2


def _constant(shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """A third of the channels is constant, a third is zero."""
    x = _normal(shape, rng)
    x[:, ::3] = 3
    x[:, 1::3] = 0
    return x


INPUTS: dict[str, Callable[[tuple[int, ...], torch.Generator], Tensor]] = {
    'normal': _normal,
    'rectified': _rectified,
    'large means': _far,
    'small variances': _quiet,
    'correlated': _alike,
    'smooth': _smooth,
    'constant': _constant,
}


@dataclass(frozen=True)
class Finding:
    """One quantity of one unit, by one method.

    Attributes:
        unit, given, precision, method, quantity: keys of the tables above.
        shape: (N, C, H, W) of the input.
        error: |found - exact| / |exact|, norms over the whole quantity.
        branches: that of branches in the same arithmetic.
        bound: what is allowed.
        failure: what the method raised instead, in one line.
    """

    unit: str
    given: str
    shape: tuple[int, ...]
    precision: str
    method: str
    quantity: str
    error: float = math.nan
    branches: float = math.nan
    bound: float = math.nan
    failure: Optional[str] = None

    @property
    def passed(self) -> bool:
        # Where branches overflow there is nothing to compare with.
        return not self.failure and (self.error <= self.bound or not math.isfinite(self.branches))

    @property
    def ratio(self) -> Optional[float]:
        """Error by branches' error, None where the latter is none."""
        usable = math.isfinite(self.error) and math.isfinite(self.branches) and self.branches > 0
        return self.error / self.branches if usable else None

    @property
    def line(self) -> str:
        what = f'{self.unit}, {self.given} {self.shape}, {self.precision}, {self.method}'
        if self.failure:
            return f'{what}: {self.failure}'
        return (
            f'{what}: {self.quantity} is off by {self.error:.1e}, allowed are {self.bound:.1e} '
            f'(branches: {self.branches:.1e})'
        )

    def document(self) -> dict[str, Any]:
        """For JSON, which has no word for what is not finite."""
        numbers = {k: v for k, v in asdict(self).items() if isinstance(v, float)}
        finite = {k: v if math.isfinite(v) else None for k, v in numbers.items()}
        return {**asdict(self), **finite, 'passed': self.passed}


@dataclass(frozen=True)
class UnitCase:
    """A unit on one input in one arithmetic, with its exact outcome.

    Attributes:
        unit, given, precision: keys of the tables above.
        size: (N, H, W).
        device: where it is computed.
    """

    unit: str
    given: str
    precision: str
    size: tuple[int, int, int]
    device: str

    @property
    def shape(self) -> tuple[int, int, int, int]:
        n, h, w = self.size
        return n, UNITS[self.unit].in_channels, h, w

    def block(self, preference: Any = False) -> MobileOneBlock:
        """The unit in float32, in training mode; always the same weights."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            block = MobileOneBlock(UNITS[self.unit], online_reparam=preference)
            randomize_norms(block)
        return block.to(self.device)

    def images(self) -> Tensor:
        """As the unit before would hand them on: under autocast in autocast's type."""
        x = INPUTS[self.given](self.shape, torch.Generator().manual_seed(1))
        return x.to(self.device, PRECISIONS[self.precision].autocast or x.dtype)

    def findings(
        self, methods: dict[str, Any] = METHODS, wrapped: Callable[[Any], Any] = lambda block: block
    ) -> Iterator[Finding]:
        """One for each method and quantity; one for a method that raises.

        Args:
            methods: name to ``online_reparam``.
            wrapped: makes what is called of the unit that is compared.
        """
        exact = self.block().double()
        x = self.images()
        # Where a sign is uncertain, so is what a ReLU's gradient is: nothing is asked there.
        probe = self._probe(exact, x)
        wanted = outcome(exact, exact, x.double(), probe.double(), nullcontext())
        branches = self._errors(self.block(), x, probe, wanted)
        bounds = [self._bound(error) for error in branches]
        for method, preference in methods.items():
            known = Finding(self.unit, self.given, self.shape, self.precision, method, '')
            try:
                block = self.block(preference)
                errors = self._errors(block, x, probe, wanted, wrapped(block))
            except Exception as error:  # whatever a compiler or a driver raises
                yield replace(known, failure=one_line(error))
                continue
            for name, *values in zip(QUANTITIES, errors, branches, bounds):
                found, own, bound = values
                yield replace(known, quantity=name, error=found, branches=own, bound=bound)

    def _probe(self, exact: MobileOneBlock, x: Tensor) -> Tensor:
        """What outputs are weighted with; a sum over all pixels stays near one."""
        linear = MobileOneBlock(replace(exact.spec, act_cfg=None), online_reparam=False)
        linear.to(self.device).double().load_state_dict(exact.state_dict())
        with torch.no_grad():
            out = linear(x.double())
        weights = _normal(out.shape, torch.Generator().manual_seed(2)).to(self.device)
        certain = out.abs() > _UNCERTAIN * out.square().mean().sqrt()
        return weights * certain / math.sqrt(out[:, 0].numel())

    def _errors(
        self,
        block: MobileOneBlock,
        x: Tensor,
        probe: Tensor,
        wanted: list[Tensor],
        run: Optional[Callable[[Tensor], Tensor]] = None,
    ) -> list[float]:
        precision = PRECISIONS[self.precision]
        cast = precision.autocast
        around = nullcontext() if cast is None else torch.autocast(self.device, cast)
        with tf32(precision.tf32):
            found = outcome(block, block if run is None else run, x, probe, around)
        return [relative_error(f, w) for f, w in zip(found, wanted)]

    def _bound(self, branches: float) -> float:
        """From what branches lose.

        An error is a sum over channels, which are independent: that of C channels scatters by a
        share of 1 / sqrt(2 C). What branches compute without any rounding may still cost a fold and
        a product: so many roundings of float32, which add up as the square root of their number.
        """
        spec = UNITS[self.unit]
        floor = torch.finfo(torch.float32).eps * math.sqrt(spec.taps + 8)
        if PRECISIONS[self.precision].autocast is None:
            return _TIMES * branches + floor
        return (1 + _DEVIATIONS / math.sqrt(2 * spec.out_channels)) * branches + floor


def outcome(
    block: MobileOneBlock,
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    probe: Tensor,
    around: AbstractContextManager,
) -> list[Tensor]:
    """A training step's ``QUANTITIES``, each as one tensor.

    Args:
        block: whose parameters and statistics they are.
        run: computes it.
        x, probe: images, and what outputs are weighted with.
        around: autocast, or nothing.
    """
    x = x.clone().requires_grad_()
    with around:
        out = run(x)
    (out.to(probe.dtype) * probe).sum().backward()
    assert x.grad is not None
    gradients = [p.grad.flatten() for p in block.parameters() if p.grad is not None]
    statistics = [b.flatten() for b in block.buffers() if b.is_floating_point()]
    return [out.detach(), x.grad, torch.cat(gradients), torch.cat(statistics)]


def relative_error(found: Tensor, wanted: Tensor) -> float:
    """Norm of the difference by that of what is wanted, if it is not zero."""
    scale = wanted.norm()
    difference = (found.double() - wanted).norm()
    return float(difference / scale if scale > 0 else difference)


def unit_cases(device: str) -> list[UnitCase]:
    """All of them, those first that say most."""
    odd = [UnitCase(u, g, p, ODD, device) for p in PRECISIONS for g in INPUTS for u in UNITS]
    # Inputs that a deep network has; the shapes are slow on CPUs.
    real = [
        UnitCase(u, g, p, REAL, device)
        for p in PRECISIONS
        for g in ('rectified', 'large means')
        for u in UNITS
    ]
    cases = odd if device == 'cpu' else odd + real
    return [c for c in cases if device == 'cuda' or not PRECISIONS[c.precision].tf32]


def findings_table(findings: list[Finding]) -> Table:
    """One row an arithmetic and quantity: how errors stand to those of branches."""
    table = figures_table(
        ['arithmetic', 'quantity'],
        ['compared', 'failed', 'median', 'worst'],
        title='errors of online methods by those of branches, against branches in float64',
    )
    for (precision, quantity), group in _grouped(findings).items():
        table.add_row(precision, quantity, *summary(group))
    return table


def _grouped(findings: list[Finding]) -> dict[tuple[str, str], list[Finding]]:
    groups: dict[tuple[str, str], list[Finding]] = {}
    for finding in findings:
        name = finding.quantity or 'not computed'
        groups.setdefault((finding.precision, name), []).append(finding)
    return groups


def summary(group: list[Finding]) -> list[str]:
    """How many, how many failed, median and largest ratio of errors."""
    ratios = [f.ratio for f in group if f.ratio is not None]
    failed = sum(not f.passed for f in group)
    figures = [f'{median(ratios):.2f}', f'{max(ratios):.2f}'] if ratios else ['-', '-']
    return [str(len(group)), str(failed), *figures]
