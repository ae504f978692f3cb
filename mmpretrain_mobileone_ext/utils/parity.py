"""Compare two forms of one network, with named tolerances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Optional, Union

import torch
from torch import Tensor

from ..errors import ParityError
from .checks import number


@dataclass(frozen=True)
class Tolerance:
    """What two forms may differ by.

    Attributes:
        name: quoted in messages and metadata.
        max_relative: bound of ||candidate - reference|| / ||reference||.
        min_agreement: least share of samples with the same top-1, 0 to 1; None where the outputs
            are no class scores.
    """

    name: str
    max_relative: float
    min_agreement: Optional[float] = None


#: Largest fp16 number, and from where on a number rounds to infinity.
FP16_MAX, FP16_OVERFLOWS = 65504, 65520


#: Where fp16 ends, in words.
FP16_ENDS = f'fp16 ends at {FP16_MAX}'


def reaches(value: float, verb: str = 'reaches', end: str = FP16_ENDS) -> str:
    """Why an operation cannot be in fp16, in words."""
    return f'{verb} {value:.1e}, {end}'


def drifts(relative: float) -> str:
    """Why an operation should not be in fp16, in words."""
    return f'drift: in fp16 it alone moves the output by {relative:.1e} (relative)'


#: Folding reorders sums: the bound is rounding error of the dtype, grown through some tens of
#: layers. Exports are judged on probabilities. Where activations are rounded to 8 bits, a number
#: between two steps may go to either, and so differ by 1 in 255 and not in the last bit.
TOLERANCES: Mapping[str, Tolerance] = {
    t.name: t
    for t in (
        Tolerance('fold-float64', 1e-10),
        Tolerance('fold-float32', 1e-4),
        Tolerance('fold-float16', 5e-2),
        Tolerance('fold-bfloat16', 2e-1),
        Tolerance('export-fp32', 1e-4, 1.0),
        Tolerance('export-fp32-rounded-activations', 1e-3, 0.998),
        Tolerance('export-fp16', 2e-2, 0.998),
        Tolerance('export-fp16-rounded-activations', 5e-2, 0.98),
    )
}


# Two fp32 forms are each off by a rounding error of their own: together by twice that of torch,
# where both add up alike. A file's sums have another order, which is given a factor of two.
_OWN_ROUNDING = 4


def widened(tolerance: Tolerance, rounding: Optional[float]) -> Tolerance:
    """The tolerance of an fp32 form of a network that amplifies rounding.

    Args:
        tolerance: for networks that do not.
        rounding: relative error of torch's own fp32 against fp64 on the same samples; None where it
            is not known.

    Returns:
        ``tolerance`` with a bound of at least four times ``rounding``, and of no more than an fp16
        file may differ by.
    """
    if rounding is None:
        return tolerance
    own = min(_OWN_ROUNDING * rounding, TOLERANCES['export-fp16'].max_relative)
    return replace(tolerance, max_relative=max(tolerance.max_relative, own))


@dataclass(frozen=True)
class Parity:
    """How far a candidate is from its reference.

    Attributes:
        max_abs: largest absolute difference of any value.
        relative: ||candidate - reference|| / ||reference|| (Frobenius).
        psnr_db: peak signal-to-noise ratio in dB, peak = max |reference|; inf for equal outputs.
        top1_agreement: share of samples with the same argmax, or None.
        num_samples: samples compared.
    """

    max_abs: float
    relative: float
    psnr_db: float
    top1_agreement: Optional[float]
    num_samples: int

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers, for metadata and JSON."""
        return asdict(self)

    def failure(self, tolerance: Tolerance) -> Optional[str]:
        """Why ``tolerance`` is not met, or None."""
        if not self.relative <= tolerance.max_relative:
            return (
                f'relative error {self.relative:.3g} exceeds {tolerance.max_relative:.3g} (max abs '
                f'{self.max_abs:.3g})'
            )
        floor, found = tolerance.min_agreement, self.top1_agreement
        # One sample may always differ: it can be a tie.
        if (
            floor is not None
            and found is not None
            and round((1 - found) * self.num_samples)
            > max(1, math.floor((1 - floor) * self.num_samples))
        ):
            return f'top-1 agreement {found:.4f} is below {floor:.4f}'
        return None

    def require(self, tolerance: Tolerance, what: str) -> None:
        """Raise unless ``tolerance`` is met.

        Raises:
            ParityError: states the figures, the bound and its name.
        """
        reason = self.failure(tolerance)
        if reason is not None:
            raise ParityError(
                f'{what}: {reason} on {self.num_samples} samples (tolerance {tolerance.name!r})'
            )


