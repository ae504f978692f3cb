"""Parity of programs with several outputs."""
from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Union

from torch import Tensor

from ..errors import ParityError
from ..parity import Parity, compare

Outputs = Union[Tensor, Sequence[Tensor], Mapping[str, Tensor]]


def worst(reference: Outputs, candidate: Outputs, *,
          classes: bool = False) -> Parity:
    """Compare each output alone; every figure is that of the worst.

    Feature maps differ in magnitude by orders: taken together, the largest
    would hide an error in the others.

    Args:
        reference, candidate: a tensor, or the same outputs in a sequence or
            by name; the first dimension counts samples.
        classes: an output is (N, num_classes) scores.

    Raises:
        ParityError: outputs differ in number, name or shape.
    """
    wanted, found = _named(reference), _named(candidate)
    if not wanted or list(wanted) != list(found):
        raise ParityError(f'outputs differ: {_names(wanted)} against '
                          f'{_names(found)}')
    each = [compare(wanted[k], found[k], classes=classes) for k in wanted]
    agreements = [p.top1_agreement for p in each
                  if p.top1_agreement is not None]
    return Parity(
        max_abs=_largest([p.max_abs for p in each]),
        relative=_largest([p.relative for p in each]),
        psnr_db=min(p.psnr_db for p in each),
        top1_agreement=min(agreements, default=None),
        num_samples=each[0].num_samples)


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