def fold_tolerance(dtype: torch.dtype, given: Union[float, Tolerance, None] = None) -> Tolerance:
    """The tolerance of a fold in ``dtype``, or the given one.

    Raises:
        SpecError: the given one is no finite number >= 0.
    """
    if isinstance(given, Tolerance):
        return given
    if given is not None:
        bound = float(number('tolerance', given))
        return Tolerance(f'{bound:g}, as given', bound)
    return TOLERANCES[f'fold-{str(dtype).split(".")[-1]}']


def compare(reference: Any, candidate: Any, *, classes: bool = False) -> Parity:
    """Compare two outputs of the same structure.

    Args:
        reference, candidate: tensors or nested sequences / dicts of them; the first dimension
            counts samples.
        classes: the single tensor is (N, num_classes) scores; also report top-1 agreement.

    Raises:
        ParityError: structures or shapes differ.
    """
    named = _tensors(reference), _tensors(candidate)
    shapes = [', '.join(f'{name}{tuple(t.shape)}' for name, t in found) for found in named]
    if shapes[0] != shapes[1] or not shapes[0]:
        raise ParityError(
            f'outputs differ in shape: {shapes[0] or "none"} against {shapes[1] or "none"}'
        )
    a, b = ([t for _, t in found] for found in named)
    left = torch.cat([t.reshape(-1) for t in a])
    right = torch.cat([t.reshape(-1) for t in b])
    if not bool(torch.isfinite(left).all()):
        raise ParityError('the reference output is not finite (nan or inf)')
    error = right - left
    norm = float(left.norm())
    relative = float(error.norm()) / norm if norm else float(error.norm())
    return Parity(
        max_abs=float(error.abs().max()),
        relative=relative,
        psnr_db=_psnr(left, error),
        top1_agreement=_agreement(a[0], b[0]) if classes else None,
        num_samples=a[0].shape[0] if a[0].dim() else 1,
    )


def _psnr(reference: Tensor, error: Tensor) -> float:
    mse = float(error.square().mean())
    peak = float(reference.abs().max())
    if mse == 0:
        return math.inf
    if not math.isfinite(mse) or peak == 0:
        return -math.inf
    return 10 * math.log10(peak**2 / mse)


def _agreement(reference: Tensor, candidate: Tensor) -> float:
    same = reference.argmax(1) == candidate.argmax(1)
    return float(same.double().mean())


def _tensors(output: Any, name: str = '') -> list[tuple[str, Tensor]]:
    """Float64 tensors in a fixed order, named by the keys that lead there."""
    if isinstance(output, Tensor):
        return [(name, output.detach().to('cpu', torch.float64))]
    if isinstance(output, Mapping):
        items = [(f'{name}.{k}', output[k]) for k in sorted(output, key=str)]
    elif isinstance(output, (list, tuple)):
        items = [(name, v) for v in output]
    else:
        return []
    return [t for key, value in items for t in _tensors(value, key)]


Outputs = Union[Tensor, Sequence[Tensor], Mapping[str, Tensor]]


def worst(reference: Outputs, candidate: Outputs, *, classes: bool = False) -> Parity:
    """Compare each output alone; every figure is that of the worst.

    Feature maps differ in magnitude by orders: taken together, the largest would hide an error in
    the others.

    Args:
        reference, candidate: a tensor, or the same outputs in a sequence or by name; the first
            dimension counts samples.
        classes: an output is (N, num_classes) scores.

    Raises:
        ParityError: outputs differ in number, name or shape.
    """
    wanted, found = _named(reference), _named(candidate)
    if not wanted or list(wanted) != list(found):
        raise ParityError(f'outputs differ: {_names(wanted)} against {_names(found)}')
    each = [compare(wanted[k], found[k], classes=classes) for k in wanted]
    agreements = [p.top1_agreement for p in each if p.top1_agreement is not None]
    return Parity(
        max_abs=_largest([p.max_abs for p in each]),
        relative=_largest([p.relative for p in each]),
        psnr_db=min(p.psnr_db for p in each),
        top1_agreement=min(agreements, default=None),
        num_samples=each[0].num_samples,
    )


def _named(outputs: Any) -> dict[str, Tensor]:
    if isinstance(outputs, Mapping):
        return {str(k): outputs[k] for k in sorted(outputs, key=str)}
    if isinstance(outputs, Tensor):
        return {'0': outputs}
    return {str(i): value for i, value in enumerate(outputs)}


def _names(outputs: Mapping[str, Tensor]) -> str:
    return ', '.join(outputs) or 'none'


def _largest(values: Sequence[float]) -> float:
    """The maximum; nan if any is."""
    return next((v for v in values if v != v), max(values))
